"""Tries out how a workload can run: every candidate in a process of its own, checked against fp32 torch and timed.

The reference is opened and timed first, so that there always is one verdict. Its process then prepares the other
candidates, since it has the model loaded; each is opened in its own process, compared, and timed in interleaved rounds.
All of it ends when the budget is spent; what was not reached is said.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core import evidence, prepared
from accel.core.errors import AccelError, IncompatibleError
from accel.core.evidence import Evidence, Shape, Verdict, current_version
from accel.core.planner import Wish
from accel.core.registry import engine
from accel.core.types import Item, Model, Options, Plan
from accel.core.worker import Worker, items_to_json, to_json

#: time of one candidate in one round, seconds
ROUND_S = 0.15
ROUNDS = 7
#: a candidate this much slower than the best after two rounds is timed no further
HOPELESS = 1.6
#: candidates as near to the best as this are told apart by more rounds, in another process each
CLOSE = 1.12
MORE_ROUNDS = 7
#: a thread count other than the default has to be this much faster to be taken
THREAD_GAIN = 0.95
#: steps of generation and of diffusion that stand for the many that are the same
TOKENS = 16
STEPS = 2


@dataclass(eq=False)
class _Candidate:
    """A plan that works and agrees. Its worker is closed when memory is short; the samples stay."""

    plan: Plan
    worker: Worker | None
    load_s: float
    agreement: dict[str, Any]
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def _verdict(plan: Plan, agreement: dict[str, Any], tried: _Candidate | None, reason: str = "") -> Verdict:
    return Verdict(
        device=plan.device,
        platform=plan.platform,
        engine=plan.engine,
        precision=plan.precision,
        variant=plan.variant,
        threads=plan.threads,
        latency_s=tried.median if tried else None,
        load_s=tried.load_s if tried else None,
        cosine=agreement["cosine"],
        max_abs=agreement["max_abs"],
        reason=reason,
        version=current_version(plan.engine),
    )


class Trial:
    """One trial of one workload.

    Args:
        items: the inputs of one batch, as the user gave them; the task's example when empty.
        show: called with a line about what is going on.
        first: gives the process to load the reference in, which may have the model loaded already; its owner ends it.
    """

    def __init__(
        self,
        model: Model,
        items: Sequence[Item],
        options: Options,
        shape: Shape,
        wish: Wish,
        show: Callable[[str], None] = lambda _: None,
        first: Callable[[], Worker] | None = None,
    ) -> None:
        self._first = first or self._worker
        self.model, self.items, self.shape, self.wish, self.show = model, items, shape, wish, show
        self.options = dataclasses.replace(
            options,
            max_new_tokens=min(options.max_new_tokens or TOKENS, TOKENS),
            steps=min(options.steps or STEPS, STEPS),
        )
        self._deadline = time.monotonic() + wish.budget_s
        self._failed: list[Verdict] = []
        self._open: list[_Candidate] = []
        self._builder: Worker | None = None
        self._complete = True

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def run(self, plans: Sequence[Plan]) -> list[Verdict]:
        """Tries the plans and returns a verdict on each, after keeping them as evidence.

        Raises:
            AccelError: the model itself cannot be loaded.
        """
        from accel.core.fingerprint import fingerprint

        with tempfile.TemporaryDirectory(prefix="accel-trial-") as folder:
            reference = Path(folder) / "reference.npy"
            try:
                own = self._open_reference(plans, reference)
                # what is ready soonest goes first, since the time may end before the rest
                for plan in sorted(plans, key=lambda p: engine(p.engine).needs_export(p)):
                    if plan is not own:
                        self._try(plan, reference)
                self._time([c for c in self._open if c.worker])
                self._try_threads()
            finally:
                if self._builder is not None:
                    self._builder.close()
                for candidate in self._open:
                    candidate.close()
        verdicts = [*(_verdict(c.plan, c.agreement, c) for c in self._open if c.samples), *self._failed]
        if self._open:
            found = Evidence(self.shape, tuple(verdicts), self.wish.budget_s, self._complete)
            evidence.keep(self.model, fingerprint(), self.wish.scope, found)
        return verdicts

    def _fail(self, plan: Plan, reason: str, agreement: dict[str, Any] | None = None) -> None:
        self._failed.append(_verdict(plan, agreement or {"cosine": None, "max_abs": None}, None, reason))

    def _out_of_time(self, plan: Plan, what: str) -> None:
        self._complete = False
        self._fail(plan, f"{what} within the {self.wish.budget_s:g} s of the trial (--trial-budget)")

    def _worker(self) -> Worker:
        return Worker(self.model, self.items, self.options, self.wish.memory_limit)

    def _open_reference(self, plans: Sequence[Plan], reference: Path) -> Plan | None:
        """Opens and times the reference, and returns the plan that it is, if it is one of those asked for."""
        worker = self._first()
        started = worker.started
        try:
            self.show("loading the reference: fp32 torch")
            worker.call("take", items=items_to_json(self.items), options=to_json(self.options))
            opened = worker.call("open", plan=None, reference=True)
            load_s = time.monotonic() - started
            worker.call("save", path=str(reference))
            own = next((p for p in plans if _is_reference(p, opened["engine"])), None)
            if own is not None:
                candidate = _Candidate(own, worker, load_s, {"cosine": 1.0, "max_abs": 0.0})
                candidate.samples += worker.call("measure", seconds=ROUND_S)["samples"]
                self._open.append(candidate)
        except BaseException:
            worker.close()
            raise
        self._builder = worker
        return own

    def _prepare(self, plan: Plan) -> None:
        """Has a process that has the model loaded prepare the plan."""
        if prepared.find(self.model, plan) is not None or engine(plan.engine).needs_framework:
            return
        if self._builder is None or not self._builder.alive:
            self._builder = self._worker()
        self.show(f"preparing {_name(plan)}")
        self._builder.call("prepare", timeout=max(1.0, self._left()), plan=to_json(plan))

    def _try(self, plan: Plan, reference: Path) -> None:
        if self._left() <= 0:
            self._out_of_time(plan, "not reached")
            return
        started = time.monotonic()
        worker: Worker | None = None
        try:
            self._prepare(plan)
            self._make_room()
            self.show(f"opening {_name(plan)}")
            worker = self._worker()
            opened = worker.call("open", timeout=max(1.0, self._left()), plan=to_json(plan))
            load_s = float(opened["load_s"])
            if engine(plan.engine).needs_framework:
                load_s = time.monotonic() - started
            if opened["precision"] != plan.precision:
                raise IncompatibleError(f"runs as {opened['precision']} here, not as {plan.precision}")
            agreement = worker.call("compare", timeout=max(1.0, self._left()), path=str(reference))
        except AccelError as error:
            if worker is not None:
                worker.close()
            if self._left() <= 0:
                self._out_of_time(plan, "not ready")
            else:
                self._fail(plan, error.message)
            return
        except BaseException:
            if worker is not None:
                worker.close()
            raise
        reason = ""
        if not agreement["finite"]:
            reason = "its output has values that are not finite numbers"
        elif agreement["cosine"] < self.wish.floor:
            reason = f"disagrees with fp32 torch: cosine {agreement['cosine']:.6f}"
        if reason:
            worker.close()
            self._fail(plan, reason, agreement)
            prepared.discard(self.model, plan)
            return
        self._open.append(_Candidate(plan, worker, load_s, agreement))

    def _make_room(self) -> None:
        """Times and closes what is open when the next process may not find enough memory beside it."""
        from accel.core.cpu import memory

        free = memory().free_bytes
        open_now = [c for c in self._open if c.worker]
        if not open_now or free is None:
            return
        largest = max(_resident(c.worker.pid) for c in open_now if c.worker)
        if free < 2 * largest:
            self._time(open_now)
            for candidate in open_now:
                if candidate.worker is self._builder:
                    self._builder = None
                candidate.close()

    def _time(self, group: list[_Candidate]) -> None:
        """Times the candidates in turn, round after round, so that drift of the machine meets all of them alike."""
        for candidate in list(group):
            self._measure(candidate, 0.0)
        running = [c for c in group if c.worker]
        for candidate in running:
            candidate.samples.clear()
        for number in range(ROUNDS + MORE_ROUNDS):
            if number == ROUNDS:
                best = min((c.median for c in running), default=0.0)
                running = [c for c in running if c.median <= CLOSE * best]
                if len(running) < 2:
                    break
                for candidate in running:
                    self._reopen(candidate)
            self.show(f"timing, round {number + 1} of {ROUNDS if number < ROUNDS else ROUNDS + MORE_ROUNDS}")
            for candidate in list(running):
                self._measure(candidate, ROUND_S)
            running = [c for c in running if c.worker]
            if number >= 1 and len(running) > 1:
                best = min(c.median for c in running)
                running = [c for c in running if c.median <= HOPELESS * best]
            if not running or self._left() <= 0:
                break

    def _measure(self, candidate: _Candidate, seconds: float) -> None:
        if candidate.worker is None:
            return
        if not candidate.worker.alive:
            candidate.close()
            return
        try:
            answer = candidate.worker.call("measure", timeout=max(30.0, self._left()), seconds=seconds)
            candidate.samples += answer["samples"]
        except AccelError as error:
            candidate.close()
            self._open.remove(candidate)
            self._fail(candidate.plan, error.message)

    def _reopen(self, candidate: _Candidate) -> None:
        """Goes on in another process: where memory happens to lie makes one as much as a tenth slower than the next."""
        if candidate.worker is None or candidate.worker is self._builder or self._left() < 4 * candidate.load_s:
            return
        worker = self._worker()
        try:
            worker.call("open", timeout=max(1.0, self._left()), plan=to_json(candidate.plan))
            worker.call("measure", timeout=max(1.0, self._left()), seconds=0.0)
        except BaseException as error:
            worker.close()
            if not isinstance(error, AccelError):
                raise
            return
        candidate.close()
        candidate.worker = worker

    def _try_threads(self) -> None:
        """Tries half of the threads, and one, for the fastest candidate."""
        from accel.core.cpu import limits

        timed = [c for c in self._open if c.samples]
        if not timed or self.wish.threads:
            return
        best = min(timed, key=lambda c: c.median)
        usable = limits()[1]
        for count in sorted({usable // 2, 1} - {0, usable}, reverse=True):
            if self._left() <= 0 or best.worker is None or engine(best.plan.engine).needs_framework:
                return
            self.show(f"trying {best.plan.engine} with {count} thread{'s' if count > 1 else ''}")
            plan = dataclasses.replace(best.plan, threads=count)
            worker = self._worker()
            rival = _Candidate(plan, worker, 0.0, best.agreement)
            try:
                rival.load_s = float(worker.call("open", timeout=max(1.0, self._left()), plan=to_json(plan))["load_s"])
            except AccelError as error:
                worker.close()
                self._fail(plan, error.message)
                continue
            self._open.append(rival)
            before = list(best.samples)
            self._time([rival, best])
            best.samples[:0] = before
            if rival.samples and rival.median <= THREAD_GAIN * best.median:
                best = rival
            elif rival in self._open:
                rival.close()
                self._open.remove(rival)


def _is_reference(plan: Plan, engine_name: str) -> bool:
    return (
        plan.engine == engine_name
        and plan.platform == "cpu"
        and plan.precision == "fp32"
        and not plan.variant
        and not plan.threads
    )


def _name(plan: Plan) -> str:
    return " ".join(p for p in (plan.device, plan.engine, plan.precision, plan.variant) if p)


def _resident(pid: int) -> int:
    """Resident memory of a process, bytes; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0
