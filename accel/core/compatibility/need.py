"""What a workload needs of a device's memory, and how far that may be off.

On a processor two amounts count: *resident* memory is what the machine has to have free; *private* memory is what
`accel run --memory-limit` bounds, which weights that are mapped from a file do not count towards and the stacks of
threads do. Both are lines through measured peaks of processes, shifted by family (`accel/data/compatibility.json`,
written by `tests/perf/test_compat.py`); a bound is above all peaks of its family, for a family that was not measured
above what the line through the other families missed by. Other devices have a
stated assumption for each part instead: no measurement of this project.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.performance.memory import UNMEASURED, memory_of, parts
from accel.core.performance.operators import OperatorGraph

DATA = Path(__file__).resolve().parent.parent.parent / "data" / "compatibility.json"
#: bytes that the stack of a thread counts for against a limit of private memory (the default of Linux and macOS)
STACK = 8 << 20
#: one-sided bounds of each part where nothing was measured: weights are known, what libraries add is not
ASSUMED = {"runtime": 1.5, "dense": 1.05, "tables": 1.05, "activations": 1.6, "cache": 1.15}
#: by how much the bound is wider for a precision that the lines were not measured in
OTHER_PRECISION = 1.3
#: copies of the weights that an export has at one time beside the model, and how far the sum may be off
EXPORT_COPIES, PREPARING_BOUND = 3, 1.3
#: families without attention
CONVOLUTIONAL = ("cnn",)
#: platforms whose memory is the machine's own
ON_HOST = ("cpu", "openvino", "mps", "webgpu", "webnn", "qualcomm")


@dataclass(frozen=True)
class Need:
    """Bytes that a workload takes, each with the bound that 95 % of such needs stay under.

    Attributes:
        resident: of the device. private: as a limit of private memory counts; equals `resident` off the processor.
        preparing: private memory of the process that prepares the model for the engine the first time; 0 for none.
        host: of the machine, for a device with memory of its own; 0 where the device is the machine.
        weights: of them the weights alone.
        basis: `measured` or `assumed`.
    """

    resident: int
    resident_bound: int
    private: int
    private_bound: int
    preparing: int
    preparing_bound: int
    host: int
    host_bound: int
    weights: int
    basis: str


@functools.cache
def lines() -> dict[str, Any]:
    """The measured lines by engine; empty where the file is missing."""
    try:
        data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data


def of(graph: OperatorGraph, engine: str, precision: str, platform: str, threads: int = 1) -> Need:
    """What a workload needs.

    Args:
        threads: of the process; each has a stack.
    """
    amounts = parts(graph, precision)
    weights = int(amounts["dense"] + amounts["tables"])
    known = lines().get("engines", {}).get(engine)
    processor = platform in ("cpu", "openvino")
    if processor and known is not None:
        resident, resident_bound = _on_line(known["resident"], amounts, graph.family)
        private, private_bound = _on_line(known["private"], amounts, graph.family)
        if precision != "fp32":  # what was measured is fp32
            resident_bound, private_bound = (int(OTHER_PRECISION * bound) for bound in (resident_bound, private_bound))
        stacks = STACK * max(0, threads - known["threads"])
        preparing, preparing_bound = _preparing(graph, engine, threads)
        return Need(
            resident, resident_bound, private + stacks, private_bound + stacks, preparing, preparing_bound, 0, 0,
            weights, "measured" if precision == "fp32" else "assumed",
        )  # fmt: skip
    line = UNMEASURED.get(engine, UNMEASURED["torch-compile"]) if platform in ON_HOST else UNMEASURED["accelerator"]
    if processor:
        total = memory_of(graph, engine, precision, platform).total
        bound = int(1.5 * total)
    else:
        total = int(sum(line[name] * value for name, value in amounts.items()))
        bound = int(sum(ASSUMED[name] * line[name] * value for name, value in amounts.items()))
    preparing, preparing_bound = _preparing(graph, engine, threads)
    host, host_bound = (0, 0) if platform in ON_HOST else _loading(graph, precision)
    return Need(total, bound, total, bound, preparing, preparing_bound, host, host_bound, weights, "assumed")


def _on_line(line: dict[str, Any], amounts: dict[str, float], family: str) -> tuple[int, int]:
    """What the line says for a family, and the bound; a wider one for a family that was never measured."""
    total = sum(line["line"][name] * value for name, value in amounts.items())
    own = line["families"].get(family, {"shift": 0.0, "bound": line["bound"]})
    bound = total * math.exp(own["shift"] + own["bound"])
    if family not in CONVOLUTIONAL:
        # attention is computed in ways that keep very different amounts beside its inputs
        bound = max(bound, total + (line["activations"] - line["line"]["activations"]) * amounts["activations"])
    return int(total * math.exp(own["shift"])), int(bound)


def _preparing(graph: OperatorGraph, engine: str, threads: int) -> tuple[int, int]:
    """Private memory of the process that exports a model, which every engine but torch starts from.

    It holds the model as torch does, and copies of its weights: an assumption, checked on a single model.
    """
    if engine.startswith("torch"):
        return 0, 0
    amounts = parts(graph)
    torch = lines().get("engines", {}).get("torch")
    if torch is None:
        loaded = memory_of(graph, "torch").total
    else:
        loaded = _on_line(torch["private"], amounts, graph.family)[0] + STACK * max(0, threads - torch["threads"])
    total = loaded + EXPORT_COPIES * int(amounts["dense"] + amounts["tables"])
    return total, int(PREPARING_BOUND * total)


def _loading(graph: OperatorGraph, precision: str) -> tuple[int, int]:
    """Memory of the machine while weights are on their way to a device: read once in their own precision."""
    amounts = parts(graph, precision)
    total = UNMEASURED["torch-compile"]["runtime"] + amounts["dense"] + amounts["tables"]
    return int(total), int(1.5 * total)
