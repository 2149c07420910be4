"""The operators that a workload executes, with what each costs in operations and bytes. Plain data; no framework.

Counting conventions, the field's usual ones: a multiplication and an addition are two operations; matrix products,
convolutions and attention count, as in torch's `FlopCounterMode` (which misses fused attention); attention counts the
whole square, masked or not. Bytes are those of every tensor that an operator reads and writes once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: kinds of operators. `view` moves nothing; `other` is priced by its bytes like `elementwise`
KINDS = (
    "matmul", "convolution", "attention", "recurrent", "normalisation", "softmax", "activation", "elementwise",
    "reduction", "pooling", "gather", "copy", "view", "other",
)  # fmt: skip
#: kinds that a compiled engine folds into the operator whose result they alone take
FUSED = frozenset(("activation", "elementwise", "normalisation"))


@dataclass(frozen=True)
class Tensor:
    """A tensor that an operator reads or writes: shape, bytes of an element, and whether it is one of the weights."""

    shape: tuple[int, ...]
    itemsize: int = 4
    parameter: bool = False

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.elements * self.itemsize


@dataclass(frozen=True)
class Operator:
    """One operator of the graph, executed `count` times with these shapes.

    Attributes:
        kind: one of `KINDS`.
        name: as the framework calls it (`aten::addmm`, `Conv`).
        phase: part of the workload: `prefill`, `decode`, or the name of a graph (`model`, `encoder`, `unet`).
        attributes: `stride`, `groups`, `transposed` of a convolution; `repeat` of a recurrent operator.
        after: kind of the operator whose result this one alone takes, empty if there is none: what a compiled engine
            can fuse it into.
    """

    kind: str
    name: str
    phase: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    after: str = ""
    count: int = 1

    @property
    def flops(self) -> float:
        """Operations of one execution."""
        return flops_of(self)

    @property
    def bytes_read(self) -> int:
        """Bytes that one execution reads, weights included."""
        if self.kind == "view":
            return 0
        if self.kind == "gather":  # of a table only the rows that are asked for
            table = self.inputs[0].itemsize * sum(t.elements for t in self.outputs)
            return min(table, self.inputs[0].nbytes) + sum(t.nbytes for t in self.inputs[1:]) if self.inputs else 0
        return sum(t.nbytes for t in self.inputs) - self._unread

    @property
    def _unread(self) -> int:
        """Bytes of a mixture of experts that one execution leaves alone: no more are read than there are rows."""
        if self.kind != "matmul" or len(self.inputs[0].shape) != 2 or len(self.inputs[1].shape) != 3:
            return 0
        experts = max(1, self.inputs[1].shape[0])
        used = min(experts, self.inputs[0].shape[0]) / experts
        return int((1.0 - used) * self.inputs[1].nbytes)

    @property
    def bytes_written(self) -> int:
        """Bytes that one execution writes."""
        return 0 if self.kind == "view" else sum(t.nbytes for t in self.outputs)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the weights that one execution reads."""
        return min(self.bytes_read, sum(t.nbytes for t in self.inputs if t.parameter) - self._unread)


def flops_of(op: Operator) -> float:
    """Operations of one execution, by hand-derived formulas.

    A product (M, K) x (K, N) takes 2 MKN; a convolution 2 x outputs x weights of one output channel (inputs in place of
    outputs if transposed); attention of H heads 2 H Lq Lk (D + Dv) per row of the batch.
    """
    if op.kind == "matmul":
        left, right = op.inputs[0].shape, op.inputs[1].shape
        inner = left[-1] if left else 1
        columns = right[-1] if len(right) > 1 else 1
        rows = op.outputs[0].elements // max(1, columns)
        return 2.0 * rows * inner * columns
    if op.kind == "convolution":
        weight = op.inputs[1].shape
        moved = op.inputs[0] if op.attributes.get("transposed") else op.outputs[0]
        return 2.0 * moved.elements * math.prod(weight[1:])
    if op.kind == "attention":
        query, key, value = (t.shape for t in op.inputs[:3])
        return 2.0 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if op.kind == "recurrent":
        weights = sum(t.elements for t in op.inputs if t.parameter and len(t.shape) > 1)
        return 2.0 * weights * float(op.attributes.get("repeat", 1))
    return 0.0


@dataclass(frozen=True)
class OperatorGraph:
    """Everything that one execution of a workload computes.

    Attributes:
        model, family, task: of the model.
        batch: inputs executed together. length: tokens or samples of one, None for the task's own example.
        new_tokens: steps of generation after the prompt; 0 where nothing is generated.
        operators: with counts, so that their sums are the totals.
        graphs: names of the executable graphs.
        weights_bytes: of all weights of the graphs, each counted once, in fp32.
        peak_bytes: the most that inputs and intermediate results hold at one time in fp32 eager execution, by phase.
        calls: executions of a graph, by phase.
        cache_bytes: keys and values at the end of the generation, in fp32.
        notes: what a reader has to know.
    """

    model: str
    digest: str
    family: str
    task: str
    batch: int
    length: int | None
    operators: tuple[Operator, ...]
    weights_bytes: int
    peak_bytes: dict[str, int]
    calls: dict[str, int] = field(default_factory=dict)
    cache_bytes: int = 0
    new_tokens: int = 0
    graphs: tuple[str, ...] = ("model",)
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        """Operations of the whole workload."""
        return sum(op.count * op.flops for op in self.operators)

    @property
    def bytes_read(self) -> int:
        """Bytes read, each operator's inputs counted every time."""
        return sum(op.count * op.bytes_read for op in self.operators)

    @property
    def bytes_written(self) -> int:
        """Bytes written."""
        return sum(op.count * op.bytes_written for op in self.operators)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of weights read, counted every time they are."""
        return sum(op.count * op.parameter_bytes for op in self.operators)

    @property
    def activation_bytes(self) -> int:
        """The most that inputs and intermediate results hold at one time."""
        return max(self.peak_bytes.values(), default=0)

    @property
    def table_bytes(self) -> int:
        """Bytes of the weights of which only rows are read (embeddings), each table once."""
        tables = {op.inputs[0] for op in self.operators if op.kind == "gather" and op.inputs and op.inputs[0].parameter}
        return min(self.weights_bytes, sum(table.nbytes for table in tables))

    @property
    def phases(self) -> tuple[str, ...]:
        """Phases in the order they run."""
        return tuple(dict.fromkeys(op.phase for op in self.operators))

    def of_phase(self, phase: str) -> tuple[Operator, ...]:
        """The operators of one phase."""
        return tuple(op for op in self.operators if op.phase == phase)


def merged(operators: Iterable[Operator]) -> tuple[Operator, ...]:
    """Equal operators as one with their counts added, in order of first appearance."""
    found: dict[tuple[Any, ...], Operator] = {}
    counts: dict[tuple[Any, ...], int] = {}
    for op in operators:
        attributes = tuple(sorted((name, str(value)) for name, value in op.attributes.items()))
        key = (op.kind, op.name, op.phase, op.inputs, op.outputs, attributes, op.after)
        found.setdefault(key, op)
        counts[key] = counts.get(key, 0) + op.count
    return tuple(
        Operator(op.kind, op.name, op.phase, op.inputs, op.outputs, op.attributes, op.after, counts[key])
        for key, op in found.items()
    )
