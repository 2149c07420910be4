"""Fetching: levels, names, several at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accel.core import paths
from accel.core.content import blockstore, getting, importer, materialise, verify
from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid
from accel.core.content.collect import collect
from accel.core.content.getting import Fetched, Wish
from accel.core.content.levels import Levels
from accel.core.content.settings import Settings
from accel.core.content.sources import SourceError
from accel.core.errors import AccelError, InputError, TransferError, UnavailableError
from tests.core.content.helpers import OFFLINE, Blocks, fetch, flip, near, pinned, random_file, tree
from tests.gateway import Gateway

MIB = 1 << 20


def test_from_a_gateway(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    with Gateway(blocks) as gateway:
        done = fetch(root, gateway)
        assert tree(done.path) == tree(source)
        assert done.level == "gateway"
        assert done.dropped == []
        assert sum(s["blocks"] for s in done.sources) == len({cid for cid, _ in blocks})
        asked = gateway.requests
        again = fetch(root, gateway)
        assert again.level == "local"
        assert gateway.requests == asked
    assert verify.verify(OFFLINE).sound


def test_collecting_while_fetching(content: tuple[Path, Cid, Blocks]) -> None:
    _, root, blocks = content
    stop = threading.Event()
    errors: list[BaseException] = []

    def gather() -> None:
        while not stop.wait(0.01):
            try:
                with Store() as store:
                    collect(store)
            except BaseException as error:
                errors.append(error)
                return

    with Gateway(blocks, delay=0.05) as gateway:
        thread = threading.Thread(target=gather)
        thread.start()
        try:
            done = fetch(root, gateway)
            assert set(gateway.asked.values()) == {1}
        finally:
            stop.set()
            thread.join()
    assert not errors
    assert done.level == "gateway"


def test_two_that_fetch_the_same_do_not_get_it_twice(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    results: list[Fetched] = []
    with Gateway(blocks, delay=0.05) as gateway:
        threads = [threading.Thread(target=lambda: results.append(fetch(root, gateway))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(gateway.asked.values()) == {1}
    assert [tree(done.path) == tree(source) for done in results] == [True, True]


def test_a_model_by_its_cid(content: tuple[Path, Cid, Blocks], monkeypatch: pytest.MonkeyPatch) -> None:
    source, root, blocks = content
    with Gateway(blocks) as gateway:
        monkeypatch.setenv("IPFS_ACCELERATE_IPFS_GATEWAY", gateway.url)
        monkeypatch.setenv("IPFS_ACCELERATE_IPFS_LOCAL_NODE", "null")
        assert tree(materialise(str(root))) == tree(source)
    assert tree(materialise(str(root), offline=True)) == tree(source)


def test_offline_asks_nobody(content: tuple[Path, Cid, Blocks]) -> None:
    _, root, blocks = content
    with Gateway(blocks) as gateway:
        alone = Settings((gateway.url,), None, 5.0, 4, offline=True)
        with pytest.raises(TransferError, match="not in the local store"):
            getting.fetch(Wish(str(root)), alone)
        assert gateway.requests == 0


def test_names(content: tuple[Path, Cid, Blocks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root, _ = content
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="neither a content id nor a name"):
        getting.find("bert-base")
    pinned(source)
    assert getting.find(str(source))[0] == root
    with pytest.raises(UnavailableError, match="--frozen"):
        getting.find(str(source), frozen=True)


@pytest.mark.parametrize("make", [lambda: 0, lambda: -1], ids=["again", "never"])
def test_progress_adds_up(content: tuple[Path, Cid, Blocks], make: Callable[[], int]) -> None:
    _, root, blocks = content
    totals: list[int] = []
    done: list[float] = []
    with Gateway(blocks) as gateway:
        result = getting.fetch(Wish(str(root)), near(gateway), totals.append, done.append)
    assert totals == [result.size_bytes]
    assert sum(done) >= result.size_bytes


def test_errors_know_their_exit_status(content: tuple[Path, Cid, Blocks]) -> None:
    with pytest.raises(AccelError) as caught:
        getting.fetch(Wish(str(content[1])), OFFLINE)
    assert caught.value.exit_code == 5


class TestTheNearestLevelFirst:
    """Memory before the disk, the disk before the network."""

    def test_a_node_in_memory_is_not_read_again(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        assert pinned(source) == root
        block = dict(blocks)[root]
        with Store() as store:
            assert store.get(root) == block
            for path in (*store.packs.iterdir(), *store.files.iterdir()):
                path.unlink()
            for handle in store._handles.values():
                os.ftruncate(os.open(f"/proc/self/fd/{handle}", os.O_RDWR), 0)
            assert store.get(root) == block
            leaf = next(cid for cid, data in blocks if cid.is_raw and len(data) == MIB)
            assert store.get(leaf) is None
        with Store() as store:
            assert store.get(root) is None

    def test_memory_holds_good_blocks_alone(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, _ = content
        pinned(source)
        for pack in (paths.home() / "content" / "packs").iterdir():
            for offset in range(60, pack.stat().st_size, 20):
                flip(pack, offset)
        with Store() as store:
            assert store.get(root) is None
            assert store.get(root) is None
            assert root.digest in store.damaged

    def test_memory_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blockstore, "_MEMORY_BYTES", 10_000)
        folder = tmp_path / "many"
        for number in range(100):
            random_file(folder / f"{number:03}" / "file", 10, number)
        root = pinned(folder)
        with Store() as store:
            nodes = [cid for cid in store.index.cids() if not cid.is_raw]
            assert len(nodes) == 101
            for cid in (root, *nodes):
                assert store.get(cid) is not None
            assert 0 < store._memory_bytes <= 10_000
            assert store._memory_bytes == sum(len(data) for data in store._memory.values())

    def test_what_is_here_is_asked_of_nobody(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        pinned(source)
        with Gateway(blocks) as gateway:
            done = fetch(root, gateway)
            assert (done.level, done.sources, gateway.requests) == ("local", [], 0)

    def test_what_is_here_in_part_is_completed(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        here = {importer.cid_of(source / name) for name in ("config.json", "tokenizer")}
        pinned(source / "tokenizer")
        pinned(source / "config.json")
        with Gateway(blocks) as gateway:
            done = fetch(root, gateway)
            assert done.level == "gateway"
            assert not {str(cid) for cid in here} & set(gateway.asked)
        assert tree(done.path) == tree(source)

    def test_the_levels_are_asked_in_their_order(
        self, content: tuple[Path, Cid, Blocks], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A node has half of the blocks, another store a quarter, a gateway all: each serves what those before lack."""
        _, root, blocks = content
        raw = [cid for cid, _ in blocks if cid.is_raw]
        held = {"kubo": set(raw[::2]), "store": set(raw[1::4]), "gateway": {cid for cid, _ in blocks}}
        asked: list[tuple[str, Cid]] = []
        data = dict(blocks)

        class Shelf:
            def __init__(self, level: str) -> None:
                self.name = self.level = level

            def get(self, cid: Cid, tell: Callable[[int], None]) -> bytes:
                asked.append((self.level, cid))
                if cid not in held[self.level]:
                    raise SourceError("missing", "not here")
                return data[cid]

            def stream(self, cid: Cid) -> None:
                return

            def close(self) -> None:
                pass

        def each(self: Levels, root: Cid) -> Iterator[list[Shelf]]:
            return iter([[self._level("kubo", lambda: [Shelf("kubo")])[0]], [Shelf("store")], [Shelf("gateway")]])  # type: ignore[list-item]

        monkeypatch.setattr(Levels, "each", each)
        done = getting.fetch(Wish(str(root)), Settings())
        served = {s["name"]: s["blocks"] for s in done.sources}
        assert served["kubo"] == len(held["kubo"])
        assert served["store"] == len(held["store"])
        assert served["gateway"] == len(data) - served["kubo"] - served["store"]
        assert done.level == "gateway"
        for cid in data:
            levels = [level for level, one in asked if one == cid]
            assert levels == ["kubo", "store", "gateway"][: len(levels)]
