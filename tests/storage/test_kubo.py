"""Against real Kubo nodes on loopback."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.core import registry
from accel.core.content import getting, importer, pinning, verify
from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid, of, parse
from accel.core.content.getting import Wish
from accel.core.content.settings import Settings
from accel.core.content.transfer import write_car
from accel.core.content.unixfs import LEGACY
from accel.core.errors import TransferError, UnavailableError
from tests.core.content.helpers import OFFLINE, model, pinned, random_file, tree
from tests.kubo import Node, free_port

MIB = 1 << 20


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Two nodes that know each other: a network."""
    folder = tmp_path_factory.mktemp("kubo")
    with Node(folder / "one", routing="dht") as one, Node(folder / "two", routing="dht") as two:
        two.connect(one)
        yield one, two


@pytest.fixture
def one(pair: tuple[Node, Node]) -> Node:
    return pair[0]


@pytest.fixture
def two(pair: tuple[Node, Node]) -> Node:
    return pair[1]


def at(node: Node | None = None, gateway: str | None = None, timeout: float = 10.0) -> Settings:
    return Settings((gateway,) if gateway else (), node.api if node else None, timeout, 4)


def fetch(cid: Cid | str, settings: Settings, **wish: object) -> getting.Fetched:
    return getting.fetch(Wish(str(cid), **wish), settings)  # type: ignore[arg-type]


@pytest.fixture
def other_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "other home"))


def test_the_contract(one: Node) -> None:
    store = registry.store("kubo", address=one.api)
    data = b"a block for the node"
    cid = asyncio.run(store.store(data))
    assert cid == str(of(data))
    assert asyncio.run(store.retrieve(cid)) == data
    assert cid in one.run("pin", "ls", "-q")

    async def listed() -> list[str]:
        return [item async for item in store.list_stored()]

    assert cid in asyncio.run(listed())
    with pytest.raises(TransferError):
        asyncio.run(store.retrieve(str(of(b"what no node has"))))


def test_as_a_url_too(one: Node) -> None:
    store = registry.store("kubo", address=f"http://127.0.0.1:{one.api_port}")
    assert store.version() == "0.43.1"  # type: ignore[attr-defined]


def test_given_to_the_node_and_fetched_from_it(tmp_path: Path, one: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model(tmp_path / "model")
    done = pinning.pin(pinning.Request(str(source), to_kubo=True), at(one))
    assert done.pin.cid == one.only_hash(source)
    assert done.pin.cid in one.run("pin", "ls", "--type=recursive", "-q")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "other home"))
    fetched = fetch(done.pin.cid, at(one))
    assert fetched.level == "kubo"
    assert tree(fetched.path) == tree(source)
    assert one.api in fetched.sources[0]["name"]


def test_what_the_node_added_is_fetched(tmp_path: Path, one: Node) -> None:
    source = model(tmp_path / "model", seed=100)
    for number in range(40):
        random_file(source / f"file-{number}", 100 + number, number)
    cid = one.add(source)
    assert parse(cid) == importer.cid_of(source)
    fetched = fetch(cid, at(one))
    assert fetched.level == "kubo"
    assert tree(fetched.path) == tree(source)


def test_content_of_version_0(tmp_path: Path, one: Node) -> None:
    """As Kubo makes by default: leaves inside of nodes, names in base58."""
    source = model(tmp_path / "model", seed=120)
    cid = one.add(source, "--cid-version=0", "--raw-leaves=false", "--chunker=size-262144")
    assert cid.startswith("Qm")
    fetched = fetch(cid, at(one))
    assert tree(fetched.path) == tree(source)
    assert fetched.cid == str(parse(cid))


def test_through_its_gateway(tmp_path: Path, one: Node) -> None:
    source = model(tmp_path / "model", seed=200)
    cid = one.add(source)
    fetched = fetch(cid, at(gateway=one.gateway))
    assert fetched.level == "gateway"
    assert tree(fetched.path) == tree(source)


def test_the_other_node_finds_the_provider(tmp_path: Path, one: Node, two: Node) -> None:
    source = model(tmp_path / "model", seed=300)
    cid = one.add(source)
    fetched = fetch(cid, at(two))
    assert fetched.level == "provider"
    assert tree(fetched.path) == tree(source)
    identity = json.loads(one.run("id"))["ID"]
    assert any(identity in note for note in fetched.notes)


def test_through_the_other_nodes_gateway(tmp_path: Path, one: Node, two: Node) -> None:
    source = model(tmp_path / "model", seed=400)
    cid = one.add(source)
    fetched = fetch(cid, at(gateway=two.gateway))
    assert fetched.level == "gateway"
    assert tree(fetched.path) == tree(source)


def test_by_rpc_alone(tmp_path: Path) -> None:
    """A node whose gateway cannot be reached."""
    source = model(tmp_path / "model", seed=500)
    for number in range(40):
        random_file(source / f"file-{number}", 100 + number, number)
    node = Node(tmp_path / "node")
    node.configure("Addresses.Gateway", [])
    with node:
        cid = node.add(source)
        fetched = fetch(cid, at(node))
        assert fetched.level == "kubo"
        assert tree(fetched.path) == tree(source)


def test_car_files_both_ways(tmp_path: Path, one: Node, other_home: None) -> None:
    source = model(tmp_path / "model", seed=600)
    cid = one.add(source)
    (tmp_path / "theirs.car").write_bytes(b"")
    with (tmp_path / "theirs.car").open("wb") as out:
        import subprocess

        subprocess.run(
            [one.binary, "dag", "export", "--progress=false", cid],
            env={"IPFS_PATH": str(one.repository)},
            stdout=out,
            check=True,
        )
    (pin,) = pinning.import_car(tmp_path / "theirs.car", OFFLINE).pins
    assert pin.cid == cid
    assert verify.verify(OFFLINE).sound
    ours = pinned(model(tmp_path / "ours", seed=601))
    write_car(Store(), [ours], tmp_path / "ours.car")
    one.run("dag", "import", str(tmp_path / "ours.car"))
    assert str(ours) in one.run("pin", "ls", "--type=recursive", "-q")
    assert one.run("cat", f"{ours}/config.json") == '{"model_type": "bert"}'
    # the same blocks in the same order as Kubo writes them
    write_car(Store(), [parse(cid)], tmp_path / "again.car")
    assert (tmp_path / "again.car").read_bytes() == (tmp_path / "theirs.car").read_bytes()


def test_ten_thousand_files_from_the_node(tmp_path: Path, one: Node) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(10_000):
        (source / f"file-{number}").write_bytes(b"%d" % number)
    cid = one.add(source)
    fetched = fetch(cid, at(one))
    assert fetched.files == 10_000
    assert importer.cid_of(fetched.path) == parse(cid)


def test_the_legacy_profile(tmp_path: Path, one: Node, other_home: None) -> None:
    source = random_file(tmp_path / "weights", 3 * MIB, 9)
    cid = pinned(source, LEGACY)
    flags = ("--chunker=size-262144", "--max-file-links=174")
    assert str(cid) == one.only_hash(source, *flags)
    pinning.pin(pinning.Request(str(source), LEGACY, to_kubo=True), at(one))
    assert str(cid) in one.run("pin", "ls", "--type=recursive", "-q")


def test_the_node_stops_in_the_middle(tmp_path: Path) -> None:
    source = random_file(tmp_path / "weights", 60 * MIB, 10)
    node = Node(tmp_path / "node")
    with node:
        cid = node.add(source)
        done = 0.0

        def advance(count: float) -> None:
            nonlocal done
            done += count
            if done > 10 * MIB:
                node.kill()

        with pytest.raises(TransferError, match="no source has the block"):
            getting.fetch(Wish(cid), at(node, timeout=3.0), None, advance)
    assert verify.verify(OFFLINE).sound
    with node:
        fetched = fetch(cid, at(node))
        assert sum(s["bytes"] for s in fetched.sources) < 52 * MIB
        assert fetched.path.read_bytes() == source.read_bytes()


def test_what_each_level_keeps(tmp_path: Path, one: Node) -> None:
    pinned(model(tmp_path / "model", seed=700))
    rows = list(getting.storage_report(at(one)))
    assert {row["level"] for row in rows} == {"local", "kubo"}
    assert sum(row["bytes"] for row in rows if row["level"] == "local") > 3_000_000
    assert rows[-1]["blocks"] > 0
    assert {row["level"] for row in getting.storage_report(OFFLINE)} == {"local"}


def test_no_node(tmp_path: Path) -> None:
    nowhere = Settings((), f"/ip4/127.0.0.1/tcp/{free_port()}", 2.0, 4)
    with pytest.raises(TransferError, match="no source has the block"):
        fetch(of(b"nothing"), nowhere)
    with pytest.raises(UnavailableError, match="no Kubo node answers"):
        pinning.pin(pinning.Request(str(random_file(tmp_path / "f", 10)), to_kubo=True), nowhere)
    assert len(pinning.listing()) == 1


class Impostor:
    """Something that answers at a node's address."""

    def __init__(self, answer: bytes, status: int = 200) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

            def do_POST(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return f"/ip4/127.0.0.1/tcp/{self.server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_node_of_an_unexpected_version() -> None:
    with Impostor(json.dumps({"Version": "9.99.0-dev", "Commit": ""}).encode()) as address:
        store = registry.store("kubo", address=address)
        assert store.version() == "9.99.0-dev"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "status"), [(b"<html>", 200), (b"{}", 200), (b"[1]", 200), (b"no", 404), (b"no", 500), (b"", 403)]
)
def test_something_else_at_its_address(answer: bytes, status: int) -> None:
    with Impostor(answer, status) as address:
        settings = Settings((), address, 2.0, 4)
        with pytest.raises(TransferError, match="no source has the block"):
            fetch(of(b"nothing"), settings)
