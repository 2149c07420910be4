"""Bare ONNX models: named tensors in, named tensors out, as the file itself says."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, Session
from accel.core.errors import InputError, UnavailableError
from accel.core.types import Item, Model, Recipe, TensorSpec
from accel.families._shared import encode_each, finite

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TASK = "tensors"
SYNTHETIC = "synthetic"
#: size of a dynamic axis in made-up inputs
DYNAMIC = 2


@dataclass(frozen=True)
class Feeds:
    """Every input of the graph, checked against its spec. `length` counts the numbers of the largest one."""

    tensors: dict[str, Array]
    made_up: bool = False

    @property
    def length(self) -> int:
        return max((int(t.size) for t in self.tensors.values()), default=0)


def onnx_file(model: Model) -> Path:
    """The model's .onnx file."""
    names = [name for name in model.files if name.endswith(".onnx")]
    if model.folder is None or not names:
        raise UnavailableError(f"{model.name} has no .onnx file", "name the file itself")
    return model.folder / names[0]


def load(family: str, model: Model) -> LoadedModel:
    """A recipe from the file's own inputs and outputs; the graph's weights are not read."""
    from accel.core.export import spec_of

    path = onnx_file(model)
    spec = spec_of(path)
    recipe = Recipe(family, TASK, {"model": spec}, {}, (), model.notes)
    return LoadedModel({}, recipe, None, {"model": path})


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else 1 if i == 0 else DYNAMIC for i, axis in enumerate(spec.axes))


def example_items(recipe: Recipe) -> list[Item]:
    """One made-up input: seeded normal numbers for floats, zeros for the rest."""
    import numpy as np

    tensors: dict[str, Array] = {}
    for spec in recipe.graphs["model"].inputs:
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            random = np.random.default_rng(zlib.crc32(spec.name.encode()))
            tensors[spec.name] = random.standard_normal(_shape(spec)).astype(spec.dtype)
        else:
            tensors[spec.name] = np.zeros(_shape(spec), spec.dtype)
    return [Item(text=SYNTHETIC, tensors=tensors)]


def encode(recipe: Recipe, items: Sequence[Item]) -> list[Any]:
    """Checks each item's tensors against the graph's inputs. The text `synthetic` stands for made-up ones."""
    made_up = None

    def one(item: Item) -> Feeds:
        nonlocal made_up
        if item.tensors is None:
            if item.text != SYNTHETIC:
                raise InputError(
                    f"input {item.index + 1} has no tensors, which is all that a bare ONNX file takes",
                    f"give --input @FILE.npz with {', '.join(t.name for t in recipe.graphs['model'].inputs)}",
                )
            made_up = made_up or example_items(recipe)[0].tensors
            return Feeds(made_up or {}, True)
        return Feeds(_checked(recipe, item), item.text == SYNTHETIC)

    return encode_each(items, one)


def _checked(recipe: Recipe, item: Item) -> dict[str, Array]:
    specs = recipe.graphs["model"].inputs
    given = dict(item.tensors or {})
    if len(specs) == 1 and list(given) == [""]:
        given = {specs[0].name: given[""]}
    unknown = sorted(set(given) - {t.name for t in specs})
    if unknown:
        raise InputError(
            f"the model has no input {', '.join(unknown)}", f"its inputs: {', '.join(t.name for t in specs)}"
        )
    return {spec.name: _fitting(spec, given.get(spec.name)) for spec in specs}


def _fitting(spec: TensorSpec, value: Any) -> Array:
    import numpy as np

    wanted = f"{spec.name} is {spec.dtype} [{', '.join(map(str, spec.axes))}]"
    if value is None:
        raise InputError(f"the input {spec.name} is missing", wanted)
    array = np.asarray(value)
    fits = array.ndim == len(spec.axes) and all(
        not isinstance(axis, int) or axis == size for axis, size in zip(spec.axes, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"the input {spec.name} has the shape {list(array.shape)}", wanted)
    if array.dtype != np.dtype(spec.dtype):
        if not np.can_cast(array.dtype, spec.dtype, "same_kind") and not (
            np.issubdtype(array.dtype, np.integer) and np.issubdtype(np.dtype(spec.dtype), np.number)
        ):
            raise InputError(f"the input {spec.name} holds {array.dtype}", wanted)
        array = array.astype(spec.dtype)
    return np.ascontiguousarray(array)


def execute(recipe: Recipe, session: Session, batch: Sequence[Feeds]) -> list[dict[str, Array]]:
    """Runs each input on its own: what a leading axis means is the file's own secret."""
    return [session.run("model", feeds.tensors) for feeds in batch]


def answers(outputs: Sequence[dict[str, Array]], batch: Sequence[Feeds]) -> list[dict[str, Any]]:
    """`{"tensors": {name: nested lists}}` for each input, with `synthetic` where its tensors were made up."""
    results = []
    for row, feeds in zip(outputs, batch, strict=True):
        answer: dict[str, Any] = {"tensors": {name: finite(value, name).tolist() for name, value in row.items()}}
        results.append({**answer, "synthetic": True} if feeds.made_up else answer)
    return results


def comparable(recipe: Recipe, session: Session, batch: Sequence[Feeds]) -> Array:
    """All outputs that are numbers, of each input as one row."""
    import numpy as np

    rows = []
    for outputs in execute(recipe, session, batch):
        numbers = [np.ravel(v).astype(np.float64) for v in outputs.values() if v.dtype.kind in "biuf"]
        rows.append(np.concatenate([np.zeros(1), *numbers]))
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows])
