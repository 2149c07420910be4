"""One `accel profile`: from the user's request to predictions, scaling and advice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from accel.core.errors import AccelError, IncompatibleError, InputError
from accel.core.performance import advice, graphs, predict
from accel.core.performance.machines import Machine, machines
from accel.core.performance.operators import OperatorGraph
from accel.core.performance.predict import Prediction
from accel.core.registry import names, suggest
from accel.core.types import PRECISIONS, Model

#: engines that a profile looks at unless they are named: torch's compiler takes long to start and is seldom meant
LEFT_OUT = ("torch-compile",)


@dataclass(frozen=True)
class Request:
    """What the user asked; the fields are the command's options.

    Attributes:
        lengths: (None,) for the default of the model.
        scaling: also predict other batches and lengths.
    """

    model: str
    hw: str = "all"
    engines: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    batches: tuple[int, ...] = (1,)
    lengths: tuple[int | None, ...] = (None,)
    task: str | None = None
    revision: str | None = None
    threads: int = 0
    new_tokens: int = graphs.NEW_TOKENS
    steps: int | None = None
    trust_remote_code: bool = False
    scaling: bool = True


@dataclass
class Row:
    """A prediction, with what was measured beside it where the user asked for that.

    Attributes:
        measured_s: median. measured_memory: bytes, the peak of the process or of what it holds on the device.
        measured_classes: seconds by class of operators, where the engine tells.
        failed: why there is no measurement.
    """

    prediction: Prediction
    graph: OperatorGraph
    machine: Machine
    measured_s: float | None = None
    measured_memory: int | None = None
    measured_joules: float | None = None
    measured_classes: dict[str, float] | None = None
    failed: str = ""


@dataclass
class Report:
    """Everything that a profile says.

    Attributes:
        left_out: combinations that cannot be predicted, with the reason.
        scaling: by device and engine, see `advice.scaling`.
    """

    model: Model
    graph: OperatorGraph
    rows: list[Row]
    left_out: list[dict[str, str]] = field(default_factory=list)
    scaling: list[dict[str, Any]] = field(default_factory=list)
    recommendations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> Row:
        """The fastest prediction of the first batch and length."""
        first = [r for r in self.rows if (r.graph.batch, r.graph.length) == (self.graph.batch, self.graph.length)]
        return min(first or self.rows, key=lambda row: row.prediction.latency_s)


def check(request: Request) -> None:
    """Raises InputError for an unknown engine or precision."""
    for name in request.engines:
        if name not in names("engines"):
            raise InputError(f"--engine {name!r} is unknown", suggest(name, names("engines")))
    for name in request.precisions:
        if name not in PRECISIONS:
            raise InputError(f"--precision {name!r} is unknown", f"use {', '.join(PRECISIONS)}")


def profile(request: Request, show: Callable[[str], None] = lambda _: None) -> Report:
    """Predicts every combination that the request names.

    Raises:
        AccelError: the model or a device is not to be had, or nothing can be predicted.
    """
    check(request)
    model = graphs.resolve(request.model, request.task, request.revision, code=request.trust_remote_code)
    found = machines(request.hw)
    if not found:
        raise InputError("this machine has no device that a model could run on", "name one: --hw cuda:h100")
    workloads = [
        graphs.graph_of(model, batch, length, request.new_tokens, show, request.steps)
        for length in request.lengths
        for batch in request.batches
    ]
    report = Report(model, workloads[0], [])
    for machine in found:
        for engine in _engines(request, machine):
            for precision in request.precisions:
                _add(report, workloads, machine, engine, precision, request.threads)
    if not report.rows:
        reasons = "; ".join(dict.fromkeys(f"{item['device']}: {item['reason']}" for item in report.left_out))
        raise IncompatibleError(f"nothing can be predicted: {reasons or 'no engine here runs on it'}", "try --hw all")
    if request.scaling:
        report.scaling = _scaling(report, model, request, show)
        report.recommendations = advice.recommendations(report.best.prediction, report.best.graph, report.best.machine)
        report.recommendations += advice.batching(report.scaling)
    return report


def _engines(request: Request, machine: Machine) -> Sequence[str]:
    if request.engines:
        return [name for name in request.engines if name in machine.engines or not machine.present]
    return [name for name in machine.engines if name not in LEFT_OUT]


def _add(
    report: Report, workloads: Sequence[OperatorGraph], machine: Machine, engine: str, precision: str, threads: int
) -> None:
    offered = predict.able(engine, machine, report.model.family, report.model.task)
    if precision not in offered:
        reason = f"{engine} has no {precision} on {machine.platform}" + (
            f", but {', '.join(offered)}" if offered else ""
        )
        report.left_out.append({"device": machine.id, "engine": engine, "precision": precision, "reason": reason})
        return
    for graph in workloads:
        try:
            row = Row(predict.latency(graph, machine, engine, precision, threads), graph, machine)
        except AccelError as error:
            report.left_out.append(
                {"device": machine.id, "engine": engine, "precision": precision, "reason": error.message}
            )
            return
        report.rows.append(row)


def _scaling(report: Report, model: Model, request: Request, show: Callable[[str], None]) -> list[dict[str, Any]]:
    """Scaling of the fastest engine of every device."""
    fastest: dict[str, Row] = {}
    for row in report.rows:
        if (row.graph.batch, row.graph.length) != (report.graph.batch, report.graph.length):
            continue
        known = fastest.get(row.machine.id)
        if known is None or row.prediction.latency_s < known.prediction.latency_s:
            fastest[row.machine.id] = row

    def sized(batch: int, length: int | None) -> OperatorGraph:
        return graphs.graph_of(model, batch, length, request.new_tokens, show, request.steps)

    return [advice.scaling(row.prediction, row.graph, row.machine, sized) for row in fastest.values()]
