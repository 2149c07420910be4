"""How much memory a workload needs: weights, activations, cache and the runtime itself."""

from __future__ import annotations

from dataclasses import dataclass

from accel.core.performance.operators import OperatorGraph

#: bytes of one number
ITEM = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
MIB = 1 << 20
#: what a process holds once the engine is loaded and nothing else, and how often an engine holds the weights at its
#: worst moment: measured with `accel bench` on Linux x86_64 with the versions of pyproject.toml
RUNTIME = {
    "torch": 640 * MIB, "torch-compile": 900 * MIB, "onnxruntime": 130 * MIB, "openvino": 220 * MIB,
    "qnn": 200 * MIB, "ort-web": 400 * MIB,
}  # fmt: skip
COPIES = {"torch": 1.0, "torch-compile": 1.0, "onnxruntime": 2.0, "openvino": 2.0, "qnn": 2.0, "ort-web": 2.0}


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory in bytes, by what holds it."""

    weights: int
    activations: int
    cache: int
    runtime: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.cache + self.runtime


def memory_of(graph: OperatorGraph, engine: str, precision: str = "fp32") -> MemoryEstimate:
    """Peak memory of a process that executes the workload.

    Args:
        engine: name of an engine. precision: one of `accel.core.types.PRECISIONS`; int8 has activations in fp32.
    """
    item = ITEM.get(precision, 4)
    between = 4 if precision == "int8" else item
    return MemoryEstimate(
        weights=int(graph.weights_bytes * item / 4 * COPIES.get(engine, 1.0)),
        activations=graph.activation_bytes * between // 4,
        cache=graph.cache_bytes * between // 4,
        runtime=RUNTIME.get(engine, 500 * MIB),
    )
