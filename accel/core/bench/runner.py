"""A sweep: every cell is visited by several processes, pass after pass, until its median is known well enough.

A pass visits each cell that is not finished, cells of one workload together. So the processes of a cell are spread over
the whole sweep, and what differs from process to process is part of its interval (Kalibera and Jones 2013, Rigorous
benchmarking in reasonable time). With a budget, the first pass is short and the rest goes where the interval is widest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from accel.core import prepared
from accel.core.bench import lanes
from accel.core.bench.cells import Skipped
from accel.core.bench.identity import identity
from accel.core.bench.journal import Found, Journal
from accel.core.bench.matrix import Matrix, refine
from accel.core.bench.measured import Outcome
from accel.core.bench.process import Settings, cause_of
from accel.core.bench.reference import References
from accel.core.bench.visiting import Group, State
from accel.core.errors import AccelError, TransferError
from accel.core.types import Model, Recipe
from accel.core.worker import Worker

#: processes of a cell where the user does not say, and the seconds of opening one from which a single one has to do
PROCESSES = 3
SLOW_OPENING_S = 10.0
#: cells that are open at the same time, at most
TOGETHER = 8
#: visits of a cell, at most
MOST_VISITS = 12
#: share of a budget that the first pass may take
FIRST_PASS = 0.5


@dataclass(frozen=True)
class Wanted:
    """How well the cells are to be known, and what it may cost.

    Attributes:
        target: half-width of the median's interval, as a share of it.
        max_time_s: measuring time of one cell at most.
        budget_s: time for the whole sweep, or None.
        processes: of each cell; None leaves it to how long opening one takes.
        parallel: cells measured at the same time, where they share nothing.
        agreement: compare with fp32 torch.
    """

    target: float = 0.01
    max_time_s: float = 10.0
    budget_s: float | None = None
    processes: int | None = None
    parallel: int = 1
    agreement: bool = True
    settings: Settings = field(default_factory=Settings)


class Listener(Protocol):
    """Hears what a sweep does. Calls may come from several threads, one at a time."""

    def show(self, line: str) -> None:
        """What goes on right now."""

    def warn(self, line: str) -> None:
        """Something the user has to know."""

    def begin(self, cells: int, finished: int, skipped: Sequence[Skipped]) -> None:
        """The matrix is known: cells to measure, those of them finished in an earlier run, and those left out."""

    def finished(self, outcome: Outcome, done: int, total: int, left_s: float | None) -> None:
        """A cell is finished; `left_s` is a guess at the seconds that the others take."""


class Sweep:
    """One sweep.

    Args:
        store: takes each finished cell, for the results.
    """

    def __init__(
        self,
        matrix: Matrix,
        wanted: Wanted,
        listener: Listener,
        journal: Journal,
        store: Callable[[Outcome], None],
        earlier: Found | None = None,
    ) -> None:
        self.matrix, self.wanted, self.journal, self._store = matrix, wanted, journal, store
        self.skipped: list[Skipped] = list(matrix.skipped)
        self.outcomes: list[Outcome] = []
        self._listener = listener
        self._earlier = earlier
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._references = References(wanted.settings) if wanted.agreement else None
        self._started = time.monotonic()
        self._states: list[State] = []
        self._visits = 0

    def run(self) -> list[Outcome]:
        """Measures everything; returns the cells that were measured or failed, in the order of the matrix.

        Raises:
            TransferError: what was measured cannot be kept.
        """
        self._states = self._prepare()
        done = sum(state.finished for state in self._states)
        self.outcomes = [state.outcome for state in self._states]
        self._listener.begin(len(self._states), done, self.skipped)
        for state in self._states:
            if state.outcome.status == "failed" and not state.finished:
                self._finish(state)
        if self.wanted.budget_s is None:
            while pending := [state for state in self._states if not state.finished]:
                self._pass(pending)
        else:
            self._spend(self.wanted.budget_s)
        return self.outcomes

    def _prepare(self) -> list[State]:
        """A state for each cell, after the engines have said what they make of it."""
        recipes: dict[tuple[str, str], Recipe | AccelError] = {}
        states: list[State] = []
        for cell in self.matrix.cells:
            model = self.matrix.model(cell)
            if cell.benchmark:
                states.append(self._state(Outcome(cell, identity={"model_digest": model.digest}), model))
                continue
            key = (cell.model, cell.task)
            if key not in recipes:
                recipes[key] = self._recipe(model)
            recipe = recipes[key]
            if isinstance(recipe, AccelError):
                outcome = Outcome(cell, "failed", cause_of(recipe), recipe.message, recipe.hint)
                states.append(self._state(outcome, model))
                continue
            refined = refine(cell, recipe)
            if isinstance(refined, Skipped):
                self.skipped.append(refined)
                continue
            states += [self._state(Outcome(one, identity=identity(one, model)), model) for one in refined]
        # cells of one workload next to each other, in the order of the matrix
        order: dict[tuple[Any, ...], int] = {}
        for state in states:
            order.setdefault(state.outcome.cell.workload, len(order))
        return sorted(states, key=lambda state: order[state.outcome.cell.workload])

    def _state(self, outcome: Outcome, model: Model) -> State:
        wanted = self.wanted
        processes = wanted.processes or PROCESSES
        state = State(outcome, model, processes, wanted.max_time_s / processes)
        key = outcome.cell.key
        if self._earlier is not None and key in self._earlier.done:
            state.outcome, state.finished = self._earlier.done[key], True
            self._store(state.outcome)  # the sweep may have been killed between the journal and the results
        elif self._earlier is not None and key in self._earlier.partial:
            state.outcome = self._earlier.partial[key]
        return state

    def _recipe(self, model: Model) -> Recipe | AccelError:
        """The model's recipe, made in a process of its own where there is none."""
        found = prepared.read_recipe(model)
        if found is None:
            self._listener.show(f"loading {model.name}")
            try:
                with Worker(model, (), self.wanted.settings.options, self.wanted.settings.memory_limit) as worker:
                    worker.call("build", timeout=self.wanted.settings.timeout_s)
            except AccelError as error:
                return error
            found = prepared.read_recipe(model)
        return TransferError(f"what was prepared for {model.name} is gone", "run it again") if not found else found[0]

    def _pass(self, pending: Sequence[State], deadline: float | None = None) -> None:
        """Visits each of these cells once."""
        by_key = {state.outcome.cell.key: state for state in pending}
        for wave in lanes.waves([state.outcome.cell for state in pending], self.wanted.parallel):
            queues = [[by_key[cell.key] for cell in lane] for lane in wave]
            if len(queues) == 1:
                self._lane(queues[0], deadline)
                continue
            threads = [threading.Thread(target=self._guarded, args=(queue, deadline)) for queue in queues]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    while thread.is_alive():
                        thread.join(0.2)  # with a time limit, so that Ctrl-C gets through
            except BaseException:
                self._stop.set()
                for thread in threads:
                    thread.join()
                raise
            if self._failure is not None:
                raise self._failure

    def _guarded(self, queue: list[State], deadline: float | None) -> None:
        try:
            self._lane(queue, deadline)
        except BaseException as error:  # carried to the thread that waits
            self._failure = error
            self._stop.set()

    def _lane(self, queue: list[State], deadline: float | None) -> None:
        left = list(queue)
        while left and not self._stop.is_set() and (deadline is None or time.monotonic() < deadline):
            together = left[:TOGETHER]
            group = Group(
                together,
                self.wanted.settings,
                self._references,
                self.wanted.target,
                self._show,
                deadline,
                self._stop.is_set,
            )
            visited = group.visit()
            left = left[len(visited) :]
            with self._lock:
                self._visits += len(visited)
                for state in visited:
                    self._judge(state)

    def _show(self, line: str) -> None:
        with self._lock:
            self._listener.show(line)

    def _judge(self, state: State) -> None:
        """Whether a cell that was just visited is finished; either way what it has is kept."""
        outcome = state.outcome
        opening = max((visit.opening_s for visit in outcome.visits), default=0.0)
        if self.wanted.processes is None and opening > SLOW_OPENING_S:
            state.wanted, state.share_s = 1, self.wanted.max_time_s
        if not state.finished and self.wanted.budget_s is None:
            halfwidth = state.halfwidth()
            precise = halfwidth is not None and halfwidth <= self.wanted.target
            spent = state.spent_s >= 0.9 * self.wanted.max_time_s or len(outcome.visits) >= MOST_VISITS
            state.finished = len(outcome.visits) >= state.wanted and (precise or spent)
        if state.finished:
            self._finish(state)
        elif outcome.visits:
            self.journal.visited(outcome)

    def _finish(self, state: State) -> None:
        state.finished = True
        self.journal.finished(state.outcome)
        self._store(state.outcome)
        done = sum(other.finished for other in self._states)
        self._listener.finished(state.outcome, done, len(self._states), self._left_s())

    def _left_s(self) -> float | None:
        """A guess at how long the rest takes, from how long a visit took so far."""
        elapsed = time.monotonic() - self._started
        if self.wanted.budget_s is not None:
            return max(0.0, self.wanted.budget_s - elapsed)
        if not self._visits:
            return None
        left = sum(max(1, s.wanted - len(s.outcome.visits)) for s in self._states if not s.finished)
        return left * elapsed / self._visits

    def _spend(self, budget_s: float) -> None:
        """A short pass over everything, then the widest intervals until the time is over."""
        end = self._started + budget_s
        pending = [state for state in self._states if not state.finished]
        for state in pending:
            state.share_s = min(self.wanted.max_time_s, FIRST_PASS * budget_s / len(pending))
        self._pass(_cheapest_first([state for state in pending if not state.outcome.visits]), deadline=end)
        while not self._stop.is_set():
            wide = [state for state in pending if not state.finished and state.outcome.visits and self._worth(state)]
            wide.sort(key=lambda state: -(state.halfwidth() or float("inf")))
            opening = max((v.opening_s for state in wide[:TOGETHER] for v in state.outcome.visits), default=0.0)
            if not wide or time.monotonic() + opening > end:
                break
            for state in wide[:TOGETHER]:
                state.share_s = max(state.share_s, opening)  # measuring takes at least as long as getting there
            self._pass(wide[:TOGETHER], deadline=end)
        for state in pending:
            if state.finished:
                continue
            if not state.outcome.visits:
                self.skipped.append(Skipped(state.outcome.cell, f"the budget of {budget_s:g} s was spent before it"))
                self.outcomes = [outcome for outcome in self.outcomes if outcome is not state.outcome]
                continue
            self._finish(state)

    def _worth(self, state: State) -> bool:
        """Whether more time makes a cell better known."""
        halfwidth = state.halfwidth()
        imprecise = halfwidth is None or halfwidth > self.wanted.target
        return len(state.outcome.visits) < MOST_VISITS and (imprecise or len(state.outcome.visits) < state.wanted)


def _cheapest_first(states: list[State]) -> list[State]:
    """Cells in the order of how long they are expected to take, so that a budget that is short reaches the most.

    Only where `accel profile` can say that of all of them at once; cells of one workload stay together.
    """
    from accel.core.performance.predict import expected_s

    cost: dict[tuple[Any, ...], float] = {}
    for state in states:
        cell = state.outcome.cell
        seconds = None if cell.benchmark else expected_s(state.model, cell.plan(), cell.length)
        if seconds is None:
            return states
        cost[cell.workload] = cost.get(cell.workload, 0.0) + seconds
    return sorted(states, key=lambda state: cost[state.outcome.cell.workload])
