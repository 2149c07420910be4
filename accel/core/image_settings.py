"""From a model's folder to the settings of its image processor, checked against transformers' own processor.

Cold path only: this imports transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accel.core.errors import IncompatibleError, InputError
from accel.core.images import KINDS, ImageProcessor, processor_kind
from accel.core.torch_models import quiet

#: files that hold a processor's settings; newer models nest them in processor_config.json
FILES = ("preprocessor_config.json", "processor_config.json")


def freeze(folder: Path | None, config: dict[str, Any]) -> dict[str, Any]:
    """Complete settings for `ImageProcessor`.

    Args:
        folder: the model's folder; None, or one without a processor file, means the defaults of the architecture at the
            model's own image size.
        config: the model's config.json.

    Raises:
        InputError: the processor file is damaged. IncompatibleError: a processor that is unknown, or whose tensors
            would differ from transformers'.
    """
    given = read_settings(folder, "image_processor")
    name = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "")
    name = processor_kind(name) if name else _default_kind(config)
    found = _class(name)
    reference = _build(found, given or _default_settings(found, config))
    settings: dict[str, Any] = json.loads(json.dumps(reference.to_dict(), default=_plain))
    settings["kind"] = name
    _verify(ImageProcessor(settings), reference, name)
    return settings


def read_settings(folder: Path | None, section: str) -> dict[str, Any]:
    """A preprocessor's settings from the model's folder, {} where there are none.

    Args:
        section: the key under which processor_config.json nests them.
    """
    for file in FILES:
        path = folder / file if folder else None
        if path is None or not path.is_file():
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}", "get the model's files again") from error
        if not isinstance(data, dict):
            raise InputError(f"{path} is not a JSON object", "get the model's files again")
        nested = data.get(section)
        if isinstance(nested, dict):
            return nested
        if file == FILES[0]:
            return data
    return {}


def _default_kind(config: dict[str, Any]) -> str:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    for part in (config, config.get("vision_config") or {}):
        entry = IMAGE_PROCESSOR_MAPPING_NAMES.get(str(part.get("model_type", "")).replace("_vision_model", ""))
        name = entry.get("pil") or entry.get("torchvision") if isinstance(entry, dict) else None
        if name:
            return processor_kind(name)
    raise IncompatibleError(
        f"the model type {config.get('model_type')!r} has no image processor in transformers",
        "give the model a preprocessor_config.json",
    )


def _default_settings(found: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The class's own settings, scaled to the image size that the model was built for."""
    size = config.get("image_size") or (config.get("vision_config") or {}).get("image_size")
    if not size:
        return {}
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    own, crop = getattr(found, "size", None) or {}, getattr(found, "crop_size", None)
    settings: dict[str, Any] = {"do_resize": True, "size": {"height": height, "width": width}}
    if "shortest_edge" in own and "longest_edge" not in own:
        ratio = own["shortest_edge"] / crop["height"] if crop else 1.0
        settings["size"] = {"shortest_edge": round(min(height, width) * ratio)}
    if crop:
        settings["crop_size"] = {"height": height, "width": width}
    return settings


def _class(name: str) -> Any:
    import transformers

    full = f"{name}ImageProcessor"
    found = getattr(transformers, f"{full}Pil", None) or getattr(transformers, full, None)
    if found is None or name not in KINDS:
        raise IncompatibleError(
            f"the image processor {full} is not supported", f"use a model with one of: {', '.join(sorted(KINDS))}"
        )
    return found


def _build(found: Any, given: dict[str, Any]) -> Any:
    settings = {k: v for k, v in given.items() if k not in ("image_processor_type", "feature_extractor_type", "kind")}
    try:
        with quiet():
            return found(**settings)
    except (TypeError, ValueError, ImportError) as error:
        raise IncompatibleError(
            f"transformers cannot build {found.__name__}: {error}", "check preprocessor_config.json"
        ) from error


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else getattr(value, "value", str(value))


def _verify(ours: ImageProcessor, theirs: Any, name: str) -> None:
    """Compares both processors on pictures of three shapes, larger and smaller than any usual size."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(7)
    for width, height in ((640, 427), (301, 480), (97, 120)):
        coarse = Image.fromarray(noise.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        image = coarse.resize((width, height), resample=Image.Resampling.BICUBIC)
        expected = np.asarray(theirs(images=image, return_tensors="np")["pixel_values"][0])
        found = ours(image)
        if expected.shape != found.shape or float(np.abs(expected - found).max()) > 1e-5:
            raise IncompatibleError(
                f"{name} with these settings is not reproduced exactly, so its answers would be wrong",
                "report the model's preprocessor_config.json",
            )
