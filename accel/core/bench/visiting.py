"""One visit to a group of cells: their processes are open together and measured in turn, so drift meets all alike."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from accel.core import prepared, results
from accel.core.bench import lanes, measured
from accel.core.bench.measured import Outcome
from accel.core.bench.process import CellProcess, Runtime, Settings, cause_of, unusable
from accel.core.bench.reference import References
from accel.core.errors import AccelError
from accel.core.registry import engine
from accel.core.types import Model
from accel.core.worker import to_json

#: seconds of one stretch: long against the pause between two, short against the drift of a machine
STRETCH_S = 0.2
#: of a cell that is alone: length of a stretch as a share of what was measured before it
GROWTH = 0.25
#: stretches that a visit has at least, however narrow the interval is by then
LEAST_STRETCHES = 3
#: runs that a stretch has at least, unless they take longer than `LONG_S` together
LEAST_RUNS = 5
LONG_S = 2.0
#: runs that a visit has at least, however long one takes, and at most, however short
LEAST_SAMPLES = 3
MOST_SAMPLES = 20_000
#: share of the free memory that the processes of a group may take together
PARKED = 0.5


@dataclass
class State:
    """A cell during a sweep.

    Attributes:
        wanted: visits that it is to have.
        share_s: measuring time of one visit, seconds.
        finished: nothing is to be measured any more.
        runtime: the environment it runs in; None for this process's own.
    """

    outcome: Outcome
    model: Model
    wanted: int = 1
    share_s: float = 1.0
    finished: bool = False
    runtime: Runtime | None = None

    @property
    def spent_s(self) -> float:
        """Measuring time so far."""
        return sum(visit.spent_s for visit in self.outcome.visits)

    def halfwidth(self) -> float | None:
        """Of the median's interval."""
        return measured.halfwidth(self.outcome.visits)


@dataclass
class Group:
    """Cells that are visited together.

    Attributes:
        references: None where agreement is not asked for.
        target: half-width of the median's interval at which a visit may end.
        show: takes a line about what is going on.
        deadline: moment of `time.monotonic` after which no stretch begins, or None.
        stopped: whether the sweep is to end.
        stretch_s: seconds of one stretch.
    """

    states: Sequence[State]
    settings: Settings
    references: References | None
    target: float
    show: Callable[[str], None]
    deadline: float | None = None
    stopped: Callable[[], bool] = lambda: False
    stretch_s: float = STRETCH_S
    _open: list[tuple[State, CellProcess]] = field(default_factory=list)

    def visit(self) -> list[State]:
        """Visits the cells and returns those that were visited: fewer where memory does not hold them all at once.

        A cell that fails is finished, with its cause. All processes are ended, whatever happens.
        """
        visited: list[State] = []
        try:
            for state in self.states:
                late = self.deadline is not None and time.monotonic() > self.deadline
                if self.stopped() or (self._open and (late or not self._fits())):
                    break
                visited.append(state)
                self._enter(state)
            self._measure()
            for state, process in list(self._open):
                with self._failing(state):
                    self._conclude(state, process)
        finally:
            for _, process in self._open:
                process.close()
        return visited

    def _fits(self) -> bool:
        """Whether as much memory as the open processes take, and that of one more, is a small part of what is free."""
        from accel.core.cpu import memory

        free = memory().free_bytes
        sizes = [process.resident() or 0 for _, process in self._open]
        return free is None or max(sizes) < PARKED * free

    @contextmanager
    def _failing(self, state: State) -> Iterator[None]:
        """Turns an error into the failure of a cell, and closes its process."""
        try:
            yield
        except AccelError as error:
            outcome = state.outcome
            outcome.status, outcome.cause = "failed", cause_of(error)
            outcome.reason, outcome.hint = error.message, error.hint
            state.finished = True
            self.show(f"{outcome.cell.key}: failed, {error.message}")
            for own, process in [pair for pair in self._open if pair[0] is state]:
                process.close()
                self._open.remove((own, process))

    def _enter(self, state: State) -> None:
        cell, outcome = state.outcome.cell, state.outcome
        with self._failing(state):
            self.show(f"opening {cell.key}")
            prepare_s = self._prepared(state)
            cpus = lanes.cpus_for(cell, self.settings.affinity)
            process = CellProcess(cell, state.model, self.settings, cpus=cpus, runtime=state.runtime)
            self._open.append((state, process))
            _meanwhile()
            outcome.energy_note = process.meter_missing
            process.open()
            process.visit.prepare_s = prepare_s
            process.pause()

    def _prepared(self, state: State) -> float | None:
        """Makes the plan and the reference ready, in processes of their own; seconds that the plan took, if it did."""
        cell = state.outcome.cell
        if cell.benchmark:
            return None
        if self.references is not None and state.outcome.agreement is None:
            self.references.get(cell, state.model, self.show)
        if engine(cell.engine).needs_framework or (
            state.runtime is None and prepared.find(state.model, cell.plan()) is not None
        ):
            return None
        self.show(f"preparing {cell.key}")
        with CellProcess(cell, state.model, self.settings, runtime=state.runtime) as process:
            took: float | None = process.call("ready", plan=to_json(cell.plan()))["prepare_s"]
        return took

    def _measure(self) -> None:
        """Stretches in turn, each second round backwards, until every visit has what it needs."""
        running = list(self._open)
        stretches = 0
        while running and not self.stopped():
            for state, process in running if stretches % 2 == 0 else running[::-1]:
                if self.deadline is not None and time.monotonic() > self.deadline and stretches:
                    return
                seconds = self._length(state, process) if len(running) == 1 else self.stretch_s
                with self._failing(state):
                    self._stretch(process, seconds, first=stretches == 0, turns=len(running) > 1)
            stretches += 1
            running = [pair for pair in running if pair in self._open and not self._enough(*pair, stretches)]

    def _length(self, state: State, process: CellProcess) -> float:
        """Seconds of the next stretch of a cell that nobody takes turns with: longer ones leave fewer gaps."""
        spent = process.visit.spent_s
        if len(process.visit.marks) < LEAST_STRETCHES:
            return self.stretch_s
        left = state.share_s - spent if self.deadline is None else self.deadline - time.monotonic()
        return max(self.stretch_s, min(GROWTH * spent, left))

    def _stretch(self, process: CellProcess, seconds: float, *, first: bool, turns: bool) -> None:
        self.show(process.cell.key)
        paused = process.paused
        process.go_on()
        expected = min(process.visit.samples[-5:], default=process.visit.first_s or 0.0)
        least = 1 if expected * LEAST_RUNS > LONG_S else LEAST_RUNS
        process.measure(seconds, least, lead=paused and not first)
        if turns:
            process.pause()

    def _enough(self, state: State, process: CellProcess, stretches: int) -> bool:
        visit = process.visit
        if len(visit.samples) < LEAST_SAMPLES:
            return False
        if len(visit.samples) >= MOST_SAMPLES:
            return True
        if visit.spent_s >= state.share_s:
            # twice the time for one that has not become steady yet
            part = measured.steady_part([visit])
            return visit.spent_s >= 2 * state.share_s or part is None or not part.reason
        if stretches < LEAST_STRETCHES:
            return False
        # that processes differ is no reason to stay in this one: only more of them make that smaller
        halfwidth = measured.halfwidth([*state.outcome.visits, visit], processes=False)
        part = measured.steady_part([visit])
        return halfwidth is not None and halfwidth <= self.target and part is not None and not part.reason

    def _conclude(self, state: State, process: CellProcess) -> None:
        outcome = state.outcome
        process.go_on()
        if outcome.cell.benchmark:
            outcome.values = process.call("finish")["values"]
        elif self.references is not None and outcome.agreement is None:
            self.show(f"comparing {outcome.cell.key} with fp32 torch")
            reference = self.references.get(outcome.cell, state.model, self.show)
            found = process.agree(str(reference))
            failure = unusable(found)
            if failure is not None:
                raise failure
            outcome.agreement = {key: found[key] for key in ("cosine", "max_abs", "top1", "repeats", "reference")}
            if not found["repeats"]:
                outcome.notes = (*outcome.notes, "its output is not the same in every run")
        if process.visit.samples:
            outcome.visits.append(process.visit)


def _meanwhile() -> None:
    """Imports what the judging and keeping need, while the process that was just started is busy with its own."""
    importlib.import_module("numpy")
    results.load_library()
