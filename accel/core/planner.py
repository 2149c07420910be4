"""Chooses where and how a workload runs: evidence first, a trial second, the priority table last.

The trial opens every candidate in a process of its own, compares its output with fp32 torch, times the ones that agree
in interleaved rounds, and keeps the verdicts. What it minimises is the time of the work asked for: loading plus the
number of batches times the time of one.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core import evidence, prepared
from accel.core.agreement import EXACT
from accel.core.errors import AccelError, GateError, IncompatibleError, UnavailableError
from accel.core.evidence import Shape, Verdict
from accel.core.registry import builtin_names, engine
from accel.core.types import PRECISIONS, Item, Model, Options, Plan, Recipe
from accel.core.worker import Worker, to_json

#: time of one candidate in one round of the trial, seconds
ROUND_S = 0.15
ROUNDS = 7
#: a candidate this much slower than the best after the first rounds is timed no further
HOPELESS = 1.6
#: a thread count other than the default has to be this much faster to be taken
THREAD_GAIN = 0.95


@dataclass(frozen=True)
class Wish:
    """What the user asked about the place and manner of execution.

    Attributes:
        devices: (platform, device id) pairs that may be used, best guess first.
        engine: engine name, or None for any.
        precision: one of `PRECISIONS`, or `auto`.
        tolerance: lowest cosine to the reference, or None for the default (exact class).
        threads: 0 for any number.
        trial: whether an unknown workload may be tried out.
        budget_s: time that the trial may take.
        memory_limit: bytes, or None.
        explicit: the user named the devices, so that a plan on one of them counts as requested.
    """

    devices: tuple[tuple[str, str], ...]
    engine: str | None = None
    precision: str = "auto"
    tolerance: float | None = None
    threads: int = 0
    trial: bool = True
    budget_s: float = 60.0
    memory_limit: int | None = None
    explicit: bool = False

    @property
    def floor(self) -> float:
        """The lowest cosine that a plan may have."""
        if self.tolerance is not None:
            return self.tolerance
        return EXACT if self.precision in ("auto", "fp32") else 0.0

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of arithmetic that may be used."""
        if self.precision != "auto":
            return (self.precision,)
        return ("fp32",) if self.floor >= EXACT else PRECISIONS

    @property
    def scope(self) -> str:
        """What a trial under this wish tries, as a stable text. The tolerance is applied to the verdicts later."""
        devices = ",".join(sorted(device for _, device in self.devices))
        return f"{devices}|{self.engine or 'any'}|{','.join(self.precisions)}|{self.threads}"


def candidates(recipe: Recipe, wish: Wish) -> tuple[list[Plan], list[str]]:
    """Every plan that the wish allows, best guess first, and the reasons why others are out of the question."""
    plans: list[Plan] = []
    reasons: list[str] = []
    names = [wish.engine] if wish.engine else list(builtin_names("engines"))
    for platform, device in wish.devices:
        for name in names:
            offer = engine(name)
            if platform not in offer.platforms or (not wish.engine and platform in offer.on_request):
                continue
            missing = offer.missing_on(platform)
            if missing:
                reasons.append(f"{device} {name}: {missing}")
                continue
            plans += [
                dataclasses.replace(p, threads=wish.threads) for p in offer.plans(device, recipe, wish.precisions)
            ]
    return plans, reasons


def known(model: Model, recipe: Recipe, shape: Shape, wish: Wish, count: int | None) -> Plan | None:
    """The plan that earlier measurements of this workload on this machine point to, or None.

    Args:
        count: inputs to come; None for many.
    """
    from accel.core.fingerprint import fingerprint

    found = evidence.find(model, fingerprint(), shape, wish.scope)
    if found is None or any(_version(v.engine) != v.version for v in found[1]):
        return None
    measured, verdicts = found
    plan = _best(verdicts, wish, measured, count, "measured")
    if plan is None:
        return None
    reason = plan.reason if measured == shape else f"{plan.reason} at batch {measured.batch}, length {measured.length}"
    return dataclasses.replace(plan, batch=shape.batch, reason=reason)


def _version(name: str) -> str:
    try:
        offer = engine(name)
        return "" if offer.missing() else offer.version()
    except AccelError:
        return ""


def _cost(verdict: Verdict, shape: Shape, count: int | None) -> float:
    """Seconds for the work asked for; the time of one batch where the amount is unknown or large."""
    assert verdict.latency_s is not None
    if count is None:
        return verdict.latency_s
    return (verdict.load_s or 0.0) + math.ceil(count / shape.batch) * verdict.latency_s


def _best(verdicts: Sequence[Verdict], wish: Wish, shape: Shape, count: int | None, source: str) -> Plan | None:
    able = [v for v in verdicts if v.latency_s is not None and (v.cosine is None or v.cosine >= wish.floor)]
    if not able:
        return None
    ranked = sorted(able, key=lambda v: _cost(v, shape, count))
    best = ranked[0]
    return Plan(
        device=best.device,
        platform=best.platform,
        engine=best.engine,
        precision=best.precision,
        batch=shape.batch,
        threads=best.threads,
        variant=best.variant,
        source=source,  # type: ignore[arg-type]
        reason=_why(ranked, shape, count, len(verdicts)),
        candidates=tuple(_as_candidate(v, wish) for v in [*ranked, *(v for v in verdicts if v not in able)]),
    )


def _why(ranked: Sequence[Verdict], shape: Shape, count: int | None, tried: int) -> str:
    best = ranked[0]
    assert best.latency_s is not None
    what = "fastest" if count is None else f"least time for {count} input{'s' if count != 1 else ''}, loading included,"
    reason = f"{what} of {tried} tried: {1000 * best.latency_s:.3g} ms"
    if len(ranked) > 1:
        second = ranked[1]
        assert second.latency_s is not None
        reason += f", next {second.engine} {second.precision} {1000 * second.latency_s:.3g} ms"
    return reason


def _as_candidate(verdict: Verdict, wish: Wish) -> dict[str, Any]:
    reason = verdict.reason
    if not reason and verdict.cosine is not None and verdict.cosine < wish.floor:
        reason = f"cosine {verdict.cosine:.6f} is below the tolerance of {wish.floor:g}"
    return {
        "name": verdict.name,
        "device": verdict.device,
        "engine": verdict.engine,
        "precision": verdict.precision,
        "variant": verdict.variant,
        "threads": verdict.threads,
        "latency_ms": None if verdict.latency_s is None else 1000 * verdict.latency_s,
        "load_ms": None if verdict.load_s is None else 1000 * verdict.load_s,
        "cosine": verdict.cosine,
        "max_abs": verdict.max_abs,
        "reason": reason,
    }


def by_priority(plans: Sequence[Plan], reason: str) -> Plan:
    """The first plan of the priority table, when nothing was or may be measured."""
    first = plans[0]
    left = tuple(
        {"name": f"{p.device} {p.engine} {p.precision} {p.variant}".strip(), "reason": "not tried"} for p in plans
    )
    return dataclasses.replace(first, source="priority", reason=reason, candidates=left)


def requested(plan: Plan) -> Plan:
    """The only plan that the user's options leave."""
    return dataclasses.replace(plan, source="requested", reason="the only one that the options leave")


def nothing(reasons: Sequence[str], wish: Wish) -> AccelError:
    """The error when no plan is left."""
    asked = ", ".join(device for _, device in wish.devices) or "no device"
    why = "; ".join(reasons) or f"no engine here runs {'/'.join(wish.precisions)} on {asked}"
    kind = UnavailableError if reasons else IncompatibleError
    return kind(f"nothing can run this on {asked}: {why}", "accel detect shows devices and engines; try --hw auto")


@dataclass
class _Candidate:
    plan: Plan
    worker: Worker
    load_s: float
    agreement: dict[str, Any]
    samples: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def _verdict(
    plan: Plan,
    agreement: dict[str, Any],
    latency_s: float | None = None,
    load_s: float | None = None,
    reason: str = "",
) -> Verdict:
    return Verdict(
        device=plan.device,
        platform=plan.platform,
        engine=plan.engine,
        precision=plan.precision,
        variant=plan.variant,
        threads=plan.threads,
        latency_s=latency_s,
        load_s=load_s,
        cosine=agreement["cosine"],
        max_abs=agreement["max_abs"],
        reason=reason,
        version=_version(plan.engine),
    )


def _is_reference(plan: Plan, engine_name: str) -> bool:
    return (
        plan.engine == engine_name
        and plan.platform == "cpu"
        and plan.precision == "fp32"
        and not plan.variant
        and not plan.threads
    )


class Trial:
    """One trial of one workload.

    Args:
        items: the inputs of one batch, as the user gave them; the task's example when empty.
        show: called with a line about what is going on.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        items: Sequence[Item],
        options: Options,
        shape: Shape,
        wish: Wish,
        show: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.recipe, self.items, self.shape, self.wish, self.show = model, recipe, items, shape, wish, show
        # a few steps of generation and of diffusion stand for the many that are the same
        self.options = dataclasses.replace(
            options, max_new_tokens=min(options.max_new_tokens or 16, 16), steps=min(options.steps or 2, 2)
        )
        self._deadline = time.monotonic() + wish.budget_s
        self._verdicts: list[Verdict] = []
        self._open: list[_Candidate] = []

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def run(self, plans: Sequence[Plan]) -> list[Verdict]:
        """Tries the plans and returns a verdict on each, after keeping them as evidence.

        Raises:
            AccelError: the model itself cannot be loaded.
        """
        from accel.core.fingerprint import fingerprint

        with tempfile.TemporaryDirectory(prefix="accel-trial-") as folder:
            try:
                self._open_all(plans, Path(folder) / "reference.npy")
                self._time(self._open)
                self._try_threads()
            finally:
                for candidate in self._open:
                    candidate.worker.close()
        self._verdicts += [_verdict(c.plan, c.agreement, c.median, c.load_s) for c in self._open]
        if self._open:
            evidence.keep(self.model, fingerprint(), self.shape, self.wish.scope, self._verdicts)
        return self._verdicts

    def _fail(self, plan: Plan, reason: str, agreement: dict[str, Any] | None = None) -> None:
        self.show(f"{plan.device} {plan.engine} {plan.precision}: left out, {reason}")
        self._verdicts.append(_verdict(plan, agreement or {"cosine": None, "max_abs": None}, reason=reason))

    def _worker(self) -> Worker:
        return Worker(self.model, self.items, self.options, self.wish.memory_limit)

    def _open_all(self, plans: Sequence[Plan], reference: Path) -> None:
        started = time.monotonic()
        first = self._worker()
        try:
            self.show("the reference: fp32 torch")
            opened = first.call("open", plan=None, reference=True)
            load_s = time.monotonic() - started
            first.call("save", path=str(reference))
            export_error = self._export(first, plans)
            own = next((p for p in plans if _is_reference(p, opened["engine"])), None)
        except BaseException:
            first.close()
            raise
        if own is None:
            first.close()
        else:
            exact = {"cosine": 1.0, "max_abs": 0.0}
            self._open.append(_Candidate(own, first, load_s, exact))
        for plan in plans:
            if plan is own:
                continue
            if export_error and not engine(plan.engine).needs_framework:
                self._fail(plan, export_error)
            elif self._left() <= 0:
                self._fail(plan, f"not tried: the trial's {self.wish.budget_s:g} s were used up")
            else:
                self._try(plan, reference)

    def _export(self, worker: Worker, plans: Sequence[Plan]) -> str:
        """Exports the graphs for those engines that need it; returns why that failed, or ""."""
        if all(engine(p.engine).needs_framework for p in plans):
            return ""
        self.show("exporting the graph")
        try:
            worker.call("export", timeout=max(1.0, self._left()))
        except IncompatibleError as error:
            return f"the model could not be exported: {error.message}"
        return ""

    def _try(self, plan: Plan, reference: Path) -> None:
        self.show(f"{plan.device} {plan.engine} {plan.precision} {plan.variant}".strip())
        started = time.monotonic()
        worker = self._worker()
        try:
            opened = worker.call("open", timeout=max(1.0, self._left()), plan=to_json(plan))
            load_s = float(opened["load_s"])
            if engine(plan.engine).needs_framework:
                load_s = time.monotonic() - started
            plan = dataclasses.replace(plan, precision=opened["precision"])
            agreement = worker.call("compare", timeout=max(1.0, self._left()), path=str(reference))
            if not agreement["finite"]:
                raise IncompatibleError("its output has values that are not finite numbers")
            if agreement["cosine"] < self.wish.floor:
                worker.close()
                reason = f"disagrees with fp32 torch: cosine {agreement['cosine']:.6f}"
                self._fail(plan, reason, agreement)
                prepared.discard(self.model, plan)
                return
            self._open.append(_Candidate(plan, worker, load_s, agreement))
        except AccelError as error:
            worker.close()
            self._fail(plan, error.message)
        except BaseException:
            worker.close()
            raise

    def _time(self, group: list[_Candidate]) -> None:
        """Times the candidates in turn, round after round, so that drift of the machine meets all of them alike."""
        for candidate in list(group):
            self._measure(candidate, 0.0)
            candidate.samples.clear()
        running = [c for c in group if c in self._open]
        for number in range(ROUNDS):
            self.show(f"timing, round {number + 1} of {ROUNDS}")
            for candidate in list(running):
                self._measure(candidate, ROUND_S)
            running = [c for c in running if c in self._open]
            if number >= 1 and len(running) > 1:
                best = min(c.median for c in running)
                running = [c for c in running if c.median <= HOPELESS * best]
            if len(running) <= 1 or self._left() <= 0:
                break

    def _measure(self, candidate: _Candidate, seconds: float) -> None:
        try:
            answer = candidate.worker.call("measure", timeout=max(30.0, self._left()), seconds=seconds)
            candidate.samples += answer["samples"]
        except AccelError as error:
            candidate.worker.close()
            self._open.remove(candidate)
            self._fail(candidate.plan, error.message)

    def _try_threads(self) -> None:
        """Tries half of the threads, and one, for the fastest candidate."""
        from accel.core.cpu import limits

        timed = [c for c in self._open if c.samples]
        if not timed or self.wish.threads:
            return
        best = min(timed, key=lambda c: c.median)
        usable = limits()[1]
        for count in sorted({usable // 2, 1} - {0, usable}, reverse=True):
            if self._left() <= 0 or best not in self._open or engine(best.plan.engine).needs_framework:
                return
            self.show(f"{best.plan.engine} with {count} threads")
            plan = dataclasses.replace(best.plan, threads=count)
            worker = self._worker()
            try:
                opened = worker.call("open", timeout=max(1.0, self._left()), plan=to_json(plan))
            except AccelError as error:
                worker.close()
                self._fail(plan, error.message)
                continue
            rival = _Candidate(plan, worker, float(opened["load_s"]), best.agreement)
            self._open.append(rival)
            before = list(best.samples)
            self._time([rival, best])
            if rival in self._open and rival.median > THREAD_GAIN * best.median:
                worker.close()
                self._open.remove(rival)
            best.samples[:0] = before
            if rival in self._open:
                best = rival


def choose(
    model: Model,
    recipe: Recipe,
    items: Sequence[Item],
    options: Options,
    shape: Shape,
    wish: Wish,
    count: int | None,
    show: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The plan for a workload (DESIGN: measured, trial, predicted, priority).

    Raises:
        UnavailableError, IncompatibleError: nothing can run it. GateError: nothing agrees within the tolerance.
    """
    plan = known(model, recipe, shape, wish, count)
    if plan is not None:
        return plan
    plans, reasons = candidates(recipe, wish)
    if not plans:
        raise nothing(reasons, wish)
    if len(plans) == 1 and wish.tolerance is None:
        return requested(plans[0])
    if not wish.trial:
        return by_priority(plans, "no measurement of this workload, and --no-trial: first of the priority table")
    verdicts = Trial(model, recipe, items, options, shape, wish, show).run(plans)
    best = _best(verdicts, wish, shape, count, "trial")
    if best is not None:
        return best
    disagree = [v for v in verdicts if v.cosine is not None and v.cosine < wish.floor]
    if disagree:
        nearest = max(disagree, key=lambda v: v.cosine or 0.0)
        raise GateError(
            f"no candidate agrees with fp32 torch within {wish.floor:g}: "
            f"the nearest, {nearest.name}, has {nearest.cosine:.6f}",
            "lower --tolerance, or ask for --precision fp32",
        )
    why = "; ".join(f"{v.name}: {v.reason}" for v in verdicts)
    raise IncompatibleError(f"every candidate failed: {why}", "try another device or engine (--hw, --engine)")
