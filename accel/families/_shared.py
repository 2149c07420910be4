"""What several families need: wrapping modules as graphs, labels, scores, batches by shape, example inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.decoding import NotANumber
from accel.core.errors import AccelError, InputError
from accel.core.types import Item, Model

if TYPE_CHECKING:
    import numpy as np

    from accel.core.contracts import Session, Tensors
    from accel.core.tokenization import Frozen

    Array = np.ndarray[Any, Any]

DATA = Path(__file__).resolve().parent.parent / "data"
EXAMPLE_IMAGE = DATA / "examples" / "cat.jpg"
EXAMPLE_SOUND = DATA / "examples" / "speech.wav"
LABELS_FILE = "labels.json"


def module_from(model: Any, call: Callable[..., Any]) -> Any:
    """A `torch.nn.Module` whose forward is `call(model, *tensors)`."""
    import torch

    class Graph(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            return call(self.model, *tensors)

    return Graph().eval()


def operations(module: Any, arguments: Sequence[Any]) -> float:
    """Floating-point operations of one call, counted on the module (a multiplication and an addition are two).

    Matrix products and convolutions are counted, as torch's `FlopCounterMode` does. It does not see fused attention, so
    transformers models compute theirs openly for the while.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    fused = [m for m in module.modules() if hasattr(m, "set_attn_implementation")][:1]
    before = [getattr(m.config, "_attn_implementation", None) or "eager" for m in fused]
    for model in fused:
        model.set_attn_implementation("eager")
    try:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            module(*arguments)
    finally:
        for model, kind in zip(fused, before, strict=True):
            model.set_attn_implementation(kind)
    return float(counter.get_total_flops())


def labels_of(model: Model, count: int | None = None) -> tuple[list[str], tuple[str, ...]]:
    """The names of a model's classes, and a note where they are numbers only.

    The configuration's own names come first, then the label set that the catalogue names.
    """
    names = {int(k): str(v) for k, v in (model.config.get("id2label") or {}).items()}
    size = count or len(names) or int(model.config.get("num_labels") or 2)
    plain = not names or all(name == f"LABEL_{i}" for i, name in names.items())
    if plain and model.entry.get("labels"):
        shared = json.loads((DATA / "labels" / f"{model.entry['labels']}.json").read_text(encoding="utf-8"))
        if len(shared) == size:
            return [str(name) for name in shared], ()
    labels = [names.get(i, f"LABEL_{i}") for i in range(size)]
    return labels, ("the model does not name its classes: labels are numbers",) if plain else ()


def freeze_tokenizer(model: Model, assets: Path, vocabulary: int, ids: Mapping[str, int | None]) -> Frozen:
    """Freezes a text decoder's tokenizer; a byte-level one takes its place where the model has none."""
    from accel.core.tokenization import freeze, freeze_substitute
    from accel.core.torch_models import load_tokenizer

    tokenizer = load_tokenizer(model)
    if tokenizer is not None:
        return freeze(tokenizer, assets)
    return freeze_substitute(assets, vocabulary, ids, kind="decoder")


def write_labels(assets: Path, labels: Sequence[str]) -> str:
    """Writes the labels as an asset and returns its name."""
    (assets / LABELS_FILE).write_text(json.dumps(list(labels), ensure_ascii=False), encoding="utf-8")
    return LABELS_FILE


def read_labels(assets: Path | None) -> list[str]:
    """Reads what `write_labels` wrote."""
    if assets is None:
        return []
    return [str(name) for name in json.loads((assets / LABELS_FILE).read_text(encoding="utf-8"))]


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    import numpy as np

    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    import numpy as np

    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64))))


def finite(values: Array, what: str = "the model's output") -> Array:
    """The values, if all of them are numbers.

    Raises:
        NotANumber: damaged weights, or arithmetic that overflowed.
    """
    import numpy as np

    if values.dtype.kind in "fc" and not np.isfinite(values).all():
        raise NotANumber(what)
    return values


def ranked(scores: Array, labels: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The `count` best labels with their scores, best first, ties in the order of the labels."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")[: max(1, count)]
    return [{"label": labels[i] if i < len(labels) else f"LABEL_{i}", "score": float(scores[i])} for i in order]


def encode_each(items: Iterable[Item], encode: Callable[[Item], Any]) -> list[Any]:
    """Encodes items one by one; an item that cannot be used yields its error in its place."""
    results: list[Any] = []
    for item in items:
        try:
            results.append(encode(item))
        except AccelError as error:
            results.append(error)
    return results


def image_path(item: Item) -> str:
    """The image an item names, as `image` or (in lists of paths) as text.

    Raises:
        InputError: it names none.
    """
    path = item.image or item.text
    if not path:
        raise InputError(f"input {item.index + 1} has no image", "give --image FILE")
    return path


def sound_path(item: Item) -> str:
    """The sound an item names, as `audio` or (in lists of paths) as text.

    Raises:
        InputError: it names none.
    """
    path = item.audio or item.text
    if not path:
        raise InputError(f"input {item.index + 1} has no sound", "give --audio FILE")
    return path


def run_by_shape(session: Session, graph: str, feeds: Sequence[Tensors]) -> list[Tensors]:
    """Runs inputs of one or several shapes, stacking those whose tensors all have the same shape.

    Args:
        feeds: one dict of tensors without batch axis for each input.

    Returns:
        one dict of outputs without batch axis for each input, in order.
    """
    import numpy as np

    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, tensors in enumerate(feeds):
        groups.setdefault(tuple((name, t.shape) for name, t in tensors.items()), []).append(row)
    results: list[Tensors] = [{} for _ in feeds]
    for rows in groups.values():
        stacked = {name: np.stack([feeds[row][name] for row in rows]) for name in feeds[rows[0]]}
        outputs = session.run(graph, stacked)
        for position, row in enumerate(rows):
            results[row] = {name: value[position] for name, value in outputs.items()}
    return results
