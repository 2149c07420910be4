"""Terrain: a one-step consistency model of heightfields by difficulty, which exists as an ONNX file.

The steps are those of the package's own `TerrainGenerator` (adaptive-terrain-diffusion, MIT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, Session
from accel.core.errors import IncompatibleError, InputError
from accel.core.images import save_png
from accel.core.types import GraphSpec, Item, Model, Options, Recipe
from accel.families._parts import Part
from accel.families._shared import encode_each, finite
from accel.families._tensors import onnx_file

if TYPE_CHECKING:
    from accel.core.contracts import Array

TASK = "unconditional-image-generation"
INPUTS, OUTPUTS = ["noisy", "sigma", "difficulty"], ["denoised"]
SIDE, CLASSES = 128, 100
SIGMA = 80.0
#: heights are the model's values through asinh, scaled to this range in metres
HEIGHT, ASINH = 22.16864013671875, 0.1
DIFFICULTY = "60"


@dataclass(frozen=True)
class Wish:
    """A terrain to make. `length` counts cells."""

    difficulty: int
    index: int
    length: int = SIDE * SIDE


def matches(onnx: dict[str, Any]) -> bool:
    """Whether an ONNX file has this model's inputs and outputs."""
    return list(onnx.get("inputs", ())) == INPUTS and list(onnx.get("outputs", ())) == OUTPUTS


def heights(values: Array) -> Array:
    """Metres above the lowest cell, from what the model gives (-1 to 1)."""
    import numpy as np

    unit = (np.clip(values.astype(np.float64), -1.0, 1.0) + 1.0) / 2.0
    metres = ASINH * np.sinh(unit * np.arcsinh(HEIGHT / ASINH))
    return np.asarray(metres - metres.min(axis=(-2, -1), keepdims=True), dtype=np.float32)


class Terrain(Part):
    """A heightfield of 128 x 128 cells, saved as a picture. The text is its difficulty, 1 to 100."""

    name = "terrain"

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.core.export import spec_of

        path = onnx_file(model)
        found = spec_of(path)
        if not matches({"inputs": [t.name for t in found.inputs], "outputs": [t.name for t in found.outputs]}):
            raise IncompatibleError(f"{path} is not the terrain model", "use --task tensors")
        spec = GraphSpec("model", found.inputs, found.outputs)
        return LoadedModel({}, Recipe(family, TASK, {"model": spec}, {}, (), model.notes), None, {"model": path})

    def example_items(self) -> list[Item]:
        return [Item(text=DIFFICULTY)]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        def one(item: Item) -> Wish:
            text = (item.text or DIFFICULTY).strip()
            if not text.isdecimal() or not 1 <= int(text) <= CLASSES:
                raise InputError(
                    f"the difficulty of a terrain is a number from 1 to {CLASSES}, not {text[:40]!r}", "--input 60"
                )
            return Wish(int(text), item.index)

        return encode_each(items, one)

    def execute(
        self, session: Session, batch: Sequence[Wish], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        import numpy as np

        shape = (1, SIDE, SIDE)
        noise = [np.random.default_rng([options.seed, wish.index]).standard_normal(shape) for wish in batch]
        feeds: dict[str, Array] = {
            "noisy": (np.stack(noise) * SIGMA).astype(np.float32),
            "sigma": np.full(len(batch), SIGMA, np.float32),
            "difficulty": np.array([(wish.difficulty - 1) / (CLASSES - 1) for wish in batch], np.float32),
        }
        return list(session.run("model", feeds)["denoised"])

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        results = []
        for row, wish in zip(outputs, batch, strict=True):
            metres = heights(finite(row))[0]
            top = float(metres.max())
            grey = (metres / top * 255.0 + 0.5).astype("uint8") if top > 0 else metres.astype("uint8")
            path = save_png(grey, options.output_dir or Path(), f"terrain-{wish.difficulty}-{options.seed}")
            results.append(
                {
                    "image": str(path),
                    "width": SIDE,
                    "height": SIDE,
                    "seed": options.seed,
                    "difficulty": wish.difficulty,
                    "highest_m": round(top, 4),
                    "roughness_m": round(float(metres.std()), 4),
                }
            )
        return results

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        import numpy as np

        return np.stack([row.ravel() for row in self.execute(session, batch, Options(), None)])
