"""How much memory a workload needs: weights, activations, cache and the runtime itself.

A process has two peaks, and the larger one counts. While it is *loading*, an engine holds its libraries, the weights as
it repacks them and the largest matrix a second time; while it is *running*, libraries, weights, and what lies between
operators. What an engine makes of each part was measured by `tests/perf/test_memory.py` (`accel/data/memory.json`):

- torch holds weights once;
- ONNX Runtime maps them from a file, and what it packs for the processor takes the place of what was mapped. A table
  that also is the last matrix (a tied head) is packed beside itself. Its arena keeps the most that was ever held, and
  from the second execution of a shape on a second block, planned for that shape;
- OpenVINO keeps what it packs beside what is mapped.

The libraries are as large as the calibration of this machine measured them, where there is one.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.performance.operators import Operator, OperatorGraph, Tensor

DATA = Path(__file__).resolve().parent.parent.parent / "data" / "memory.json"
#: bytes of one number
ITEM = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
MIB = 1 << 20
#: what peaks are lines of, see `parts`
PARTS = (
    "runtime", "dense", "tables", "tied", "largest", "activations", "products", "windows", "signals", "scores", "cache",
)  # fmt: skip
#: parts that are weights, and parts that are held between operators
_WEIGHTS = ("dense", "tables", "tied", "largest")
BETWEEN = ("activations", "products", "windows", "signals", "scores")
#: platforms whose memory is the machine's own
ON_HOST = ("cpu", "openvino", "mps", "webgpu", "webnn", "qualcomm")
#: where nothing was measured: an accelerator holds weights once, beside its own context; browsers hold them twice
UNMEASURED = {
    "accelerator": {"runtime": 600 * MIB, "dense": 1.0, "tables": 1.0, "activations": 1.2, "cache": 1.0},
    "ort-web": {"runtime": 400 * MIB, "dense": 2.0, "tables": 2.0, "activations": 1.5, "cache": 2.0},
    "qnn": {"runtime": 200 * MIB, "dense": 2.0, "tables": 2.0, "activations": 1.5, "cache": 2.0},
    "torch-compile": {"runtime": 1100 * MIB, "dense": 1.0, "tables": 1.0, "activations": 1.5, "cache": 2.0},
}

#: bytes of each part that one byte of it takes; of `runtime` the bytes themselves
Line = dict[str, float]


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
    """What peaks are lines of, in bytes (1 for the runtime).

    `tables` are weights of which only rows are read and `dense` the others; `tied` is a table that a product takes
    whole as well, and `largest` the largest matrix. `activations` are the most that inputs and results hold at one time
    when every operator is executed by itself; `products` is the most that one product takes and gives, `windows` and
    `signals` one convolution or pooling, over pictures (which engines fold with what follows) and over signals of one
    dimension (which they do not); `scores` the largest square of attention. int8 has activations in fp32.
    """
    item = ITEM.get(precision, 4) / 4
    between = 1.0 if precision == "int8" else item
    found = {
        "runtime": 1.0,
        "dense": (graph.weights_bytes - graph.table_bytes) * item,
        "tables": graph.table_bytes * item,
        "tied": _tied(graph) * item,
        "largest": max((size for op in graph.operators for size in _matrices(op)), default=0) * item,
        "activations": graph.activation_bytes * between,
        "products": 0.0,
        "windows": 0.0,
        "signals": 0.0,
        "scores": 0.0,
        "cache": graph.cache_bytes * between,
    }
    for op in graph.operators:
        if op.kind in ("matmul", "convolution", "pooling"):
            name = "products" if op.kind == "matmul" else "signals" if len(op.inputs[0].shape) < 4 else "windows"
            found[name] = max(found[name], between * _between(op))
        elif op.kind in ("attention", "softmax"):
            found["scores"] = max(found["scores"], between * _scores(op))
    return found


def _between(op: Operator) -> int:
    return sum(t.nbytes for t in (*op.inputs, *op.outputs) if not t.parameter)


def _scores(op: Operator) -> int:
    if op.kind == "softmax":
        return op.outputs[0].nbytes
    query, key = op.inputs[0], op.inputs[1]
    return math.prod(query.shape[:-1]) * key.shape[-2] * query.itemsize


def _matrices(op: Operator) -> list[int]:
    """Bytes of the weights that an operator takes whole; a matrix that is spread over the batch counts once."""
    if op.kind not in ("matmul", "convolution", "recurrent"):
        return []
    return [_own(op, t) for t in op.inputs if t.parameter]


def _own(op: Operator, tensor: Tensor) -> int:
    if op.kind == "matmul" and len(tensor.shape) > 2:
        return math.prod(tensor.shape[-2:]) * tensor.itemsize
    return tensor.nbytes


def _tied(graph: OperatorGraph) -> int:
    """Bytes of the table that a product takes whole too; 0 where that matrix is one of its own."""
    tables = {op.inputs[0].shape for op in graph.operators if op.kind == "gather" and op.inputs}
    tied, used = 0, 0.0
    for op in graph.operators:
        if op.phase != "decode":
            used += sum(_matrices(op)) * op.count / max(1, graph.calls.get(op.phase, 1))
        if op.kind == "matmul":
            for t in op.inputs:
                shape = t.shape[-2:]
                if t.parameter and (shape in tables or shape[::-1] in tables):
                    tied = max(tied, _own(op, t))
    return tied if used >= graph.weights_bytes - graph.table_bytes + tied / 2 else 0


@functools.cache
def measured() -> dict[str, Any]:
    """What was measured, by engine; empty where the file is missing."""
    try:
        data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found: dict[str, Any] = data["engines"]
    return found


def lines(engine: str, kind: str = "resident") -> list[Line]:
    """The lines of an engine on this machine's processor, the largest of which is the peak; none where unmeasured.

    Args:
        kind: `resident`, or `private`: what a limit of private memory counts.
    """
    known = measured().get(engine)
    if known is None:
        return []
    shift = _libraries(engine, known["calibration_bytes"])
    return [{**line, "runtime": line["runtime"] + shift} for line in (known[kind]["loading"], known[kind]["running"])]


def _libraries(engine: str, there: int) -> int:
    """By how many bytes the libraries are larger here than where the lines were measured, by the calibration."""
    from accel.core.performance import calibration

    kept = calibration.kept(engine)
    return 0 if kept is None else int(kept["runtime_bytes"]) - there


def along(line: Line, amounts: dict[str, float]) -> float:
    """Bytes that a line says."""
    return sum(factor * amounts[name] for name, factor in line.items())


def assumed(engine: str, platform: str) -> Line:
    """What is taken for granted where nothing was measured."""
    if engine in ("ort-web", "qnn"):
        return UNMEASURED[engine]
    return UNMEASURED["torch-compile" if platform in ON_HOST else "accelerator"]


def memory_of(graph: OperatorGraph, engine: str, precision: str = "fp32", platform: str = "cpu") -> MemoryEstimate:
    """Peak memory of a process that executes the workload, or on an accelerator of what it holds there.

    Args:
        engine: name of an engine. precision: one of `accel.core.types.PRECISIONS`.
        platform: of the device; `openvino` counts as a processor.
    """
    amounts = parts(graph, precision)
    found = lines(engine) if platform in ("cpu", "openvino") else []
    if not found:
        found = [assumed(engine, platform)]
    line = max(found, key=lambda one: along(one, amounts))
    bytes_of = {name: factor * amounts[name] for name, factor in line.items()}
    return MemoryEstimate(
        weights=int(sum(bytes_of.get(name, 0.0) for name in _WEIGHTS)),
        activations=int(sum(bytes_of.get(name, 0.0) for name in BETWEEN)),
        cache=int(bytes_of.get("cache", 0.0)),
        runtime=int(bytes_of["runtime"]),
    )
