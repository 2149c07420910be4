"""What `accel profile` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accel.output import Output, human_bytes

if TYPE_CHECKING:
    from accel.core.performance.profiling import Report, Request, Row

SCHEMA = "accel.profile/1"


def calibrate(output: Output, engines: Sequence[str], threads: int, *, alone: bool) -> None:
    """Measures the engines that are here and says what came of it.

    Args:
        alone: it is all that the command does, so that its outcome is the result.
    """
    from accel.core.cpu import limits
    from accel.core.errors import InputError, UnavailableError
    from accel.core.performance import calibration
    from accel.core.performance.calibrated import RESTLESS
    from accel.core.registry import engine

    for name in engines:
        if name not in calibration.ENGINES:
            raise InputError(f"{name} cannot be calibrated", f"known: {', '.join(calibration.ENGINES)}")
    wanted = [name for name in engines or calibration.ENGINES if engine(name).missing() is None]
    if not wanted:
        raise UnavailableError("no engine that could be calibrated is installed", "pip install torch onnxruntime")
    with output.progress("measuring operators", float(len(wanted)), "engines") as bar:

        def moved(name: str, done: int, total: int) -> None:
            bar.done = wanted.index(name) + done / max(1, total)
            bar.tick(f"measuring {name}")

        outcomes = calibration.calibrate(wanted, threads or limits()[1], moved)

    def human() -> None:
        for one in outcomes:
            if one.refused:
                output.line(f"{one.engine}: not kept, {one.refused}")
                continue
            still = (
                ""
                if one.restlessness <= RESTLESS
                else (f"; the machine was restless ({one.restlessness:.2f}), so intervals are wider")
            )
            output.line(f"{one.engine}: {one.points} operators in {one.seconds:.0f} s{still}")

    if alone:
        data = {"schema": "accel.calibration/1", "engines": [vars(one) for one in outcomes]}
        output.result(data, human, " ".join(one.engine for one in outcomes if not one.refused))
    else:
        for one in outcomes:
            output.note(f"{one.engine}: {one.refused or f'{one.points} operators measured'}")


def accuracy(output: Output) -> None:
    """The errors of predictions, from the ledger."""
    from accel.core.errors import TransferError
    from accel.core.performance import gathering, ledger

    try:
        gathering.gather(output.step)
    except TransferError as error:
        output.warning(f"measurements of bench and run are left out: {error.message}")
    output.step("")
    found = ledger.accuracy()
    everything = ledger.entries()
    overall = ledger.summary(("all", "all", "all"), everything) if everything else None

    def human() -> None:
        if not found:
            output.line("nothing was measured beside a prediction yet: accel profile MODEL --measure, or accel bench")
            return
        rows = [
            [
                one["family"],
                one["device"],
                one["engine"],
                str(one["pairs"]),
                f"{100 * one['mean_absolute_error']:.1f} %",
                f"{100 * one['bias']:+.1f} %",
                f"{100 * one['coverage']:.0f} %",
            ]
            for one in [*found, *([overall] if overall and len(found) > 1 else [])]
        ]
        output.table(("family", "device", "engine", "pairs", "mean error", "bias", "in interval"), rows)

    quiet = "" if overall is None else f"{overall['mean_absolute_error']:.4f}"
    output.result({"schema": "accel.accuracy/1", "accuracy": found, "overall": overall}, human, quiet)


def predict(output: Output, request: Request, *, measure: bool, weights: str | None) -> None:
    """Predicts, measures if asked, and prints."""
    from accel.core.performance import calibration
    from accel.core.performance.profiling import profile

    report = profile(request, output.step)
    output.step("")
    if measure:
        from accel.core.performance.measuring import measure_rows

        measure_rows(report, request, weights, output.step)
        output.step("")
    for name in dict.fromkeys(row.prediction.engine for row in report.rows if not row.prediction.calibrated):
        old = calibration.stale(name) if name in calibration.ENGINES else ""
        if old:
            output.note(f"{old}: accel profile --calibrate measures it anew")
    data = {
        "schema": SCHEMA,
        "model": report.model.name,
        "family": report.model.family,
        "task": report.model.task,
        "flops": report.graph.flops,
        "parameters_bytes": report.graph.weights_bytes,
        "predictions": [_record(report, row) for row in report.rows],
        "left_out": report.left_out,
        "scaling": report.scaling,
        "recommendations": report.recommendations,
        "notes": list(report.graph.notes),
    }
    output.result(data, lambda: _show(output, report), f"{1e3 * report.best.prediction.latency_s:.4g}")


def _record(report: Report, row: Row) -> dict[str, Any]:
    found, memory = row.prediction, row.prediction.memory
    graph = row.graph
    prefill, decode = found.phase_s.get("prefill"), found.phase_s.get("decode")
    steps = graph.calls.get("decode", 0)
    return {
        "model": report.model.name,
        "device": found.device,
        "engine": found.engine,
        "precision": found.precision,
        "batch": found.batch,
        "seq": found.length,
        "latency_ms": 1e3 * found.latency_s,
        "latency_interval_ms": [1e3 * bound for bound in found.interval_s],
        "measured_ms": None if row.measured_s is None else 1e3 * row.measured_s,
        "measured_memory_bytes": row.measured_memory,
        "measured_energy_j": row.measured_joules,
        "not_measured": row.failed or None,
        "throughput_per_s": found.throughput_per_s,
        "memory_bytes": memory.total,
        "memory": {
            "weights_bytes": memory.weights,
            "activations_bytes": memory.activations,
            "cache_bytes": memory.cache,
            "runtime_bytes": memory.runtime,
        },
        "fits": fits(row),
        "energy_j": found.energy_j,
        "power_w": found.power_w,
        "energy_basis": found.energy_basis,
        "bottleneck": found.bottleneck,
        "by_class": {
            name: {"latency_ms": 1e3 * share.seconds, "share": share.share, "bottleneck": share.bound}
            for name, share in found.classes.items()
        },
        "measured_by_class_ms": None
        if row.measured_classes is None
        else {name: 1e3 * seconds for name, seconds in row.measured_classes.items()},
        "phases_ms": {name: 1e3 * seconds for name, seconds in found.phase_s.items()},
        "first_token_ms": None if prefill is None else 1e3 * prefill,
        "per_token_ms": None if decode is None or not steps else 1e3 * decode / steps,
        "new_tokens": graph.new_tokens or None,
        "flops": graph.flops,
        "calibrated": found.calibrated,
        "basis": found.basis,
        "notes": list(found.notes),
    }


def time_text(seconds: float) -> str:
    """`1.23 ms`, `4.5 s`."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def interval_text(low: float, high: float) -> str:
    """`1.2 - 3.4 ms`; each with its unit where they differ."""
    first, last = time_text(low), time_text(high)
    unit = last.rpartition(" ")[2]
    return f"{first.removesuffix(' ' + unit)} - {last}"


def fits(row: Row) -> bool | None:
    """Whether the device's memory holds it; None where nobody knows how much there is."""
    memory = row.machine.memory_bytes
    return None if memory is None else row.prediction.memory.total <= memory


def _show(output: Output, report: Report) -> None:
    graph = report.graph
    what = f"{report.model.name} · {report.model.family} · {report.model.task}"
    size = f"{graph.flops / 1e9:.4g} GFLOP, weights {human_bytes(graph.weights_bytes)} in fp32"
    at = f"batch {graph.batch}" + ("" if graph.length is None else f", {graph.length} {_unit(report)}")
    tokens = f", {graph.new_tokens} new tokens" if graph.new_tokens else ""
    output.line(what)
    output.line(f"{at}{tokens}: {size}")
    measured = any(row.measured_s is not None or row.failed for row in report.rows)
    columns = ["on", "batch", "time", "90 % within", "memory", "bound by"]
    if measured:
        columns.insert(4, "measured")
    rows = []
    for row in report.rows:
        found = row.prediction
        precision = "" if found.precision == "fp32" else f" {found.precision}"
        cells = [
            f"{found.device} {found.engine}{precision}{'' if found.calibrated else ' *'}",
            f"{found.batch}" + ("" if found.length is None else f" x {found.length}"),
            time_text(found.latency_s),
            interval_text(*found.interval_s),
            human_bytes(found.memory.total) + ("" if fits(row) in (None, True) else " !"),
            found.bottleneck,
        ]
        if measured:
            cells.insert(4, "-" if row.measured_s is None else time_text(row.measured_s))
        rows.append(cells)
    output.table(columns, rows)
    _details(output, report)


def _unit(report: Report) -> str:
    return "samples" if report.model.family == "audio" else "tokens"


def _details(output: Output, report: Report) -> None:
    say = output.paragraph
    best = report.best
    found, memory = best.prediction, best.prediction.memory
    parts = sorted(found.classes.items(), key=lambda one: -one[1].seconds)
    where = ", ".join(f"{name} {100 * share.share:.0f} %" for name, share in parts if share.share >= 0.005)
    say(f"time of {found.engine} on {found.device}: {where}")
    for row in report.rows:
        if row.measured_classes is not None:
            say(_beside(row))
    say(
        f"memory: weights {human_bytes(memory.weights)}, activations "
        f"{human_bytes(memory.activations)}, cache {human_bytes(memory.cache)}, runtime {human_bytes(memory.runtime)}"
    )
    if found.energy_j is not None:
        say(f"energy: {found.energy_j:.3g} J, {found.power_w:.3g} W ({found.energy_basis})")
    steps = best.graph.calls.get("decode", 0)
    if steps:
        first, each = found.phase_s.get("prefill", 0.0), found.phase_s.get("decode", 0.0) / steps
        say(f"prompt {time_text(first)}, then {time_text(each)} per token ({found.batch / each:.3g} tokens/s)")
    for one in report.scaling:
        if one["knee_batch"]:
            sizes = ", ".join(f"{e['size']}: {e['throughput_per_s']:.3g}/s" for e in one["batch"])
            say(f"{one['device']} by batch: {sizes}; knee at {one['knee_batch']}")
        if one["seq"]:
            sizes = ", ".join(f"{e['size']}: {time_text(e['latency_ms'] / 1e3)}" for e in one["seq"])
            say(f"{one['device']} by tokens: {sizes}")
    for advice in report.recommendations[:5]:
        sure = "" if advice["certain"] else ", a guess"
        say(f"try {advice['option']} on {advice['device']}: {advice['gain']:.2f} times the {_better(advice)}{sure}")
    for row in report.rows:
        if fits(row) is False:
            output.note(f"! does not fit into the {human_bytes(row.machine.memory_bytes)} of {row.machine.id}")
    for item in report.left_out:
        output.note(f"{item['device']} {item['engine']} {item['precision']}: {item['reason']}")
    for row in report.rows:
        if row.failed:
            output.note(f"{row.prediction.device} {row.prediction.engine}: not measured, {row.failed}")
    notes = dict.fromkeys(note for row in report.rows for note in row.prediction.notes)
    for note in [*notes, *report.graph.notes]:
        output.note(f"* {note}" if note.startswith("uncalibrated") else note)


def _beside(row: Row) -> str:
    """Predicted time by class of operators beside what the engine counted of its own operators."""
    told, found = row.measured_classes or {}, row.prediction
    names = sorted({*told, *found.classes}, key=lambda name: -told.get(name, 0.0))
    parts = [
        f"{name} {time_text(found.classes[name].seconds if name in found.classes else 0.0)} "
        f"({time_text(told[name]) if name in told else 'none'})"
        for name in names
    ]
    return (
        f"{found.device} {found.engine} at batch {found.batch}, predicted (counted, which slows it): {', '.join(parts)}"
    )


def _better(advice: dict[str, Any]) -> str:
    return "speed" if advice["measure"] == "latency" else "throughput"
