"""Features of sounds, as transformers' feature extractors compute them, in numpy alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accel.core.errors import IncompatibleError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def _to_mel(hertz: Array, scale: str) -> Array:
    import numpy as np

    if scale == "kaldi":
        return 1127.0 * np.log(1.0 + hertz / 700.0)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hertz / 700.0)
    above = np.maximum(hertz, 1000.0)
    return np.where(hertz >= 1000.0, 15.0 + np.log(above / 1000.0) * 27.0 / np.log(6.4), 3.0 * hertz / 200.0)


def _to_hertz(mel: Array, scale: str) -> Array:
    import numpy as np

    if scale == "kaldi":
        return 700.0 * (np.exp(mel / 1127.0) - 1.0)
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel >= 15.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)), 200.0 * mel / 3.0)


@functools.lru_cache(maxsize=8)
def mel_filters(
    bins: int, filters: int, low: float, high: float, rate: int, scale: str = "slaney", in_mel: bool = False
) -> Array:
    """Triangular mel filters, (bins, filters) float64.

    Args:
        bins: frequencies of the spectrum, from 0 to half the rate.
        low, high: band in hertz.
        scale: `slaney` (with area normalisation, as librosa and Whisper), `htk` or `kaldi`.
        in_mel: triangles are straight in mel, as Kaldi's, and not in hertz.
    """
    import numpy as np

    first, last = _to_mel(np.array([low, high], dtype=np.float64), scale)
    edges = np.linspace(first, last, filters + 2)
    if in_mel:
        points, corners = _to_mel(rate / ((bins - 1) * 2) * np.arange(bins), scale), edges
    else:
        points, corners = np.linspace(0, rate // 2, bins), _to_hertz(edges, scale)
    slopes = corners[None, :] - points[:, None]
    widths = np.diff(corners)
    result: Array = np.maximum(0.0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))
    if scale == "slaney":
        result = result * (2.0 / (corners[2:] - corners[:-2]))[None, :]
    return result


def _frames(samples: Array, size: int, hop: int) -> Array:
    import numpy as np

    return np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]


def whisper_features(
    samples: Array, *, mels: int = 80, size: int = 400, hop: int = 160, seconds: int = 30, rate: int = 16000
) -> Array:
    """Log-mel spectrogram of Whisper (Radford et al. 2022, section 2.2), as `WhisperFeatureExtractor` computes it.

    Args:
        samples: (samples,) float32; cut or padded with silence to `seconds`.

    Returns:
        (mels, frames) float32 with seconds * rate / hop frames.
    """
    import numpy as np

    total = seconds * rate
    padded: Array = np.zeros(total, dtype=np.float64)
    padded[: min(total, len(samples))] = samples[:total]
    padded = np.pad(padded, size // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(size) / size)
    frames = _frames(padded, size, hop)[:-1]
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    bank = mel_filters(1 + size // 2, mels, 0.0, 8000.0, rate)
    spectrum = np.log10(np.maximum(power @ bank, 1e-10)).T
    spectrum = np.maximum(spectrum, spectrum.max() - 8.0)
    return np.ascontiguousarray((spectrum + 4.0) / 4.0, dtype=np.float32)


def unit_variance(samples: Array) -> Array:
    """Zero mean and unit variance, as `Wav2Vec2FeatureExtractor` with do_normalize."""
    import numpy as np

    return np.asarray((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7), dtype=np.float32)


def filter_bank(samples: Array, *, mels: int = 128, frames: int = 1024, rate: int = 16000) -> Array:
    """Kaldi's log filter bank over windows of 25 ms, as `ASTFeatureExtractor` computes it, before normalisation.

    Args:
        samples: (samples,) float32, at least 400 of them (shorter ones are padded with silence).

    Returns:
        (frames, mels) float32, cut or padded with zeros.
    """
    import numpy as np

    size, hop, fft = 400, 160, 512
    padded = np.pad(samples.astype(np.float64), (0, max(0, size - len(samples))))
    rows = _frames(padded, size, hop)[:frames]
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = np.concatenate([rows[:, :1] * (1 - 0.97), rows[:, 1:] - 0.97 * rows[:, :-1]], axis=1)
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(size) / (size - 1))
    power = np.abs(np.fft.rfft(rows * window, n=fft, axis=1)) ** 2
    bank = mel_filters(1 + fft // 2, mels, 20.0, rate // 2, rate, "kaldi", True)
    energy = np.log(np.maximum(power @ bank, 1.192092955078125e-07))
    result: Array = np.zeros((frames, mels), dtype=np.float32)
    result[: len(energy)] = energy
    return result


#: feature extractors that `SoundProcessor` implements: their class names without `FeatureExtractor`
KINDS = ("AST", "Wav2Vec2", "Whisper")


class SoundProcessor:
    """A feature extractor of transformers, rebuilt from its settings.

    Args:
        settings: the extractor's settings (as its `to_dict` gives them) with `kind`, one of `KINDS`.

    Raises:
        IncompatibleError: a kind whose features are not implemented.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.kind: str = self.settings.get("kind", "")
        if self.kind not in KINDS:
            raise IncompatibleError(
                f"the feature extractor {self.kind or 'without a name'} is not supported",
                f"use a model with one of: {', '.join(KINDS)}",
            )
        self.rate = int(self.settings.get("sampling_rate") or 16000)

    @property
    def window_s(self) -> float | None:
        """The most seconds of sound that one call looks at; None is any length."""
        if self.kind == "Whisper":
            return float(self.settings.get("chunk_length") or 30)
        if self.kind == "AST":
            # windows of 400 samples, 160 apart
            return (240 + 160 * float(self.settings.get("max_length") or 1024)) / self.rate
        return None

    def __call__(self, samples: Array) -> Array:
        """Features of (samples,) float32 at `rate`, without a batch axis."""
        import numpy as np

        s = self.settings
        if self.kind == "Whisper":
            return whisper_features(
                samples,
                mels=int(s.get("feature_size") or 80),
                size=int(s.get("n_fft") or 400),
                hop=int(s.get("hop_length") or 160),
                seconds=int(s.get("chunk_length") or 30),
                rate=self.rate,
            )
        if self.kind == "AST":
            bank = filter_bank(
                samples, mels=int(s.get("num_mel_bins") or 128), frames=int(s.get("max_length") or 1024), rate=self.rate
            )
            if not s.get("do_normalize", True):
                return bank
            return np.asarray((bank - float(s["mean"])) / (float(s["std"]) * 2), dtype=np.float32)
        return unit_variance(samples) if s.get("do_normalize", True) else np.asarray(samples, dtype=np.float32)
