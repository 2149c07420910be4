"""What `accel compat` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accel.commands import _compat_plan
from accel.output import Output, human_bytes

if TYPE_CHECKING:
    from accel.core.compatibility.judging import Judgement
    from accel.core.compatibility.matrix import Cell, Report, Request

SCHEMA = "accel.compat/1"


def matrix(output: Output, request: Request, *, planned: bool) -> None:
    """Judges and prints, and places the models if that is asked for.

    Raises:
        IncompatibleError: a model runs on none of the devices, or there is no plan; after everything was printed.
        UnavailableError: a plan needs OR-tools.
    """
    from accel.core.compatibility.matrix import compatibility
    from accel.core.errors import IncompatibleError

    plan = None
    if planned:
        from accel.core.compatibility.placing import solver

        solver()
    report = compatibility(request, output.step)
    output.step("")
    if planned:
        from accel.core.compatibility import planning

        plan = planning.plan(report)
    data = {
        "schema": SCHEMA,
        "cells": [_record(report, cell) for cell in report.cells],
        "lost": report.lost,
        "plan": None if plan is None else _compat_plan.record(plan),
    }
    quiet = "\n".join(f"{cell.model}\t{cell.device}\t{cell.verdict}" for cell in report.cells)
    if plan is not None:
        quiet = "\n".join(f"{model}\t{device}" for model, device in plan.placement.at.items())

    def human() -> None:
        _show(output, report)
        if plan is not None:
            _compat_plan.show(output, plan)

    output.result(data, human, quiet)
    if report.lost:
        names = ", ".join(report.lost)
        where = ", ".join(target.id for target in report.targets)
        raise IncompatibleError(f"{names} can run on none of {where}", "name other devices (--hw) or raise the limits")
    if plan is not None and not plan.placement.at:
        raise IncompatibleError(
            "the models cannot all be placed",
            "raise one of the limits named above",
            {"conflict": plan.placement.conflict},
        )


def _record(report: Report, cell: Cell) -> dict[str, Any]:
    judged = cell.judgement
    found: dict[str, Any] = {
        "model": cell.model,
        "device": cell.device,
        "verdict": cell.verdict,
        "score": cell.score,
        "confidence": cell.confidence,
        "engine": None,
        "precision": report.request.precision,
        "batch": report.request.batch,
        "seq": report.request.length,
        "memory_bytes": None,
        "memory_bound_bytes": None,
        "private_bytes": None,
        "weights_bytes": None,
        "free_bytes": None,
        "latency_ms": None,
        "latency_interval_ms": None,
        "memory_basis": None,
        "requirements": [],
        "reasons": cell.reasons,
        "change": None,
        "other_ways": [_way(one) for one in cell.others],
    }
    if judged is not None:
        prediction = judged.prediction
        target = next(target for target in report.targets if target.id == cell.device)
        found |= {
            "engine": judged.way.engine,
            "memory_bytes": judged.need.resident,
            "memory_bound_bytes": judged.need.resident_bound,
            "private_bytes": judged.need.private,
            "weights_bytes": judged.need.weights,
            "free_bytes": target.supply.free,
            "latency_ms": None if prediction is None else 1e3 * prediction.latency_s,
            "latency_interval_ms": None if prediction is None else [1e3 * bound for bound in prediction.interval_s],
            "memory_basis": judged.need.basis,
            "requirements": [
                {"kind": r.kind, "met": r.met, "probability": r.probability, "reason": r.reason}
                for r in judged.requirements
            ],
        }
    if cell.change is not None:
        changed = cell.change
        way = changed.judgement.way
        found["change"] = {
            "kinds": list(changed.kinds),
            "words": changed.words,
            "command": changed.command,
            "engine": way.engine,
            "precision": way.precision,
            "batch": way.batch,
            "seq": way.length,
            "max_new_tokens": way.new_tokens,
            "score": changed.judgement.score,
            "memory_bytes": changed.judgement.need.resident,
            "private_bytes": changed.judgement.need.private,
        }
    return found


def _way(one: Judgement) -> dict[str, Any]:
    return {
        "engine": one.way.engine,
        "precision": one.way.precision,
        "runs": one.runs,
        "score": one.score,
        "reasons": [r.reason for r in (one.failing or one.requirements)],
    }


def _show(output: Output, report: Report) -> None:
    rows = []
    for cell in report.cells:
        judged = cell.judgement
        time = "-" if judged is None or judged.prediction is None else _time(judged.prediction.latency_s)
        memory = "-" if judged is None else human_bytes(judged.need.resident)
        rows.append(
            [cell.model, cell.device, cell.verdict, f"{cell.score:.2f}", f"{cell.confidence:.0%}", memory, time]
        )
    columns = ("model", "device", "verdict", "score", "sure", "memory", "time")
    output.table(
        columns, rows, right=("score", "sure", "memory", "time"), whole=("device", "verdict", "memory", "time"),
        dense=True,
    )  # fmt: skip
    for cell in report.cells:
        _reasons(output, cell)
    output.note("score: probability that it runs as asked; sure: that the verdict is right")


def _reasons(output: Output, cell: Cell) -> None:
    from accel.core.compatibility.matrix import RUNS

    judged = cell.judgement
    if judged is None:
        shown = cell.reasons
    elif cell.verdict == RUNS:
        kinds = ("memory", "limit", "preparing", "host", "disk", "latency")
        doubtful = [r for r in judged.requirements if r.kind in kinds and (r.probability < 0.99 or r.kind == "limit")]
        shown = [r.reason for r in doubtful or [r for r in judged.requirements if r.kind in kinds][:1]]
        shown += [r.reason for r in judged.requirements if r.kind == "adapter"]
    else:
        shown = [r.reason for r in judged.failing]
    by = "" if judged is None else f", {judged.way.engine}"
    for reason in shown:
        output.paragraph(f"{cell.model} on {cell.device}{by}: {reason}")
    if cell.change is not None:
        output.paragraph(f"  runs {cell.change.words}:")
        output.line(f"  {cell.change.command}")


def _time(seconds: float) -> str:
    from accel.commands._profile import time_text

    return time_text(seconds)
