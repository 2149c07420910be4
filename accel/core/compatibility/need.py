"""What a workload needs of a device's memory, and how far that may be off.

On a processor two amounts count: *resident* memory is what the machine has to have free; *private* memory is what
`accel run --memory-limit` bounds, which weights that are mapped from a file count towards only where the mapping can
be written, and the stacks of threads do. Both are lines through measured peaks (`core/performance/memory.py`); their
bounds are above all of those, by a margin that is wider for what lies between operators (`tests/perf/test_memory.py`).
Other devices have a stated assumption for each part instead: no measurement of this project.
"""

from __future__ import annotations

from dataclasses import dataclass

from accel.core.performance.memory import BETWEEN, ON_HOST, UNMEASURED, along, assumed, lines, measured, parts
from accel.core.performance.operators import OperatorGraph

#: bytes that the stack of a thread counts for against a limit of private memory (the default of Linux and macOS)
STACK = 8 << 20
#: one-sided bounds of each part where nothing was measured: weights are known, what libraries add is not
ASSUMED = {"runtime": 1.5, "dense": 1.05, "tables": 1.05, "activations": 1.6, "cache": 1.15}
#: the bound of a process whose engine was not measured
UNKNOWN_ENGINE = 1.5
#: by how much the bound is wider for a precision that the lines were not measured in
OTHER_PRECISION = 1.3
#: copies of the weights that an export has at one time beside the model, and how far the sum may be off
EXPORT_COPIES, PREPARING_BOUND = 3, 1.3


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


def of(graph: OperatorGraph, engine: str, precision: str, platform: str, threads: int = 1) -> Need:
    """What a workload needs.

    Args:
        threads: of the process; each has a stack.
    """
    amounts = parts(graph, precision)
    weights = int(amounts["dense"] + amounts["tables"])
    processor = platform in ("cpu", "openvino")
    preparing, preparing_bound = _preparing(graph, engine, threads)
    if processor and engine in measured():
        resident, resident_bound = _measured(engine, "resident", amounts)
        private, private_bound = _measured(engine, "private", amounts)
        if precision != "fp32":  # what was measured is fp32
            resident_bound, private_bound = (int(OTHER_PRECISION * bound) for bound in (resident_bound, private_bound))
        stacks = STACK * max(0, threads - measured()[engine]["threads"])
        return Need(
            resident, resident_bound, private + stacks, private_bound + stacks, preparing, preparing_bound, 0, 0,
            weights, "measured" if precision == "fp32" else "assumed",
        )  # fmt: skip
    line = assumed(engine, platform)
    total = int(along(line, amounts))
    bound = UNKNOWN_ENGINE * total
    if not processor:
        bound = along({name: ASSUMED[name] * factor for name, factor in line.items()}, amounts)
    host, host_bound = (0, 0) if platform in ON_HOST else _loading(graph, precision)
    return Need(total, int(bound), total, int(bound), preparing, preparing_bound, host, host_bound, weights, "assumed")


def _measured(engine: str, kind: str, amounts: dict[str, float]) -> tuple[int, int]:
    """What the lines say, and the bound: a share of all of it, and one of what lies between operators."""
    found, bound = lines(engine, kind), measured()[engine][kind]["bound"]
    total = max(along(line, amounts) for line in found)
    between = along({name: factor for name, factor in found[-1].items() if name in (*BETWEEN, "cache")}, amounts)
    return int(total), int(bound["all"] * total + bound["between"] * between)


def _preparing(graph: OperatorGraph, engine: str, threads: int) -> tuple[int, int]:
    """Private memory of the process that exports a model, which every engine but torch starts from.

    It holds the model as torch does, and copies of its weights: an assumption, checked on a single model.
    """
    if engine.startswith("torch"):
        return 0, 0
    amounts = parts(graph)
    if "torch" in measured():
        loaded = _measured("torch", "private", amounts)[0] + STACK * max(0, threads - measured()["torch"]["threads"])
    else:
        loaded = int(along(UNMEASURED["torch-compile"], amounts))
    total = loaded + EXPORT_COPIES * int(amounts["dense"] + amounts["tables"])
    return total, int(PREPARING_BOUND * total)


def _loading(graph: OperatorGraph, precision: str) -> tuple[int, int]:
    """Memory of the machine while weights are on their way to a device: read once in their own precision."""
    amounts = parts(graph, precision)
    total = UNMEASURED["torch-compile"]["runtime"] + amounts["dense"] + amounts["tables"]
    return int(total), int(1.5 * total)
