"""SHA-256 of two pieces at once is the SHA-256 of each."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from accel.core.content import multibuffer
from accel.core.content.hashing import hash_spans, spans_of

GENERATOR = random.Random(4)
needs_pairs = pytest.mark.skipif(
    multibuffer.digest_pair is None, reason="no C compiler was there at installation, or the processor has no SHA"
)


def digest(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


@needs_pairs
@pytest.mark.parametrize(
    "length", [*range(130), 255, 256, 257, 1000, 4095, 4096, 65_535, 65_536, 65_599, 1_000_003, 1 << 20]
)
def test_a_pair_at_every_edge_of_the_padding(length: int) -> None:
    one, other = GENERATOR.randbytes(length), GENERATOR.randbytes(length)
    assert multibuffer.digest_pair is not None
    assert multibuffer.digest_pair(memoryview(one), memoryview(other)) == (digest(one), digest(other))


@needs_pairs
def test_pieces_that_start_anywhere_in_memory() -> None:
    data = memoryview(bytearray(GENERATOR.randbytes(20_000)))
    assert multibuffer.digest_pair is not None
    for start in range(33):
        one, other = data[start : start + 5001], data[start + 7003 : start + 12_004]
        assert multibuffer.digest_pair(one, other) == (digest(one), digest(other))


@needs_pairs
def test_the_lanes_do_not_mix() -> None:
    one, other = bytearray(8192), bytearray(8192)
    assert multibuffer.digest_pair is not None
    before = multibuffer.digest_pair(memoryview(one), memoryview(other))
    for position in (0, 63, 64, 4097, 8191):
        other[position] ^= 1
        after = multibuffer.digest_pair(memoryview(one), memoryview(other))
        assert after[0] == before[0]
        assert after[1] == digest(other) != before[1]


@needs_pairs
def test_different_lengths_are_refused() -> None:
    assert multibuffer.digest_pair is not None
    with pytest.raises(ValueError, match="different lengths"):
        multibuffer.digest_pair(memoryview(b"a"), memoryview(b"ab"))
    with pytest.raises(TypeError):
        multibuffer.digest_pair("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lengths", [[], [5], [0, 0], [9000, 9000, 9000], [9000, 8000, 8000, 9000], [4096] * 7, [3] * 4]
)
def test_each_piece_has_its_digest(lengths: list[int]) -> None:
    parts = [memoryview(GENERATOR.randbytes(length)) for length in lengths]
    assert multibuffer.sha256_each(parts) == [digest(part) for part in parts]


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "hashlib alone"])
@pytest.mark.parametrize("chunk", [1 << 18, 1 << 20, 300_007])
def test_the_chunks_of_a_file(tmp_path: Path, chunk: int, paired: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not paired:
        monkeypatch.setattr(multibuffer, "digest_pair", None)
    data = GENERATOR.randbytes(7 * (1 << 20) + 12_345)
    path = tmp_path / "file"
    path.write_bytes(data)
    spans = spans_of(len(data), chunk)
    with path.open("rb") as opened:
        assert hash_spans(opened.fileno(), spans) == [digest(data[at : at + length]) for at, length in spans]


def test_without_the_compiled_part_the_cid_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(GENERATOR.randbytes(5 << 20))
    code = (
        "import sys; sys.modules['accel.core.content._sha256_pair'] = None\n"
        "from pathlib import Path\n"
        "from accel.core.content import importer, multibuffer\n"
        "assert multibuffer.digest_pair is None\n"
        "print(importer.cid_of(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    from accel.core.content.importer import cid_of

    assert done.stdout.strip() == str(cid_of(path))


def test_short_files_have_empty_digests(tmp_path: Path) -> None:
    data = GENERATOR.randbytes(100_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    spans = [(0, 40_000), (40_000, 40_000), (80_000, 40_000), (120_000, 40_000)]
    with path.open("rb") as opened:
        found = hash_spans(opened.fileno(), spans, short=True)
    assert found == [digest(data[:40_000]), digest(data[40_000:80_000]), b"", b""]


class TestMeeting:
    def test_threads_get_the_digest_of_their_own_piece(self) -> None:
        meeting = multibuffer.Meeting()
        wrong: list[int] = []

        def work(seed: int) -> None:
            generator = random.Random(seed)
            for _ in range(40):
                data = generator.randbytes(generator.choice([10, 200_000, 200_000, 200_001]))
                if meeting.sha256(memoryview(data), alone=generator.random() < 0.2) != digest(data):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert meeting._waiting is None

    @needs_pairs
    def test_two_that_wait_for_each_other_are_hashed_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        meeting = multibuffer.Meeting(patience_s=30)
        pairs: list[int] = []
        real = multibuffer.digest_pair
        assert real is not None

        def counted(one: memoryview, other: memoryview) -> tuple[bytes, bytes]:
            pairs.append(len(one))
            return real(one, other)

        monkeypatch.setattr(multibuffer, "digest_pair", counted)
        data = [GENERATOR.randbytes(200_000) for _ in range(2)]
        found: dict[int, bytes] = {}

        def work(number: int) -> None:
            found[number] = meeting.sha256(data[number], alone=False)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert found == {0: digest(data[0]), 1: digest(data[1])}
        assert pairs == [200_000]

    def test_nobody_is_waited_for_in_vain(self) -> None:
        meeting = multibuffer.Meeting(patience_s=0.001)
        data = GENERATOR.randbytes(200_000)
        assert meeting.sha256(data, alone=False) == digest(data)
        assert multibuffer.Meeting(patience_s=3600).sha256(data, alone=True) == digest(data)
