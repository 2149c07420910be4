"""How much memory a workload needs: weights, activations, cache and the runtime itself.

What an engine makes of a model's bytes (copies packed for the processor, tables that are only mapped, arenas that grow
in steps, the framework beside it) is a line through measured peaks, see `learning.memory_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass

from accel.core.performance.operators import OperatorGraph

#: bytes of one number
ITEM = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
MIB = 1 << 20
#: what the peak is a line of, see `parts`
PARTS = ("runtime", "dense", "tables", "activations", "cache")
#: where nothing was measured: an accelerator holds weights once, beside its own context; browsers hold them twice
UNMEASURED = {
    "accelerator": {"runtime": 600 * MIB, "dense": 1.0, "tables": 1.0, "activations": 1.2, "cache": 1.0},
    "ort-web": {"runtime": 400 * MIB, "dense": 2.0, "tables": 2.0, "activations": 1.5, "cache": 2.0},
    "qnn": {"runtime": 200 * MIB, "dense": 2.0, "tables": 2.0, "activations": 1.5, "cache": 2.0},
    "torch-compile": {"runtime": 1100 * MIB, "dense": 1.0, "tables": 1.0, "activations": 1.5, "cache": 2.0},
}


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


def parts(graph: OperatorGraph, precision: str = "fp32") -> dict[str, float]:
    """What a peak is a line of, in bytes (1 for the runtime).

    `tables` are weights of which only rows are read; `dense` are the others. int8 has activations in fp32.
    """
    item = ITEM.get(precision, 4) / 4
    between = 1.0 if precision == "int8" else item
    return {
        "runtime": 1.0,
        "dense": (graph.weights_bytes - graph.table_bytes) * item,
        "tables": graph.table_bytes * item,
        "activations": graph.activation_bytes * between,
        "cache": graph.cache_bytes * between,
    }


def memory_of(graph: OperatorGraph, engine: str, precision: str = "fp32", platform: str = "cpu") -> MemoryEstimate:
    """Peak memory of a process that executes the workload, or on an accelerator of what it holds there.

    Args:
        engine: name of an engine. precision: one of `accel.core.types.PRECISIONS`.
        platform: of the device; `openvino` counts as a processor.
    """
    from accel.core.performance.learning import memory_line

    line = UNMEASURED["accelerator"] if platform not in ("cpu", "openvino") else memory_line(engine)
    bytes_of = {name: line[name] * amount for name, amount in parts(graph, precision).items()}
    return MemoryEstimate(
        weights=int(bytes_of["dense"] + bytes_of["tables"]),
        activations=int(bytes_of["activations"]),
        cache=int(bytes_of["cache"]),
        runtime=int(bytes_of["runtime"]),
    )
