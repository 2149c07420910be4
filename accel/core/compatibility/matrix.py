"""One `accel compat`: models by devices, each with a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from accel.core.compatibility import operators
from accel.core.compatibility.changes import Change, command, smallest
from accel.core.compatibility.judging import Bounds, Judgement, Sized, Way, judge
from accel.core.compatibility.requirements import Requirement, fact
from accel.core.compatibility.targets import Target, engines_of, find
from accel.core.errors import AccelError, InputError
from accel.core.performance import graphs, profiling
from accel.core.performance.operators import OperatorGraph
from accel.core.types import Model

RUNS, CHANGED, NOT = "runs", "runs with changes", "does not"


@dataclass(frozen=True)
class Request:
    """What the user asked; the fields are the command's options."""

    models: tuple[str, ...]
    hw: str = "all"
    engines: tuple[str, ...] = ()
    precision: str = "fp32"
    batch: int = 1
    length: int | None = None
    memory_limit: int | None = None
    latency_s: float | None = None
    task: str | None = None
    revision: str | None = None
    new_tokens: int = graphs.NEW_TOKENS
    steps: int | None = None
    trust_remote_code: bool = False
    operators: bool = False

    @property
    def bounds(self) -> Bounds:
        """The limits."""
        return Bounds(self.memory_limit, self.latency_s)


@dataclass
class Cell:
    """A model on a device.

    Attributes:
        judgement: of the best way as asked; None where the model itself cannot be looked at.
        problem: why not.
        others: the other ways as asked.
        change: the smallest one after which it runs. command: of `accel run`, for the way as asked.
    """

    model: str
    device: str
    verdict: str
    judgement: Judgement | None = None
    problem: AccelError | None = None
    others: tuple[Judgement, ...] = ()
    change: Change | None = None
    command: str = ""

    @property
    def score(self) -> float:
        """The probability that it runs as asked."""
        return 0.0 if self.judgement is None else self.judgement.score

    @property
    def confidence(self) -> float:
        """The probability that what the verdict says holds: it runs, it runs once changed, or it does not run."""
        if self.judgement is None:
            return 1.0
        if self.change is not None:
            return self.change.judgement.score
        return self.score if self.verdict == RUNS else 1.0 - self.score

    @property
    def reasons(self) -> list[str]:
        """What decides, first what is not met."""
        if self.judgement is None:
            assert self.problem is not None
            return [self.problem.message]
        ordered = [*self.judgement.failing, *(r for r in self.judgement.requirements if r.met)]
        return list(dict.fromkeys(one.reason for one in ordered))


@dataclass
class Report:
    """The matrix. `lost` are models that run on none of the devices."""

    request: Request
    targets: list[Target]
    cells: list[Cell] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        """Models that can run on none of the devices, not with changes either."""
        able = {cell.model for cell in self.cells if cell.verdict != NOT}
        return [name for name in dict.fromkeys(self.request.models) if name not in able]

    def at(self, model: str, device: str) -> Cell:
        """The cell of a model and a device."""
        return next(cell for cell in self.cells if (cell.model, cell.device) == (model, device))


def compatibility(request: Request, show: Callable[[str], None] = lambda _: None) -> Report:
    """Judges every model on every device.

    Raises:
        InputError: an unknown device, engine or precision, or a single model of an unknown name.
        UnavailableError: a named device is not here.
    """
    profiling.check(
        profiling.Request("", engines=request.engines, precisions=(request.precision,), batches=(request.batch,))
    )
    if request.batch < 1 or (request.length is not None and request.length < 1):
        raise InputError("batch and length are numbers above 0", "--batch 1 --seq 128")
    report = Report(request, find(request.hw))
    for name in dict.fromkeys(request.models):
        try:
            model = graphs.resolve(name, request.task, request.revision, code=request.trust_remote_code)
            sized = _sized(model, request, show)
            sized(request.batch, request.length, request.new_tokens)
        except AccelError as error:
            if len(set(request.models)) == 1 and error.exit_code != 4:
                raise
            report.cells += [Cell(name, target.id, NOT, None, error) for target in report.targets]
            continue
        report.cells += [_cell(model, sized, target, request, show) for target in report.targets]
    return report


def _sized(model: Model, request: Request, show: Callable[[str], None]) -> Sized:
    known: dict[tuple[int, int | None, int], OperatorGraph] = {}

    def at(batch: int, length: int | None, new_tokens: int) -> OperatorGraph:
        key = (batch, length, new_tokens)
        if key not in known:
            known[key] = graphs.graph_of(model, batch, length, new_tokens, show, request.steps)
        return known[key]

    return at


def _cell(model: Model, sized: Sized, target: Target, request: Request, show: Callable[[str], None]) -> Cell:
    graph = sized(request.batch, request.length, request.new_tokens)
    engines = engines_of(target, request.engines)
    covered = {name: _covered(model, name, target, request, show) for name in engines}
    ways = []
    for name in engines:
        way = Way(name, request.precision, request.batch, request.length, request.new_tokens)
        ways.append(judge(model, graph, target, way, request.bounds, covered[name]))
    if not ways:
        problem = InputError(f"no engine for {target.id} is installed", "accel detect tells what is missing")
        return Cell(model.name, target.id, NOT, None, problem)
    ways.sort(key=_rank)
    best = ways[0]
    cell = Cell(model.name, target.id, RUNS if best.runs else NOT, best, None, tuple(ways[1:]))
    cell.command = command(model, target, best.way, request.bounds, request.revision)
    if not best.runs:
        usable = [name for name in engines_of(target, ()) if covered.get(name) is None or covered[name].met]  # type: ignore[union-attr]
        cell.change = smallest(model, sized, target, best.way, usable, request.bounds, request.revision)
        if cell.change is not None:
            cell.verdict = CHANGED
    return cell


def _covered(
    model: Model, name: str, target: Target, request: Request, show: Callable[[str], None]
) -> Requirement | None:
    """What the engine says about the operators, if it can be asked without much ado or the user wants that."""
    try:
        found = operators.ask(model, name, target.id, export=request.operators, show=show)
    except AccelError as error:
        return fact("operators", False, error.message)
    return None if found is None else found.requirement(name, target.platform)


def _rank(one: Judgement) -> tuple[bool, float, float]:
    """What runs goes first, the faster before the slower; what does not, by how near it is."""
    seconds = one.prediction.latency_s if one.prediction else float("inf")
    return (not one.runs, seconds if one.runs else 0.0, -one.score)
