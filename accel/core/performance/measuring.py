"""`accel profile --measure`: runs what was predicted with bench's own processes, and keeps both beside each other."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from typing import cast

from accel.core import models, prepared
from accel.core.bench.cells import Cell
from accel.core.bench.matrix import refine
from accel.core.bench.process import CellProcess, Settings
from accel.core.errors import AccelError, IncompatibleError, TransferError
from accel.core.performance import class_times, ledger
from accel.core.performance.profiling import Report, Request, Row
from accel.core.registry import engine
from accel.core.types import Model, Options, Recipe, Weights
from accel.core.worker import Worker, to_json

#: seconds of measuring, and the fewest runs of it
SHARE_S, LEAST = 1.5, 5


def measure_rows(report: Report, request: Request, weights: str | None, show: Callable[[str], None]) -> None:
    """Measures every prediction for a device of this machine; what fails says why in its row.

    Args:
        weights: `random` where the weights cannot be had; None for the model's own.

    Raises:
        AccelError: the model's weights are not to be had.
    """
    rows = [row for row in report.rows if row.machine.present]
    for row in report.rows:
        if not row.machine.present:
            row.failed = "this machine does not have it"
    if not rows:
        return
    model = models.resolve(
        request.model,
        revision=request.revision,
        task=request.task,
        weights=cast("Weights | None", weights),
        trust_remote_code=request.trust_remote_code,
    )
    options = Options(max_new_tokens=request.new_tokens, steps=request.steps)
    recipe = recipe_of(model, options, show)
    for row in rows:
        show(f"measuring {row.prediction.device} {row.prediction.engine} at batch {row.graph.batch}")
        try:
            measure(row, model, recipe, options, request.threads)
        except AccelError as error:
            row.failed = error.message
            continue
        with contextlib.suppress(TransferError):  # a ledger that cannot be written takes nothing from the answer
            ledger.append(
                ledger.entry(
                    row.prediction,
                    row.graph,
                    row.measured_s or 0.0,
                    memory=row.measured_memory,
                    joules=row.measured_joules,
                )
            )


def recipe_of(model: Model, options: Options, show: Callable[[str], None]) -> Recipe:
    """The model's recipe, made in a process of its own where there is none."""
    found = prepared.read_recipe(model)
    if found is None:
        show(f"loading {model.name}")
        with Worker(model, (), options) as worker:
            worker.call("build")
        found = prepared.read_recipe(model)
        if found is None:
            raise TransferError(f"what was prepared for {model.name} is gone", "run it again")
    return found[0]


def measure(row: Row, model: Model, recipe: Recipe, options: Options, threads: int = 0) -> list[float]:
    """Runs what a row predicts, fills in what was measured and returns all samples, seconds. Errors: `CellProcess`."""
    found, graph = row.prediction, row.graph
    cell = Cell(
        model.name,
        model.task,
        row.machine.platform,
        found.device,
        found.engine,
        found.precision,
        batch=graph.batch,
        length=graph.length,
        threads=threads,
        weights=model.weights,
    )
    refined = refine(cell, recipe)
    if not isinstance(refined, list):
        raise IncompatibleError(refined.reason, refined.hint)
    # the plain way is what is predicted
    cell = next((one for one in refined if not one.variant), refined[0])
    settings = Settings(options=options)
    if not engine(cell.engine).needs_framework and prepared.find(model, cell.plan()) is None:
        with CellProcess(cell, model, settings) as process:
            process.call("ready", plan=to_json(cell.plan()))
    with CellProcess(cell, model, settings) as process:
        process.open()
        process.measure(SHARE_S, LEAST, lead=True)
        visit = process.visit
    row.measured_s = statistics.median(visit.samples)
    with contextlib.suppress(AccelError):  # the latency is known all the same
        row.measured_classes = class_times.measured(model, cell.plan(), options, graph.batch, graph.length)
    row.measured_memory = visit.peak_bytes if row.machine.platform in ("cpu", "openvino") else visit.device_bytes
    row.measured_joules = None if visit.joules is None else visit.joules / len(visit.samples)
    return visit.samples
