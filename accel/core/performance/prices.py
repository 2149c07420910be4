"""What one operator costs on a device: a roofline of its peaks, or what calibration measured of operators like it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from accel.core.performance.machines import OVERHEAD_S, Machine
from accel.core.performance.memory import ITEM
from accel.core.performance.operators import FUSED, Operator

#: classes of operators that are priced and corrected together
CLASSES = ("product", "convolution", "depthwise", "attention", "memory", "overhead")
#: engines that compile a graph, and so fold operators into one another
COMPILED = frozenset(("onnxruntime", "openvino", "torch-compile", "ort-web", "qnn"))
#: share of the peaks that operators reach where nothing was measured: the middle of what six networks reached in torch
#: eager on one processor (0.6 to 0.7 at batch 8)
REACHED = 0.65


@dataclass(frozen=True)
class Price:
    """Seconds of one execution of an operator, and what bounds it: `compute`, `bandwidth` or `overhead`."""

    seconds: float
    bound: str


def class_of(op: Operator) -> str:
    """The class of an operator, one of `CLASSES`."""
    if op.kind in ("matmul", "recurrent"):
        return "product"
    if op.kind == "convolution":
        return "depthwise" if int(op.attributes.get("groups", 1)) > 1 and op.inputs[1].shape[1] == 1 else "convolution"
    if op.kind == "view":
        return "overhead"
    return "attention" if op.kind == "attention" else "memory"


def converted(op: Operator, precision: str) -> Operator:
    """The operator with fp32 tensors in another precision; with int8 the weights alone are narrower."""
    if precision == "fp32":
        return op
    item = ITEM[precision]

    def size(itemsize: int, parameter: bool) -> int:
        return item if itemsize == 4 and (parameter or precision != "int8") else itemsize

    inputs = tuple(replace(t, itemsize=size(t.itemsize, t.parameter)) for t in op.inputs)
    outputs = tuple(replace(t, itemsize=size(t.itemsize, t.parameter)) for t in op.outputs)
    return replace(op, inputs=inputs, outputs=outputs)


class Rates(ABC):
    """Prices of one engine on one device in one precision."""

    #: seconds of executing a graph at all
    call_s: float = 0.0
    #: by how much (logarithm) the interval is wider, since the machine was restless when it was measured
    widening: float = 0.0
    #: what it is based on: `calibrated`, or the basis of a `Machine`
    basis: str = ""

    @abstractmethod
    def price(self, op: Operator) -> Price:
        """The cost of one execution."""


class Roofline(Rates):
    """max(operations / peak, bytes / bandwidth) and an overhead for each operator (Williams et al. 2009).

    Williams, Waterman, Patterson: Roofline, Communications of the ACM 52(4), https://doi.org/10.1145/1498765.1498785.
    """

    def __init__(self, machine: Machine, engine: str, precision: str) -> None:
        self.basis = machine.basis
        self._precision = precision
        self._peak = machine.peak(precision) * 1e9 * REACHED
        self._bandwidth = machine.bandwidth * 1e9 * REACHED
        self._overhead = OVERHEAD_S.get(machine.platform, 5e-6)
        self._compiled = engine in COMPILED
        self.call_s = 4 * self._overhead

    def price(self, op: Operator) -> Price:
        """See `Rates.price`."""
        if op.kind == "view":
            return Price(0.0 if self._compiled else self._overhead / 3, "overhead")
        if self._compiled and op.after and op.kind in FUSED:
            return Price(0.0, "bandwidth")
        op = converted(op, self._precision)
        compute = op.flops / self._peak
        bandwidth = (op.bytes_read + op.bytes_written) / self._bandwidth
        seconds = max(compute, bandwidth) + self._overhead
        if self._overhead > max(compute, bandwidth):
            return Price(seconds, "overhead")
        return Price(seconds, "compute" if compute >= bandwidth else "bandwidth")


def geometric(value: float) -> float:
    """Natural logarithm, of at least a tiny number."""
    return math.log(max(value, 1e-12))
