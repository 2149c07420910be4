"""Measured seconds by class of operators, from what engines say about their own operators.

`measured` is the near end; the far end is a bench process, since counting makes an engine slower: its times are set
beside predictions by class, never taken as the latency.
"""

from __future__ import annotations

import functools
from typing import Any

from accel.core import prepared
from accel.core.bench.far import CellFar
from accel.core.contracts import OperatorTime
from accel.core.performance.prices import CLASSES
from accel.core.registry import engine
from accel.core.types import Model, Options, Plan
from accel.core.worker import Worker, main, to_json

#: executions before the one that is looked at
WARM = 2
_PRODUCTS = ("FullyConnected", "MatMul", "Gemm", "LSTMSequence", "GRUSequence", "RNNSequence", "FusedGemm")
_CONVOLUTIONS = ("Convolution", "GroupConvolution", "Deconvolution", "FusedConv", "Conv", "ConvTranspose")
_ATTENTIONS = ("ScaledDotProductAttention", "ScaledDotProductAttentionWithKVCache", "MHA", "GroupQueryAttention")
_NOTHING = ("Reshape", "Input", "Output", "Parameter", "Result", "Const")


def measured(model: Model, plan: Plan, options: Options, batch: int, length: int | None) -> dict[str, float] | None:
    """Seconds of one execution by class of operators, see `prices.CLASSES`; None where the engine does not tell.

    Raises:
        AccelError: the model cannot be run under the plan.
    """
    extra = {"bench": {"batch": batch, "length": length, "cpus": None}}
    with Worker(model, (), options, module="accel.core.performance.class_times", extra=extra) as worker:
        found: dict[str, float] = worker.call("classes", plan=to_json(plan))["classes"]
    return found or None


def by_class(times: list[OperatorTime]) -> dict[str, float]:
    """Seconds by class; empty where there are no times."""
    total = dict.fromkeys(CLASSES, 0.0)
    for one in times:
        total[class_named(one)] += one.seconds
    return {name: seconds for name, seconds in total.items() if seconds > 0}


def class_named(one: OperatorTime) -> str:
    """The class of what an engine executed; what fused operators do beside a product counts as the product."""
    if one.name in _CONVOLUTIONS or _kind(one.name) == "convolution":
        narrow = len(one.shapes) > 1 and len(one.shapes[1]) > 2 and one.shapes[1][1] == 1 < one.shapes[0][1]
        return "depthwise" if narrow or "dw" in one.detail.lower() else "convolution"
    if one.name in _PRODUCTS or _kind(one.name) in ("matmul", "recurrent"):
        return "product"
    if one.name in _ATTENTIONS or "scaled_dot_product" in one.name or _kind(one.name) == "attention":
        return "attention"
    return "overhead" if one.name in _NOTHING or _kind(one.name) == "view" else "memory"


@functools.cache
def _kind(name: str) -> str:
    """The kind, of `operators.KINDS`, of an operator of torch or ONNX; empty for unknown names."""
    if "::" in name:
        from accel.core.performance.capture import KIND_OF

        return KIND_OF.get(name.rpartition("::")[2], "")
    from accel.core.performance.onnx_tracing import KIND_OF as ONNX

    return ONNX.get(name, "")


class ClassFar(CellFar):
    """A cell whose operators are timed."""

    def classes(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Seconds by class of one execution under a plan."""
        wanted = Plan(**plan)
        chosen = engine(wanted.engine)
        folder = prepared.keep(self.source.model, wanted, lambda empty: chosen.prepare(self.source, wanted, empty))
        source = self.source if chosen.needs_framework else None
        self.session = chosen.load_timed(folder, self.source.recipe, wanted, source)
        try:
            for _ in range(WARM):
                self._run()
            return {"classes": by_class(self.session.operator_times(self._run))}
        finally:
            self.session.close()
            self.session = None


if __name__ == "__main__":
    main(ClassFar)
