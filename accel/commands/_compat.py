"""What `accel compat` prints."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from accel.output import Output, human_bytes

if TYPE_CHECKING:
    from accel.core.compatibility.judging import Judgement
    from accel.core.compatibility.matrix import Cell, Report, Request

SCHEMA = "accel.compat/1"


def matrix(output: Output, request: Request) -> None:
    """Judges and prints.

    Raises:
        IncompatibleError: a model runs on none of the devices; after everything was printed.
    """
    from accel.core.compatibility.matrix import compatibility
    from accel.core.errors import IncompatibleError

    report = compatibility(request, output.step)
    output.step("")
    data = {"schema": SCHEMA, "cells": [_record(report, cell) for cell in report.cells], "lost": report.lost}
    quiet = "\n".join(f"{cell.model}\t{cell.device}\t{cell.verdict}" for cell in report.cells)
    output.result(data, lambda: _show(output, report), quiet)
    if report.lost:
        names = ", ".join(report.lost)
        where = ", ".join(target.id for target in report.targets)
        raise IncompatibleError(f"{names} can run on none of {where}", "name other devices (--hw) or raise the limits")


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
    else:
        shown = [r.reason for r in judged.failing]
    by = "" if judged is None else f", {judged.way.engine}"
    for reason in shown:
        _wrapped(output, f"{cell.model} on {cell.device}{by}: {reason}")


def _wrapped(output: Output, text: str) -> None:
    """A line that fits the terminal, further ones set in."""
    for line in textwrap.wrap(text, output.width, subsequent_indent="  ", break_on_hyphens=False):
        output.line(line)


def _time(seconds: float) -> str:
    from accel.commands._profile import time_text

    return time_text(seconds)
