"""Prices from a calibration: the time of an operator from the measured times of operators like it.

Products, convolutions and attention: a roofline through the best measured rates, times a Gaussian process over the
logarithms of the sizes (Rasmussen and Williams 2006, chapter 2) for how far operators of such sizes stay behind it.
What moves bytes: the measured time over the amount of bytes, interpolated, so that every level of the cache has its own
bandwidth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accel.core.performance.kernels import LARGE, Kernel
from accel.core.performance.operators import FUSED, Operator
from accel.core.performance.prices import COMPILED, Price, Rates, class_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: curves of what moves bytes, by kind of operator
_CURVES = {
    "normalisation": "layernorm", "softmax": "softmax", "elementwise": "add", "copy": "copy", "gather": "gather",
    "reduction": "add", "pooling": "copy", "other": "add",
}  # fmt: skip
#: activations without a transcendental function
_CHEAP = ("relu", "clamp", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu")
#: what is left of the cost of an operator that a compiled engine folds into one of this kind
_FOLDED = {
    "onnxruntime": {"convolution": 0.05, "normalisation": 0.5, "elementwise": 0.5, "matmul": 1.0},
    "openvino": {"convolution": 0.05, "normalisation": 0.2, "elementwise": 0.2, "matmul": 0.1, "activation": 0.2},
}
#: a control that wanders more than this (its median over its fastest) makes intervals wider by as much
RESTLESS = 1.08
#: bytes from which the C library's allocator takes memory from the system anew each time (glibc's largest
#: M_MMAP_THRESHOLD): every page of it is then faulted in; engines with an arena of their own do not
FAULTING = 32 << 20
#: standard deviation of the noise of a measured time, as a share of it
NOISE = 0.04
#: factor between two sizes at which the time is computed; between them it is interpolated, so that it never falls
STEP = 2.0**0.5


class Process:
    """Gaussian-process regression with a squared-exponential kernel and a constant mean.

    Args:
        inputs: (points, features). values: (points,). The scale of lengths is that of the best leave-one-out error.
    """

    SCALES = (0.7, 1.0, 1.5, 2.2, 3.2)

    def __init__(self, inputs: Array, values: Array) -> None:
        import numpy as np

        self._inputs, self.mean = inputs, float(np.median(values))
        rest = values - self.mean
        variance = max(float(np.var(rest)), 0.01)
        best = math.inf
        for scale in self.SCALES:
            kernel = variance * self._similar(inputs, inputs, scale) + NOISE**2 * np.eye(len(values))
            inverse = np.linalg.inv(kernel)
            # leave-one-out residuals in closed form: Rasmussen and Williams 2006, equation 5.12
            error = float(np.mean((inverse @ rest / np.diag(inverse)) ** 2))
            if error < best:
                best, self._scale, self._weights = error, scale, variance * (inverse @ rest)

    @staticmethod
    def _similar(a: Array, b: Array, scale: float) -> Array:
        import numpy as np

        squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)
        result: Array = np.exp(-0.5 * squared / scale**2)
        return result

    def at(self, points: Array) -> Array:
        """Expected values (points,)."""
        found: Array = self.mean + self._similar(points, self._inputs, self._scale) @ self._weights
        return found


class Calibrated(Rates):
    """Prices of one engine on this machine."""

    basis = "calibrated"

    def __init__(self, engine: str, figures: dict[str, Any]) -> None:
        self.engine = engine
        self._compiled = engine in COMPILED
        restless = float(figures.get("restlessness", 1.0))
        self.widening = math.log(restless) if restless > RESTLESS else 0.0
        points = [(Kernel.from_json(p["kernel"]), float(p["seconds"])) for p in figures["points"]]
        times = dict(points)
        self.call_s = min((s for k, s in points if k.kind == "call"), default=1e-6)
        small = [(s - self.call_s) / k.repeat for k, s in points if k.kind == "add" and k.repeat > 1]
        self._overhead = max(1e-7, min(small, default=1e-6))
        views = [(s - self.call_s) / k.repeat for k, s in points if k.kind == "view"]
        self._view = 0.0 if self._compiled else max(1e-7, min(views, default=1e-6))
        samples: dict[str, list[tuple[Operator, float]]] = {}
        curves: dict[str, dict[int, float]] = {}
        for kernel, seconds in times.items():
            each = max((seconds - self.call_s) / kernel.repeat, 1e-8)
            if kernel.kind in ("linear", "bmm", "conv2d", "conv1d", "attention"):
                # a chain goes there and back with as many operations either way
                for op in kernel.operators[: 2 if kernel.chained else 1]:
                    samples.setdefault(class_of(op), []).append((op, each))
            elif kernel.kind not in ("call", "view") and kernel.shape != LARGE:
                op = kernel.operators[0]
                moved = op.bytes_read + op.bytes_written
                curves.setdefault(kernel.kind, {})[moved] = each
        self._surfaces = {name: _Surface(found, self._overhead) for name, found in samples.items() if len(found) > 3}
        self._curves = {name: _curve(found, self._overhead) for name, found in curves.items()}

        large = [s for k, s in times.items() if k.shape == LARGE and k.kind == "relu"]
        self._faulting = 0.0
        if large and not self._compiled and "relu" in self._curves:
            size = 4 * math.prod(LARGE)
            self._faulting = max(0.0, large[0] - _interpolated(self._curves["relu"], 2 * size)) / size

    @functools.cached_property
    def _bandwidth(self) -> float:
        """Bytes per second of large copies."""
        slowest = [moved[-1] / seconds[-1] for moved, seconds in self._curves.values()]
        return max(slowest, default=1e10)

    def price(self, op: Operator) -> Price:
        """See `Rates.price`."""
        if op.kind == "view":
            return Price(self._view, "overhead")
        found = self._priced(op)
        size = max((t.nbytes for t in op.outputs), default=0)
        if self._faulting and size > FAULTING:
            return Price(found.seconds + self._faulting * size, found.bound)
        return found

    def _priced(self, op: Operator) -> Price:
        surface = self._surfaces.get(class_of(op))
        if surface is not None:
            seconds = surface.at(op)
            reading = op.parameter_bytes / self._bandwidth
            return Price(seconds, "bandwidth" if reading > 0.5 * seconds else "compute")
        seconds = self._moving(op)
        if self._compiled and op.name.endswith("constant_pad_nd"):
            return Price(0.0, "bandwidth")  # becomes the padding of a convolution
        if self._compiled and op.after and op.kind in FUSED:
            seconds *= _FOLDED.get(self.engine, {}).get(op.after, 1.0)
        return Price(seconds, "overhead" if seconds < 2 * self._overhead else "bandwidth")

    def _moving(self, op: Operator) -> float:
        moved = op.bytes_read + op.bytes_written
        kind = _CURVES.get(op.kind, "add")
        if op.kind == "copy" and self._compiled:
            kind = "relu"  # one pass: what is measured as a copy there is a transposition
        for name in ("batch", "group"):
            if op.name.endswith(f"{name}_norm") and f"{name}norm" in self._curves:
                kind = f"{name}norm"
        if op.kind == "activation":
            kind = "relu" if any(word in op.name for word in _CHEAP) else "gelu"
        if kind not in self._curves:
            return self._overhead + moved / self._bandwidth
        return _interpolated(self._curves[kind], moved)


def _curve(found: dict[int, float], overhead: float) -> tuple[list[float], list[float]]:
    """Bytes and seconds, both rising; from a tiny operator on."""
    pairs = sorted({1024: overhead, **found}.items())
    seconds, most = [], 0.0
    for _, value in pairs:
        most = max(most, value)
        seconds.append(most)
    return [float(moved) for moved, _ in pairs], seconds


def _interpolated(curve: tuple[list[float], list[float]], moved: float) -> float:
    """Log-log interpolation; beyond the ends the time is constant (small) or in proportion (large)."""
    sizes, seconds = curve
    if moved <= sizes[0]:
        return seconds[0]
    if moved >= sizes[-1]:
        return seconds[-1] * moved / sizes[-1]
    at = next(i for i, size in enumerate(sizes) if size >= moved)
    share = math.log(moved / sizes[at - 1]) / math.log(sizes[at] / sizes[at - 1])
    return math.exp((1 - share) * math.log(seconds[at - 1]) + share * math.log(seconds[at]))


def features(op: Operator) -> tuple[list[float], float]:
    """Logarithms of the sizes that decide an operator's rate, and the first of them as the amount that grows.

    The amount (rows, pixels, or pairs of positions) is what batch and length change; the others belong to the model.
    """
    if op.kind == "convolution":
        weight = op.inputs[1].shape
        pixels = op.outputs[0].elements / max(1, op.outputs[0].shape[1])
        stride = math.prod(op.attributes.get("stride", [1])) or 1
        area = math.prod(weight[2:])
        return [math.log(pixels), math.log(weight[1]), math.log(weight[0]), math.log(area), math.log(stride)], pixels
    if op.kind == "attention":
        query, key = op.inputs[0].shape, op.inputs[1].shape
        heads = math.prod(query[:-2])
        return [math.log(heads), math.log(query[-2]), math.log(key[-2]), math.log(query[-1])], heads
    left, right = op.inputs[0].shape, op.inputs[1].shape
    inner, columns = left[-1] if left else 1, right[-1] if len(right) > 1 else 1
    together = math.prod(right[:-2]) if len(right) > 2 else 1
    rows = max(1.0, op.outputs[0].elements / max(1, columns) / together)
    own = 0.0 if op.inputs[1].parameter else 2.0  # the product of two results is another routine
    return [math.log(rows), math.log(max(1, inner)), math.log(max(1, columns)), math.log(together), own], rows


class _Surface:
    """Time of one class of operators over their sizes."""

    def __init__(self, samples: Sequence[tuple[Operator, float]], overhead: float) -> None:
        import numpy as np

        self._overhead = overhead
        self._peak = max(op.flops / seconds for op, seconds in samples)
        self._bandwidth = max((op.bytes_read + op.bytes_written) / seconds for op, seconds in samples)
        table = np.array([features(op)[0] for op, _ in samples])
        behind = np.array([math.log(seconds / self._roofline(op.flops, op)) for op, seconds in samples])
        self._process = Process(table, behind)

    def _roofline(self, flops: float, op: Operator, share: float = 1.0) -> float:
        moved = sum(t.nbytes if t.parameter else share * t.nbytes for t in (*op.inputs, *op.outputs))
        if op.kind == "attention":  # the scores are written and read, however small the heads are
            moved += share * 8.0 * math.prod(op.inputs[0].shape[:-1]) * op.inputs[1].shape[-2]
        return share * flops / self._peak + moved / self._bandwidth + self._overhead

    def at(self, op: Operator) -> float:
        """Seconds; never less for more rows of the same operator."""
        import numpy as np

        sizes, amount = features(op)
        steps = max(1, math.ceil(math.log(amount) / math.log(STEP))) if amount > 1 else 0
        grid = np.array([STEP**i for i in range(steps + 1)])
        points = np.tile(np.array(sizes), (len(grid), 1))
        points[:, 0] = np.log(grid)
        bases = np.array([self._roofline(op.flops, op, g / amount) for g in grid])
        rising = np.maximum.accumulate(bases * np.exp(self._process.at(points)))
        return float(np.exp(np.interp(math.log(amount), np.log(grid), np.log(rising))))
