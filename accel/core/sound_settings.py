"""From a model's folder to the settings of its feature extractor, checked against transformers' own extractor.

Cold path only: this imports transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accel.core.errors import IncompatibleError
from accel.core.image_settings import read_settings
from accel.core.mel import KINDS, SoundProcessor
from accel.core.torch_models import numbers, quiet

DEFAULTS = {"audio-spectrogram-transformer": "AST", "whisper": "Whisper"}


def freeze(folder: Path | None, config: dict[str, Any]) -> dict[str, Any]:
    """Complete settings for `SoundProcessor`.

    Args:
        folder: the model's folder; None, or one without a preprocessor file, means the architecture's defaults.
        config: the model's config.json.

    Raises:
        InputError: the preprocessor file is damaged. IncompatibleError: an extractor that is unknown, or whose features
            would differ from transformers'.
    """
    import transformers

    given = read_settings(folder, "feature_extractor")
    name = str(given.get("feature_extractor_type") or "").removesuffix("FeatureExtractor")
    name = name or DEFAULTS.get(str(config.get("model_type")), "Wav2Vec2")
    if name not in KINDS:
        raise IncompatibleError(
            f"the feature extractor {name}FeatureExtractor is not supported",
            f"use a model with one of: {', '.join(KINDS)}",
        )
    settings = {k: v for k, v in given.items() if k not in ("feature_extractor_type", "kind", "mel_filters")}
    if not given and name == "Whisper" and config.get("num_mel_bins"):
        settings["feature_size"] = config["num_mel_bins"]
    if not given and name == "AST":
        settings |= {k: config[k] for k in ("max_length", "num_mel_bins") if k in config}
    try:
        with quiet(), numbers():
            reference = getattr(transformers, f"{name}FeatureExtractor")(**settings)
    except (TypeError, ValueError) as error:
        raise IncompatibleError(
            f"transformers cannot build {name}FeatureExtractor: {error}", "check preprocessor_config.json"
        ) from error
    full = {k: v for k, v in reference.to_dict().items() if k not in ("mel_filters", "window")}
    frozen: dict[str, Any] = json.loads(json.dumps(full, default=str))
    frozen["kind"] = name
    _verify(SoundProcessor(frozen), reference, name)
    return frozen


def _verify(ours: SoundProcessor, theirs: Any, name: str) -> None:
    """Compares both on a rising tone in noise."""
    import numpy as np

    times = np.arange(3 * ours.rate) / ours.rate
    noise = np.random.default_rng(7).standard_normal(times.size)
    samples = (0.3 * np.sin(2 * np.pi * (200 + 300 * times) * times) + 0.02 * noise).astype(np.float32)
    with numbers():
        outputs = theirs(samples, sampling_rate=ours.rate, return_tensors="np")
        expected = np.asarray(outputs[theirs.model_input_names[0]][0])
    found = ours(samples)
    if expected.shape != found.shape or float(np.abs(expected - found).max()) > 1e-4:
        raise IncompatibleError(
            f"{name}FeatureExtractor with these settings is not reproduced exactly, so its answers would be wrong",
            "report the model's preprocessor_config.json",
        )
