"""How a workload scales with batch and length, where its knee is, and what would make it faster, with the gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accel.core.errors import AccelError
from accel.core.performance import calibration, graphs, predict
from accel.core.performance.machines import Machine
from accel.core.performance.operators import OperatorGraph
from accel.core.performance.predict import Prediction
from accel.core.performance.prices import Roofline

BATCHES = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
#: the knee is the smallest batch that reaches this share of the best throughput
KNEE = 0.9
#: gains below this are not worth a line
LEAST_GAIN = 1.05


def scaling(
    prediction: Prediction, graph: OperatorGraph, machine: Machine, sized: Callable[[int, int | None], OperatorGraph]
) -> dict[str, Any]:
    """Latency and throughput over batch (at the workload's length) and over length (at its batch).

    Args:
        sized: gives the workload at another batch and length; raises InputError where the model takes none.

    Returns:
        device, engine, precision; `batch` and `seq`: lists of {size, latency_ms, throughput_per_s, memory_bytes};
        `knee_batch`: the smallest batch with 90 % of the best throughput, among those that fit into memory.
    """

    def at(batch: int, length: int | None) -> dict[str, Any] | None:
        try:
            found = predict.latency(sized(batch, length), machine, prediction.engine, prediction.precision)
        except AccelError:
            return None  # a length beyond what the model takes
        return {
            "size": 0,
            "latency_ms": 1e3 * found.latency_s,
            "throughput_per_s": found.throughput_per_s,
            "memory_bytes": found.memory.total,
        }

    batches = [{**one, "size": size} for size in BATCHES if (one := at(size, graph.length))]
    lengths: list[dict[str, Any]] = []
    if graph.family in graphs.TEXT and graph.length is not None:
        lengths = [{**one, "size": size} for size in LENGTHS if (one := at(graph.batch, size))]
    return {
        "device": machine.id,
        "engine": prediction.engine,
        "precision": prediction.precision,
        "batch": batches,
        "seq": lengths,
        "knee_batch": knee(batches, machine.memory_bytes),
    }


def knee(batches: Sequence[dict[str, Any]], memory_bytes: int | None) -> int | None:
    """The smallest batch with 90 % of the best throughput among those that fit; None where none fits."""
    fitting = [one for one in batches if memory_bytes is None or one["memory_bytes"] <= memory_bytes]
    if not fitting:
        return None
    best = max(one["throughput_per_s"] for one in fitting)
    return next(int(one["size"]) for one in fitting if one["throughput_per_s"] >= KNEE * best)


def recommendations(prediction: Prediction, graph: OperatorGraph, machine: Machine) -> list[dict[str, Any]]:
    """Other engines and precisions on the same device, and other numbers of threads, that are predicted to be faster.

    Fewer threads are looked at where the engine was calibrated with them (`--calibrate --threads`).

    Returns:
        dicts with `change`, `option` (what to add to the command), `gain` (factor), and `certain`: whether both
        predictions are calibrated. A gain within the intervals is left out.
    """
    found = []
    for engine in machine.engines:
        for precision in predict.able(engine, machine, graph.family, graph.task):
            if precision not in machine.gflops:
                continue
            if (engine, precision) == (prediction.engine, prediction.precision):
                continue
            option = f"--engine {engine} --precision {precision}"
            found.append(_compared(prediction, graph, machine, engine, precision, 0, option))
    for threads in calibration.threads_kept(prediction.engine) if machine.present else ():
        option = f"--threads {threads}"
        found.append(_compared(prediction, graph, machine, prediction.engine, prediction.precision, threads, option))
    return sorted((one for one in found if one is not None), key=lambda one: -float(one["gain"]))


def _compared(
    prediction: Prediction,
    graph: OperatorGraph,
    machine: Machine,
    engine: str,
    precision: str,
    threads: int,
    option: str,
) -> dict[str, Any] | None:
    try:
        other = predict.latency(graph, machine, engine, precision, threads)
        base = prediction
        if other.calibrated != base.calibrated:
            # a calibrated figure and a roofline do not compare: both as rooflines then
            rates = Roofline(machine, base.engine, base.precision)
            theirs = Roofline(machine, engine, precision)
            gain = sum(predict.seconds_by_class(graph, rates).values()) / sum(
                predict.seconds_by_class(graph, theirs).values()
            )
        else:
            gain = base.latency_s / other.latency_s
    except AccelError:
        return None
    certain = other.calibrated and base.calibrated
    if gain < LEAST_GAIN or ((engine != base.engine or threads) and not certain):
        return None
    words = [engine] if engine != base.engine else []
    words += [precision] if precision != base.precision else []
    words += [f"{threads} threads" if threads > 1 else "one thread"] if threads else []
    return {
        "change": " in ".join(words),
        "option": option,
        "device": machine.id,
        "gain": gain,
        "measure": "latency",
        "certain": certain,
    }


def batching(scalings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Larger batches up to the knee, where they pay."""
    found = []
    for one in scalings:
        at = {entry["size"]: entry["throughput_per_s"] for entry in one["batch"]}
        knee_at = one["knee_batch"]
        if knee_at and 1 in at and at[knee_at] / at[1] >= LEAST_GAIN:
            found.append(
                {
                    "change": f"batches of {knee_at}",
                    "option": f"--batch {knee_at}",
                    "device": one["device"],
                    "gain": at[knee_at] / at[1],
                    "measure": "throughput",
                    "certain": False,
                }
            )
    return found
