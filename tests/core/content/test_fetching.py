"""Fetching from sources that are good, bad and worse."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from accel.core import paths
from accel.core.content import getting, materialise, pinning, verify
from accel.core.content.cid import Cid, of
from accel.core.content.collect import collect
from accel.core.content.getting import Fetched, Wish
from accel.core.content.providers import Scores
from accel.core.content.settings import Settings
from accel.core.errors import AccelError, IncompatibleError, InputError, TransferError, UnavailableError
from tests.core.content.helpers import OFFLINE, all_blocks, flip, model, pinned, random_file, tree
from tests.gateway import Gateway

MIB = 1 << 20
Blocks = list[tuple[Cid, bytes]]


@pytest.fixture
def content(tmp_path: Path) -> tuple[Path, Cid, Blocks]:
    source = model(tmp_path / "source", weights=4_500_000)
    root, blocks = all_blocks(source)
    return source, root, blocks


def settings(*gateways: Gateway, timeout: float = 5.0, parallel: int = 4) -> Settings:
    return Settings(tuple(g.url for g in gateways), None, timeout, parallel)


def fetch(cid: Cid, *gateways: Gateway, timeout: float = 5.0, **wish: object) -> Fetched:
    return getting.fetch(Wish(str(cid), **wish), settings(*gateways, timeout=timeout))  # type: ignore[arg-type]


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


def test_two_gateways_share_the_work(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    with Gateway(blocks, delay=0.02) as one, Gateway(blocks, delay=0.02) as two:
        done = fetch(root, one, two)
        assert tree(done.path) == tree(source)
        assert len(done.sources) == 2
        assert one.requests + two.requests <= len(blocks) + 2


@pytest.mark.parametrize(
    ("behaviour", "word"),
    [
        ("lie", "wrong bytes"),
        ("truncate", "cut short"),
        ("html", "text/html"),
        ("close", "cut short"),
        ("redirect", "not HTTPS"),
        ("huge", "for one block"),
        ("stall", "silent|in time|slow"),
        ("drip", "bytes per second|slow"),
    ],
)
def test_a_bad_gateway_is_dropped_and_named(content: tuple[Path, Cid, Blocks], behaviour: str, word: str) -> None:
    import re

    source, root, blocks = content
    with Gateway(blocks, behaviour, after=1) as bad, Gateway(blocks, delay=0.01) as good:
        done = fetch(root, bad, good, timeout=1.5)
        assert tree(done.path) == tree(source)
        assert [d["name"] for d in done.dropped] == [bad.url], done.dropped
        assert re.search(word, done.dropped[0]["reason"]), done.dropped
    assert verify.verify(OFFLINE).sound


@pytest.mark.parametrize(
    "behaviour", ["lie", "truncate", "html", "missing", "close", "redirect", "huge", "stall", "drip", "busy"]
)
def test_bad_gateways_alone_give_a_clear_error_and_no_file(
    content: tuple[Path, Cid, Blocks], tmp_path: Path, behaviour: str
) -> None:
    _, root, blocks = content
    with Gateway(blocks, behaviour) as bad, pytest.raises(TransferError, match="no source has the block") as caught:
        fetch(root, bad, timeout=0.7, output=tmp_path / "out")
    assert bad.url in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_gateway_that_is_not_there(content: tuple[Path, Cid, Blocks]) -> None:
    _, root, _ = content
    gone = Settings(("http://127.0.0.1:1",), None, 2.0, 4)
    with pytest.raises(TransferError, match="cannot be reached"):
        getting.fetch(Wish(str(root)), gone)


def test_a_gateway_elsewhere_must_speak_https(content: tuple[Path, Cid, Blocks]) -> None:
    with pytest.raises(InputError, match="HTTPS"):
        getting.fetch(Wish(str(content[1])), Settings(("http://example.org",), None, 2.0, 4))


def test_busy_gateways_are_waited_for(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content

    class Busy(Gateway):
        def _answer(self, *arguments: object) -> None:  # type: ignore[override]
            self.behaviour = "busy" if self.requests == 2 else "good"
            super()._answer(*arguments)  # type: ignore[arg-type]

    with Busy(blocks) as gateway:
        assert tree(fetch(root, gateway).path) == tree(source)


def test_each_has_a_part(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    with Gateway(blocks[::2]) as one, Gateway(blocks[1::2]) as two:
        done = fetch(root, one, two)
        assert tree(done.path) == tree(source)
        assert len(done.sources) == 2


def test_a_gateway_of_car_streams_alone(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    with Gateway(blocks, "car-only") as gateway:
        assert tree(fetch(root, gateway).path) == tree(source)


class TestSmallContent:
    """Content of many small files comes as one CAR stream."""

    @pytest.fixture
    def many(self, tmp_path: Path) -> tuple[Path, Cid, Blocks]:
        source = tmp_path / "many"
        for number in range(60):
            random_file(source / f"{number}.txt", 500 + number, number)
        return source, *all_blocks(source)

    def test_it_is_one_answer(self, many: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = many
        with Gateway(blocks) as gateway:
            assert tree(fetch(root, gateway).path) == tree(source)
            assert gateway.requests == 2

    @pytest.mark.parametrize("behaviour", ["half-car", "no-car", "strangers"])
    def test_what_the_stream_lacks_comes_block_by_block(self, many: tuple[Path, Cid, Blocks], behaviour: str) -> None:
        source, root, blocks = many
        with Gateway(blocks, behaviour) as gateway:
            done = fetch(root, gateway)
            assert tree(done.path) == tree(source)
            if behaviour != "no-car":
                assert done.dropped[0]["name"] == f"the CAR stream of {gateway.url}"
        assert verify.verify(OFFLINE).sound

    def test_a_lie_in_the_stream(self, many: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = many
        with Gateway(blocks, "lie", after=1) as bad, Gateway([b for b in blocks if b[0] != root]) as good:
            done = fetch(root, bad, good)
            assert tree(done.path) == tree(source)
            assert bad.url in {d["name"] for d in done.dropped}


def test_every_flipped_bit_of_an_answer_is_found(content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
    """One gateway flips one bit somewhere in each of its answers; the other one is right."""
    source, root, blocks = content
    generator = random.Random(8)

    class Flipping(Gateway):
        flipped = 0

        def _raw(self, handler: object, data: bytes, behaviour: str) -> None:
            if data:
                position = generator.randrange(len(data))
                changed = bytearray(data)
                changed[position] ^= 1 << generator.randrange(8)
                data = bytes(changed)
                self.flipped += 1
            super()._raw(handler, data, behaviour)

    found = 0
    for number in range(12):
        paths.home().joinpath("content", "providers.json").unlink(missing_ok=True)
        home = tmp_path / f"home-{number}"
        os.environ["IPFS_ACCELERATE_HOME"] = str(home)
        with Flipping(blocks) as bad, Gateway(blocks, delay=0.01) as good:
            done = fetch(root, bad, good)
            assert tree(done.path) == tree(source)
            assert verify.verify(OFFLINE).sound
            found += bad.flipped
            if bad.flipped:
                assert [d["name"] for d in done.dropped] == [bad.url]
    assert found >= 12


def test_a_source_that_lied_is_not_asked_next_time(content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
    _, root, blocks = content
    other = random_file(tmp_path / "other", 3 * MIB, 77)
    more_root, more = all_blocks(other)
    with Gateway([*blocks, *more], "lie", after=2) as bad, Gateway([*blocks, *more], delay=0.01) as good:
        fetch(root, bad, good)
        asked = bad.requests
        done = fetch(more_root, bad, good)
        assert bad.requests == asked
        assert any("not asked" in note for note in done.notes)


class TestResume:
    def test_no_verified_block_is_fetched_again(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        with Gateway(blocks) as first:
            first.behaviour, first.after = "close", 5
            with pytest.raises(TransferError):
                fetch(root, first)
            assert len(first.served) == 5
        with Gateway(blocks) as second:
            done = fetch(root, second)
            assert tree(done.path) == tree(source)
            assert not set(second.asked) & first.served

    def test_to_an_output_as_well(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        source, root, blocks = content
        out = tmp_path / "out"
        with Gateway(blocks) as first:
            first.behaviour, first.after = "close", 7
            with pytest.raises(TransferError):
                fetch(root, first, output=out)
            assert not out.exists()
            assert len(first.served) == 7
        with Gateway(blocks) as second:
            assert fetch(root, second, output=out).path == out
            assert tree(out) == tree(source)
            assert not set(second.asked) & first.served
        assert [path.name for path in tmp_path.glob(".*")] == []

    def test_a_damaged_remainder_is_not_believed(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        with Gateway(blocks) as first:
            first.behaviour, first.after = "close", 8
            with pytest.raises(TransferError):
                fetch(root, first)
        (part,) = (paths.home() / "content" / "files").glob("part-*")
        for offset in (10, MIB + 5, 2 * MIB + 7):
            flip(part, offset)
        with Gateway(blocks) as second:
            assert tree(fetch(root, second).path) == tree(source)


class TestOutput:
    def test_a_file(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "file", 3 * MIB)
        root, blocks = all_blocks(source)
        with Gateway(blocks) as gateway:
            done = fetch(root, gateway, output=tmp_path / "deep" / "er" / "copy.bin")
        assert done.path.read_bytes() == source.read_bytes()

    def test_twice_is_no_harm(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        source, root, blocks = content
        with Gateway(blocks) as gateway:
            fetch(root, gateway, output=tmp_path / "out")
            done = fetch(root, gateway, output=tmp_path / "out")
        assert done.level == "local"
        assert tree(tmp_path / "out") == tree(source)

    def test_other_files_stay(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        _, root, blocks = content
        out = tmp_path / "out"
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        with Gateway(blocks) as gateway:
            fetch(root, gateway, output=out)
            (out / "config.json").write_text("changed")
            with pytest.raises(InputError, match=r"config\.json is there already"):
                fetch(root, gateway, output=out)
        assert (out / "mine.txt").read_text() == "mine"
        assert (out / "config.json").read_text() == "changed"

    def test_nothing_is_written_through_a_link(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        _, root, blocks = content
        out, outside = tmp_path / "out", tmp_path / "outside"
        out.mkdir()
        outside.mkdir()
        (out / "tokenizer").symlink_to(outside)
        with Gateway(blocks) as gateway, pytest.raises((InputError, TransferError)):
            fetch(root, gateway, output=out)
        assert list(outside.iterdir()) == []

    def test_a_part(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        source, root, blocks = content
        with Gateway(blocks) as gateway:
            done = fetch(root, gateway, only=("*.json",), output=tmp_path / "out")
            assert done.size_bytes == (source / "config.json").stat().st_size
            leaves = {str(cid) for cid, data in blocks if len(data) > 100_000}
            assert not leaves & set(gateway.asked)
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["alias.json", "config.json"]

    def test_a_car(self, content: tuple[Path, Cid, Blocks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source, root, blocks = content
        with Gateway(blocks) as gateway:
            fetch(root, gateway, car=True, output=tmp_path / "model.car")
        monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "other"))
        pinning.import_car(tmp_path / "model.car", OFFLINE)
        assert tree(fetch(root).path) == tree(source)

    def test_too_large(self, content: tuple[Path, Cid, Blocks]) -> None:
        _, root, blocks = content
        with Gateway(blocks) as gateway:
            with pytest.raises(IncompatibleError, match="--max-size"):
                fetch(root, gateway, max_size=1_000_000)
            assert sum(gateway.asked.values()) <= 6

    def test_a_small_file_that_claims_to_be_smaller(self, tmp_path: Path) -> None:
        from accel.core.content.cid import DAG_PB
        from accel.core.content.dagpb import Link, encode
        from accel.core.content.unixfs import FOLDER_DATA

        big = random_file(tmp_path / "big", MIB).read_bytes()
        block = encode([Link(of(big), b"big", 10)], FOLDER_DATA)
        made = [(of(big), big), (of(block, DAG_PB), block)]
        with Gateway(made) as gateway, pytest.raises(IncompatibleError, match="--max-size"):
            fetch(of(block, DAG_PB), gateway, max_size=1000)


class TestRepair:
    def test_a_damaged_block_comes_from_the_network(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        pinned(source)
        (file,) = (paths.home() / "content" / "files").iterdir()
        flip(file, 3 * MIB + 99)
        assert not verify.verify(OFFLINE).sound
        with Gateway(blocks) as gateway:
            done = fetch(root, gateway)
            assert gateway.requests <= 3
        assert done.repaired == [f"{file} at byte {3 * MIB}"]
        assert tree(done.path) == tree(source)
        assert verify.verify(OFFLINE).sound

    def test_a_damaged_node_comes_from_the_network(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        pinned(source)
        for pack in (paths.home() / "content" / "packs").iterdir():
            for offset in range(100, pack.stat().st_size, 40):
                flip(pack, offset)
        with Gateway(blocks) as gateway:
            assert tree(fetch(root, gateway).path) == tree(source)
        assert verify.verify(OFFLINE).sound

    def test_verify_repairs(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        pinned(source)
        for path in (paths.home() / "content" / "files").iterdir():
            path.chmod(0o644)
            path.write_bytes(b"")
        for pack in (paths.home() / "content" / "packs").iterdir():
            pack.unlink()
        with Gateway(blocks) as gateway:
            found = verify.verify(settings(gateway), repair=True)
        assert found.sound, found.notes
        assert {fault.by for fault in found.faults} == {gateway.url}
        assert verify.verify(OFFLINE).sound
        assert tree(fetch(root).path) == tree(source)

    def test_every_flipped_bit_is_repaired(self, tmp_path: Path) -> None:
        source = model(tmp_path / "source", weights=2_200_000)
        root, blocks = all_blocks(source)
        pinned(source)
        generator = random.Random(15)
        content = paths.home() / "content"
        with Gateway(blocks) as gateway:
            near = settings(gateway)
            for _ in range(30):
                files = [p for name in ("packs", "files") for p in (content / name).iterdir() if p.stat().st_size]
                path = generator.choice(files)
                flip(path, generator.randrange(60, path.stat().st_size), generator.randrange(8))
                found = verify.verify(near, repair=True)
                assert found.sound, [vars(fault) for fault in found.faults]
            assert gateway.requests > 8
        assert verify.verify(OFFLINE).sound
        assert tree(fetch(root).path) == tree(source)

    def test_a_reference_that_changed(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "weights", 5 * MIB)
        data = source.read_bytes()
        root, blocks = all_blocks(source)
        pinned(source, reference=True)
        flip(source, 2 * MIB)
        with Gateway(blocks) as gateway:
            assert fetch(root, gateway).path.read_bytes() == data
            assert gateway.requests == 1


def test_collecting_while_fetching(content: tuple[Path, Cid, Blocks]) -> None:
    from accel.core.content.blockstore import Store

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


def test_a_path_below_a_cid(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    with Gateway(blocks) as gateway:
        wish = Wish(f"ipfs://{root}/tokenizer/vocab.txt")
        done = getting.fetch(wish, settings(gateway))
        assert done.path.read_bytes() == (source / "tokenizer" / "vocab.txt").read_bytes()
        with pytest.raises(InputError, match="no 'vocab'"):
            getting.fetch(Wish(f"{root}/tokenizer/vocab"), settings(gateway))


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
        result = getting.fetch(Wish(str(root)), settings(gateway), totals.append, done.append)
    assert totals == [result.size_bytes]
    assert sum(done) >= result.size_bytes


def test_parallel_requests_bound_what_is_asked_at_once(content: tuple[Path, Cid, Blocks]) -> None:
    _, root, blocks = content

    class Counting(Gateway):
        now = most = 0
        lock = threading.Lock()

        def _answer(self, *arguments: object) -> None:  # type: ignore[override]
            with self.lock:
                Counting.now += 1
                Counting.most = max(Counting.most, Counting.now)
            try:
                super()._answer(*arguments)  # type: ignore[arg-type]
            finally:
                with self.lock:
                    Counting.now -= 1

    with ExitStack() as stack:
        gateways = [stack.enter_context(Counting(blocks, delay=0.03)) for _ in range(3)]
        getting.fetch(Wish(str(root)), settings(*gateways, parallel=2))
    assert Counting.most <= 2


def test_scores_are_remembered(content: tuple[Path, Cid, Blocks]) -> None:
    _, root, blocks = content
    with Gateway(blocks, delay=0.05) as slow, Gateway(blocks) as quick:
        fetch(root, slow, quick)
        scores = Scores(paths.home() / "content" / "providers.json")
        slow_record, quick_record = scores.record(slow.url), scores.record(quick.url)
        assert slow_record.latency_s is not None and quick_record.latency_s is not None
        assert slow_record.latency_s > quick_record.latency_s
        assert quick_record.bandwidth and quick_record.successes > slow_record.successes


def test_errors_know_their_exit_status(content: tuple[Path, Cid, Blocks]) -> None:
    with pytest.raises(AccelError) as caught:
        getting.fetch(Wish(str(content[1])), OFFLINE)
    assert caught.value.exit_code == 5


def test_content_larger_than_the_disk_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    from accel.core.content.cid import DAG_PB
    from accel.core.content.dagpb import Link, encode
    from accel.core.content.unixfs import file_data

    leaf = b"x" * MIB
    count = 1000
    made = [(of(leaf), leaf)]
    link, size = Link(of(leaf), b"", MIB), MIB
    for _ in range(2):
        block = encode([link] * count, file_data([size] * count))
        made.append((of(block, DAG_PB), block))
        link, size = Link(of(block, DAG_PB), b"", size * count), size * count
    with Gateway(made) as gateway, pytest.raises(IncompatibleError, match="free space of the disk"):
        fetch(made[-1][0], gateway, output=tmp_path / "out")
    assert str(of(leaf)) not in gateway.asked
    assert not (tmp_path / "out").exists()


def test_a_store_of_a_third_party(
    content: tuple[Path, Cid, Blocks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that somebody installed; it offers the asynchronous contract and nothing else."""
    source, root, blocks = content
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for cid, data in blocks:
        (shelf / str(cid)).write_bytes(data)
    package = tmp_path / "site"
    (package / "accel_shelf-1.0.dist-info").mkdir(parents=True)
    (package / "accel_shelf-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: accel-shelf\nVersion: 1.0\n"
    )
    (package / "accel_shelf-1.0.dist-info" / "entry_points.txt").write_text(
        "[accel.storage]\nshelf = accel_shelf:Shelf\n"
    )
    (package / "accel_shelf.py").write_text(
        "from pathlib import Path\n"
        "from accel.core.contracts import StoragePlugin\n"
        "class Shelf(StoragePlugin):\n"
        "    name = 'shelf'\n"
        f"    folder = Path({str(shelf)!r})\n"
        "    async def store(self, data): raise NotImplementedError\n"
        "    async def retrieve(self, id): return (self.folder / id).read_bytes()\n"
        "    async def list_stored(self):\n"
        "        for path in self.folder.iterdir(): yield path.name\n"
    )
    monkeypatch.syspath_prepend(str(package))
    done = getting.fetch(Wish(str(root)), Settings((), None, 5.0, 4))
    assert done.level == "store"
    assert done.sources[0]["name"] == "shelf"
    assert tree(done.path) == tree(source)
