"""SHA-256 of two pieces at once is the SHA-256 of each."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
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
