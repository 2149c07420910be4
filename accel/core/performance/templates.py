"""Operators as a function of batch and length, found from a few traces, so that any size costs arithmetic alone.

Every size of every tensor of a network without branches on sizes is a polynomial a + b B + c L + d B L in batch B and
length L. It is determined from four traces and proven on one more; where that fails (convolutions over a sound, models
that branch on the batch) the length, or the batch too, stays fixed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.core.performance.operators import Operator, Tensor, merged

if TYPE_CHECKING:
    from accel.core.performance.tracing import Trace

#: coefficients of 1, B, L, B L
Size = int | list[int]


@dataclass(frozen=True)
class Template:
    """A workload's operators for any batch (or one), and any length (or one).

    Attributes:
        batch, length: None where any will do. `length` is `(value,)` for a fixed one, since a workload may have none.
        operators: JSON values, see `_encode`.
        peaks: bytes held at one time, by phase: coefficients of 1, B, L, B L, B L^2.
        calls: executions of a graph, by phase.
        cache: bytes of keys and values: coefficients of 1, B, L, B L.
    """

    batch: int | None
    length: tuple[int | None] | None
    operators: list[Any]
    peaks: dict[str, list[float]]
    calls: dict[str, int]
    cache: list[float]

    def fits(self, batch: int, length: int | None) -> bool:
        """Whether it says something about this workload."""
        if self.length is None and length is None:
            return False
        return self.batch in (None, batch) and (self.length is None or self.length[0] == length)

    def at(self, batch: int, length: int | None) -> tuple[tuple[Operator, ...], dict[str, int], int]:
        """Operators, peaks by phase and bytes of the cache for a workload that fits."""
        b, n = batch, length or 0
        peaks = {
            phase: max(0, round(c[0] + c[1] * b + c[2] * n + c[3] * b * n + c[4] * b * n * n))
            for phase, c in self.peaks.items()
        }
        c = self.cache
        held = max(0, round(c[0] + c[1] * b + c[2] * n + c[3] * b * n))
        # sizes that differ elsewhere may be equal here
        return merged(_decode(op, b, n) for op in self.operators), peaks, held

    def as_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_json`."""
        return {**self.__dict__, "length": list(self.length) if self.length is not None else None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Template:
        """Reads what `as_json` wrote."""
        length = data["length"]
        return cls(**{**data, "length": None if length is None else (length[0],)})


def fit(traces: Sequence[Trace]) -> Template | None:
    """The template of these traces, or None where their operators are no polynomials of batch and length.

    Args:
        traces: one (nothing varies), three of one length or of one batch, or five that vary in both.
    """
    import numpy as np

    first = traces[0]
    batches, lengths = {t.batch for t in traces}, {t.length for t in traces}
    if any(len(t.operators) != len(first.operators) or t.calls != first.calls for t in traces):
        return None
    if any(_skeleton(t.operators[i]) != _skeleton(op) for t in traces[1:] for i, op in enumerate(first.operators)):
        return None
    used = [0, *([1] if len(batches) > 1 else []), *([2] if len(lengths) > 1 else [])]
    used += [3] if len(used) == 3 else []
    points = np.array([[1, t.batch, t.length or 0, t.batch * (t.length or 0)] for t in traces], np.float64)
    sizes = np.array([[n for op in t.operators for n in _sizes(op)] for t in traces], np.float64)
    found = np.rint(np.linalg.lstsq(points[:, used], sizes, rcond=None)[0])
    if not np.array_equal(points[:, used] @ found, sizes):
        return None
    whole = np.zeros((4, sizes.shape[1]), np.int64)
    whole[used] = found.astype(np.int64)
    columns = iter(whole.T.tolist())
    operators: dict[str, list[Any]] = {}
    for op in first.operators:
        encoded = _encode(op, columns)
        kept = operators.setdefault(json.dumps([*encoded[:5], *encoded[6:]]), encoded)
        if kept is not encoded:
            kept[5] += encoded[5]
    more = np.column_stack([points, points[:, 1] * points[:, 2] ** 2])
    wide = [*used, 4] if 3 in used else used

    def smooth(values: list[int], columns_: list[int]) -> list[float]:
        coefficients = np.zeros(5)
        coefficients[columns_] = np.linalg.lstsq(more[:, columns_], np.array(values, np.float64), rcond=None)[0]
        return [float(c) for c in coefficients]

    peaks = {phase: smooth([t.peaks[phase] for t in traces], wide) for phase in first.peaks}
    cache = smooth([t.cache_bytes for t in traces], used)[:4]
    batch = None if len(batches) > 1 else first.batch
    length = None if len(lengths) > 1 else (first.length,)
    return Template(batch, length, list(operators.values()), peaks, first.calls, cache)


def with_layers(few: Template, more: Template, layers: tuple[int, int], wanted: int) -> Template | None:
    """The template of a model with many equal layers, from two of the same model with few.

    Args:
        few, more: with `layers[0]` and `layers[1]` layers. wanted: layers of the model.

    Returns:
        None where the two do not differ by equal layers alone.
    """

    def counted(template: Template) -> dict[str, list[Any]]:
        return {json.dumps([*op[:5], *op[6:]]): op for op in template.operators}

    first, second = counted(few), counted(more)
    step, left = layers[1] - layers[0], wanted - layers[0]
    if first.keys() != second.keys() or few.calls != more.calls or few.peaks.keys() != more.peaks.keys():
        return None
    operators = []
    for key, op in first.items():
        each, rest = divmod(second[key][5] - op[5], step)
        if rest or each < 0:
            return None
        operators.append([*op[:5], op[5] + each * left, *op[6:]])

    def line(a: list[float], b: list[float]) -> list[float]:
        return [x + (y - x) / step * left for x, y in zip(a, b, strict=True)]

    peaks = {phase: line(few.peaks[phase], more.peaks[phase]) for phase in few.peaks}
    return Template(few.batch, few.length, operators, peaks, few.calls, line(few.cache, more.cache))


def _skeleton(op: Operator) -> tuple[Any, ...]:
    ranks = [len(t.shape) for t in (*op.inputs, *op.outputs)]
    fixed = {name: value for name, value in op.attributes.items() if name != "repeat"}
    return op.kind, op.name, op.phase, op.after, op.count, str(fixed), tuple(ranks)


def _sizes(op: Operator) -> list[int]:
    return [n for t in (*op.inputs, *op.outputs) for n in t.shape] + [int(op.attributes.get("repeat", 0))]


def _encode(op: Operator, columns: Any) -> list[Any]:
    def size() -> Size:
        value: list[int] = next(columns)
        return value[0] if not any(value[1:]) else value

    def tensor(t: Tensor) -> list[Any]:
        return [[size() for _ in t.shape], t.itemsize, int(t.parameter)]

    inputs, outputs = [tensor(t) for t in op.inputs], [tensor(t) for t in op.outputs]
    repeat = size()
    attributes = {**op.attributes, **({"repeat": repeat} if "repeat" in op.attributes else {})}
    return [op.kind, op.name, op.phase, op.after, attributes, op.count, inputs, outputs]


def _decode(data: list[Any], batch: int, length: int) -> Operator:
    def size(value: Size) -> int:
        if isinstance(value, int):
            return value
        a, b, c, d = value
        return a + b * batch + c * length + d * batch * length

    def tensors(items: list[Any]) -> tuple[Tensor, ...]:
        return tuple(Tensor(tuple(map(size, sizes)), itemsize, bool(own)) for sizes, itemsize, own in items)

    kind, name, phase, after, attributes, count, inputs, outputs = data
    if "repeat" in attributes:
        attributes = {**attributes, "repeat": size(attributes["repeat"])}
    return Operator(kind, name, phase, tensors(inputs), tensors(outputs), attributes, after, count)
