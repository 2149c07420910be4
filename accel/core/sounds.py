"""Sounds: WAV read by hand, other formats through soundfile, as mono float32 at the rate a model wants."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from accel.core.errors import InputError, UnavailableError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: longer recordings are refused: at 16 kHz this is 460 MB of samples
MAX_SECONDS = 2 * 3600
#: frames decoded at a time, so that a long recording never lies in memory twice
BLOCK = 1 << 20

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
#: a writer that could not seek back leaves this as the size of the data chunk
UNKNOWN_SIZE = (0, 0xFFFFFFFF, 0x7FFFFFFF)


@dataclass(frozen=True)
class _Format:
    kind: int
    channels: int
    rate: int
    bits: int

    @property
    def frame(self) -> int:
        return self.channels * self.bits // 8


def load_sound(path: str | Path, rate: int) -> Array:
    """Reads a sound file as mono at a rate.

    Args:
        path: WAV (8, 16, 24, 32-bit PCM, 32 and 64-bit float), or what soundfile reads (FLAC, Ogg, MP3, AIFF...).
        rate: samples per second to deliver.

    Returns:
        (samples,) float32, nominally within -1 and 1.

    Raises:
        InputError: missing, no sound, truncated, empty or longer than `MAX_SECONDS`; the message names the path.
        UnavailableError: the format needs soundfile, which is not installed.
    """
    import numpy as np

    file = Path(path)
    try:
        with open(file, "rb") as stream:
            head = stream.read(12)
            if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
                samples, found = _read_wav(stream, file)
            elif not head:
                raise InputError(f"{path} is empty", "record the sound again")
            else:
                samples, found = _read_other(file)
    except FileNotFoundError:
        raise InputError(f"no sound file at {path}", "check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a sound file", "name one sound file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from error
    if samples.size == 0:
        raise InputError(f"{path} holds no samples", "record the sound again")
    if not np.isfinite(samples).all():
        raise InputError(f"{path} has samples that are not numbers", "record or convert the sound again")
    return resample(samples, found, rate)


def _check_length(path: Path, frames: int, rate: int) -> None:
    if frames > MAX_SECONDS * rate:
        raise InputError(
            f"{path} lasts {frames / rate / 3600:.1f} hours, more than {MAX_SECONDS // 3600}", "cut it into pieces"
        )


def _read_wav(stream: BinaryIO, path: Path) -> tuple[Array, int]:
    import numpy as np

    layout: _Format | None = None
    while True:
        header = stream.read(8)
        if len(header) < 8:
            raise InputError(f"{path} is a WAV file without samples", "record the sound again")
        name, size = struct.unpack("<4sI", header)
        if name == b"fmt ":
            layout = _parse_format(stream.read(size + size % 2), path)
        elif name == b"data":
            break
        else:
            stream.seek(size + size % 2, 1)
    if layout is None:
        raise InputError(f"{path} is a damaged WAV file: its samples come before their format", "convert it again")
    begin = stream.tell()
    there = stream.seek(0, 2) - begin
    stream.seek(begin)
    if size in UNKNOWN_SIZE:
        size = there
    if size > there:
        raise InputError(
            f"{path} is truncated: {there} of {size} bytes of samples are there", "get or record the file again"
        )
    frames = size // layout.frame
    _check_length(path, frames, layout.rate)
    mono: Array = np.empty(frames, dtype=np.float32)
    for start in range(0, frames, BLOCK):
        count = min(BLOCK, frames - start)
        data = stream.read(count * layout.frame)
        mono[start : start + count] = _decode(data, layout).reshape(count, layout.channels).mean(axis=1)
    return mono, layout.rate


def _parse_format(chunk: bytes, path: Path) -> _Format:
    if len(chunk) < 16:
        raise InputError(f"{path} is a damaged WAV file: its format is cut short", "convert it again")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if kind == EXTENSIBLE and len(chunk) >= 26:
        kind = struct.unpack("<H", chunk[24:26])[0]
    if (kind, bits) not in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
        raise InputError(
            f"{path} is a WAV file of a kind that is not read (format {kind}, {bits} bits)",
            "convert it to 16-bit PCM: ffmpeg -i IN -c:a pcm_s16le OUT.wav",
        )
    if not 1 <= channels <= 64 or not 1000 <= rate <= 1_000_000:
        raise InputError(f"{path} is a damaged WAV file: {channels} channels at {rate} Hz", "convert it again")
    return _Format(kind, channels, rate, bits)


def _decode(data: bytes, layout: _Format) -> Array:
    import numpy as np

    if layout.kind == FLOAT:
        return np.frombuffer(data, dtype=f"<f{layout.bits // 8}").astype(np.float32)
    if layout.bits == 8:
        return (np.frombuffer(data, dtype=np.uint8).astype(np.float32) - 128.0) / 128.0
    if layout.bits == 24:
        wide = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    scale = np.float32(2 ** (layout.bits - 1))
    return np.frombuffer(data, dtype=f"<i{layout.bits // 8}").astype(np.float32) / scale


def _read_other(path: Path) -> tuple[Array, int]:
    import numpy as np

    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"{path} is not a WAV file, and other formats need the package soundfile",
            "pip install 'ipfs-accel[audio]', or convert it: ffmpeg -i IN OUT.wav",
        ) from error
    try:
        with soundfile.SoundFile(str(path)) as sound:
            _check_length(path, sound.frames, sound.samplerate)
            parts = [block.mean(axis=1) for block in _blocks(sound)]
            return np.concatenate(parts) if parts else np.zeros(0, np.float32), int(sound.samplerate)
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a sound that can be read: {error}", "use WAV, FLAC, Ogg, MP3 or AIFF"
        ) from error


def _blocks(sound: Any) -> Iterator[Array]:
    while True:
        block = sound.read(BLOCK, dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block


def resample(samples: Array, source: int, target: int) -> Array:
    """Changes the rate of (samples,) float32; band-limited, through soxr where it is installed."""
    import numpy as np

    if source == target:
        return samples
    try:
        import soxr
    except (ImportError, OSError):
        return resample_sinc(samples, source, target)
    return np.asarray(soxr.resample(samples, source, target), dtype=np.float32)


@functools.lru_cache(maxsize=4)
def _sinc_phases(up: int, down: int, zeros: int = 48, rolloff: float = 0.945, beta: float = 12.0) -> Array:
    """(up, taps) float64: the windowed-sinc low-pass filter, one row for each phase between two input samples.

    J. O. Smith, Digital Audio Resampling, https://ccrma.stanford.edu/~jos/resample/ : a Kaiser window over `zeros` zero
    crossings, cut off at `rolloff` of the lower Nyquist frequency.
    """
    import numpy as np

    cutoff = rolloff * min(1.0, up / down)
    half = math.ceil(zeros / cutoff)
    offsets = np.arange(-half, half + 1)
    # output n lies `phase / up` after the input sample that its row is centred on
    distance = offsets[None, :] - (np.arange(up) / up)[:, None]
    inside = np.clip(1.0 - (distance / half) ** 2, 0.0, 1.0)
    rows: Array = cutoff * np.sinc(cutoff * distance) * np.i0(beta * np.sqrt(inside)) / np.i0(beta)
    rows /= rows.sum(axis=1, keepdims=True)
    return rows


def resample_sinc(samples: Array, source: int, target: int) -> Array:
    """Polyphase windowed-sinc resampling in numpy alone; see `resample`."""
    import numpy as np

    common = math.gcd(source, target)
    up, down = target // common, source // common
    rows = _sinc_phases(up, down).astype(np.float32)
    half = rows.shape[1] // 2
    length = math.ceil(len(samples) * up / down)
    result: Array = np.empty(length, dtype=np.float32)
    # outputs n, n + up, n + 2 up ... share a phase, and their inputs are `down` apart
    last = (length - 1) * down // up
    padded = np.pad(samples, (half, half + max(0, last + 1 - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, rows.shape[1])
    for first in range(min(up, length)):
        start, phase = divmod(first * down, up)
        result[first::up] = windows[start::down][: len(range(first, length, up))] @ rows[phase]
    return result


def quiet_cuts(samples: Array, rate: int, most_s: float) -> list[Array]:
    """Pieces of at most `most_s` seconds, cut where the last third of each is quietest over a tenth of a second."""
    import numpy as np

    most, window = int(most_s * rate), max(1, rate // 10)
    pieces: list[Array] = []
    rest = samples
    while len(rest) > most:
        first = most * 2 // 3
        energy = np.cumsum(np.concatenate([[0.0], rest[first:most].astype(np.float64) ** 2]))
        loudness = energy[window:] - energy[:-window]
        cut = first + int(loudness.argmin()) + window // 2
        pieces.append(rest[:cut])
        rest = rest[cut:]
    return [*pieces, rest]
