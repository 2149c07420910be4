"""Chooses where and how a workload runs: evidence first, a trial second, the priority table last.

What is minimised is the time of the work asked for: loading plus the number of batches times the time of one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.core import evidence
from accel.core.agreement import EXACT
from accel.core.errors import AccelError, GateError, IncompatibleError, UnavailableError
from accel.core.evidence import Shape, Verdict
from accel.core.registry import engine, names
from accel.core.types import PRECISIONS, Item, Model, Options, Plan, Recipe

if TYPE_CHECKING:
    from accel.core.worker import Worker


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
        strict: it is an error when most of the work does not run where the plan says.
        without: keys of plans that turned out not to work.
    """

    devices: tuple[tuple[str, str], ...]
    engine: str | None = None
    precision: str = "auto"
    tolerance: float | None = None
    threads: int = 0
    trial: bool = True
    budget_s: float = 60.0
    memory_limit: int | None = None
    strict: bool = False
    without: tuple[str, ...] = ()

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
    """Every plan that the wish allows and that has not failed, best guess first; why others are out of the question."""
    plans: list[Plan] = []
    reasons: list[str] = []
    offered = [wish.engine] if wish.engine else names("engines")
    for platform, device in wish.devices:
        for name in offered:
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
    return [plan for plan in plans if plan.key not in wish.without], reasons


def known(model: Model, recipe: Recipe, shape: Shape, wish: Wish, count: int | None) -> Plan | None:
    """The plan that earlier measurements of this workload on this machine point to, or None.

    Args:
        count: inputs to come; None for many.
    """
    from accel.core.fingerprint import fingerprint

    found = evidence.find(model, fingerprint(), shape, wish.scope)
    if found is None or found.stale or (not found.complete and wish.budget_s > found.budget_s):
        return None
    measured = found.shape
    plan = _best(found.verdicts, wish, measured, count, "measured")
    if plan is None:
        return None
    reason = plan.reason if measured == shape else f"{plan.reason} at batch {measured.batch}, length {measured.length}"
    return dataclasses.replace(plan, batch=shape.batch, reason=reason)


def _cost(verdict: Verdict, shape: Shape, count: int | None) -> float:
    """Seconds for the work asked for; the time of one batch where the amount is unknown or large."""
    assert verdict.latency_s is not None
    if count is None:
        return verdict.latency_s
    return (verdict.load_s or 0.0) + math.ceil(count / shape.batch) * verdict.latency_s


def _best(verdicts: Sequence[Verdict], wish: Wish, shape: Shape, count: int | None, source: str) -> Plan | None:
    able = [
        v
        for v in verdicts
        if v.latency_s is not None and (v.cosine is None or v.cosine >= wish.floor) and v.key not in wish.without
    ]
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
    def said(verdict: Verdict) -> str:
        cost = _cost(verdict, shape, count)
        return f"{cost:.3g} s" if cost >= 1 else f"{1000 * cost:.3g} ms"

    what = "fastest" if count is None else f"least time for {count} input{'s' if count != 1 else ''} with loading"
    reason = f"{what}: {said(ranked[0])}"
    if len(ranked) > 1:
        reason += f", next {ranked[1].engine} {ranked[1].precision} {said(ranked[1])}"
    return f"{reason}; {tried} tried"


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


def _preferred(plans: Sequence[Plan], model: Model, recipe: Recipe, batch: int, wish: Wish) -> Plan | None:
    """What the only engine that is left says of its own plans."""
    if wish.tolerance is not None or len({plan.engine for plan in plans}) > 1:
        return None
    found = engine(plans[0].engine).prefer(plans, model, recipe, batch)
    return found and by_priority([found[0], *(p for p in plans if p != found[0])], found[1])


def predicted(model: Model, options: Options, shape: Shape, plans: Sequence[Plan]) -> Plan | None:
    """The plan that is predicted to be the fastest, or None where fewer than two engines were calibrated here.

    See `accel profile --calibrate`. Loading is not predicted.
    """
    from accel.core.performance import calibration

    if sum(calibration.kept(name) is not None for name in {p.engine for p in plans}) < 2:
        return None
    from accel.core.performance import predict

    try:
        ranked = predict.for_plans(model, shape.batch, shape.length, plans, options.max_new_tokens)
    except AccelError:
        return None  # its operators cannot be found: the priority table decides
    if len(ranked) < 2:
        return None
    best, expected = ranked[0]
    low, high = (1e3 * bound for bound in expected.interval_s)
    reason = f"predicted to be the fastest: {1e3 * expected.latency_s:.3g} ms ({low:.3g} to {high:.3g})"
    named = {id(plan): found for plan, found in ranked}
    left = tuple(
        {
            "name": f"{p.device} {p.engine} {p.precision} {p.variant}".strip(),
            "reason": f"predicted {1e3 * named[id(p)].latency_s:.3g} ms" if id(p) in named else "not tried",
        }
        for p in plans
    )
    return dataclasses.replace(best, source="predicted", reason=reason, candidates=left)


def requested(plan: Plan) -> Plan:
    """The only plan that the user's options leave."""
    return dataclasses.replace(plan, source="requested", reason="the only one that the options leave")


def nothing(reasons: Sequence[str], wish: Wish) -> AccelError:
    """The error when no plan is left."""
    asked = ", ".join(device for _, device in wish.devices) or "no device"
    why = "; ".join(reasons) or f"no engine here runs {'/'.join(wish.precisions)} on {asked}"
    kind = UnavailableError if reasons else IncompatibleError
    return kind(f"nothing can run this on {asked}: {why}", "accel detect shows devices and engines; try --hw auto")


def choose(
    model: Model,
    recipe: Recipe,
    items: Sequence[Item],
    options: Options,
    shape: Shape,
    wish: Wish,
    count: int | None,
    show: Callable[[str], None] = lambda _: None,
    worker: Callable[[], Worker] | None = None,
) -> Plan:
    """The plan for a workload (DESIGN: measured, trial, predicted, priority).

    Args:
        worker: gives a process that may have the model loaded already, for a trial.

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
        return by_priority(plans, "the only one left: the others failed") if wish.without else requested(plans[0])
    ruled = _preferred(plans, model, recipe, shape.batch, wish)
    if ruled is not None:
        return ruled
    if not wish.trial:
        guess = predicted(model, options, shape, plans)
        if guess is not None:
            return guess
        return by_priority(plans, "no measurement of this workload, and --no-trial: first of the priority table")
    from accel.core.trial import Trial

    verdicts = Trial(model, items, options, shape, wish, show, worker).run(plans)
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
