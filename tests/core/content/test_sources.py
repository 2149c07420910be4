"""Fetching from sources that are good, bad and worse."""

from __future__ import annotations

import os
import random
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from accel.core import paths
from accel.core.content import getting, verify
from accel.core.content.cid import Cid
from accel.core.content.getting import Wish
from accel.core.content.providers import Scores
from accel.core.content.settings import Settings
from accel.core.errors import InputError, TransferError
from tests.core.content.helpers import OFFLINE, Blocks, all_blocks, fetch, near, random_file, tree
from tests.gateway import Gateway

MIB = 1 << 20


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
        def _answer(self, *arguments: object) -> None:
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


def test_parallel_requests_bound_what_is_asked_at_once(content: tuple[Path, Cid, Blocks]) -> None:
    _, root, blocks = content

    class Counting(Gateway):
        now = most = 0
        lock = threading.Lock()

        def _answer(self, *arguments: object) -> None:
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
        getting.fetch(Wish(str(root)), near(*gateways, parallel=2))
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
