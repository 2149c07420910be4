"""How long a workload takes on a device, how sure that is, what it needs and what bounds it.

The price of every operator is summed along the graph, corrected by class with what earlier measurements taught, and
given an interval that covers nine of ten measurements in cross-validation (`learning`), or, where nothing was
calibrated, a wide one that says so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from accel.core.errors import AccelError
from accel.core.performance import calibration, graphs, learning
from accel.core.performance.machines import Machine, machines
from accel.core.performance.memory import MemoryEstimate, memory_of
from accel.core.performance.operators import OperatorGraph
from accel.core.performance.prices import CLASSES, Rates, Roofline, class_of
from accel.core.registry import engine as engine_named
from accel.core.types import PRECISIONS, Model, Plan, Recipe

#: factor by which an uncalibrated prediction may be off either way, by what it is based on. Not checked on other
#: machines: on one processor a roofline of measured peaks was off by 20 to 55 %
SPREAD = {"measured": 2.0, "catalogue": 3.0, "estimated": 4.0}
#: watts of one busy core where no counter tells: server and desktop processors draw 3 to 10 at their power limit
CORE_W = 5.0


@dataclass(frozen=True)
class Share:
    """What a class of operators costs: seconds, share of the latency, and what bounds most of it."""

    seconds: float
    share: float
    bound: str


@dataclass(frozen=True)
class Prediction:
    """What is expected of a workload under a plan.

    Attributes:
        latency_s: median. interval_s: (low, high) that is to hold nine of ten times.
        phase_s: seconds of each phase (`prefill`, `decode`), all its executions together.
        classes: by class of operators, see `prices.CLASSES`.
        uncorrected: seconds by class before what measurements taught.
        bottleneck: `compute`, `bandwidth` or `overhead`.
        energy_j: of one execution. energy_basis: where it comes from, in words.
        calibrated: this engine was measured on this machine. basis: what the prices are based on.
    """

    device: str
    engine: str
    precision: str
    batch: int
    length: int | None
    latency_s: float
    interval_s: tuple[float, float]
    phase_s: dict[str, float]
    classes: dict[str, Share]
    uncorrected: dict[str, float]
    bottleneck: str
    memory: MemoryEstimate
    energy_j: float | None
    power_w: float | None
    energy_basis: str
    calibrated: bool
    basis: str
    notes: tuple[str, ...] = field(default=())

    @property
    def throughput_per_s(self) -> float:
        """Inputs per second."""
        return self.batch / self.latency_s


def able(engine: str, machine: Machine, family: str, task: str) -> tuple[str, ...]:
    """The precisions that an engine offers for a kind of model on a device, best guess first."""
    offer = engine_named(engine)
    if machine.platform not in offer.platforms:
        return ()
    plans = offer.plans(machine.id, Recipe(family, task, {}, {}), PRECISIONS)
    return tuple(dict.fromkeys(plan.precision for plan in plans))


def rates_for(machine: Machine, engine: str, precision: str, threads: int = 0) -> Rates:
    """Prices from this machine's calibration where there is one that fits, else from the peaks.

    Raises:
        IncompatibleError: the device has no figure for the precision.
    """
    if machine.present:
        found = calibration.rates(machine, engine, precision, threads)
        if found is not None:
            return found
    return Roofline(machine, engine, precision)


def priced(graph: OperatorGraph, rates: Rates) -> Iterator[tuple[str, str, str, float]]:
    """Phase, class of operators, what bounds it, and uncorrected seconds, of all that one execution does.

    Executing graphs at all counts as overhead.
    """
    for op in graph.operators:
        found = rates.price(op)
        yield op.phase, class_of(op), found.bound, op.count * found.seconds
    for phase, count in graph.calls.items():
        yield phase, "overhead", "overhead", count * rates.call_s


def seconds_by_class(graph: OperatorGraph, rates: Rates) -> dict[str, float]:
    """Uncorrected seconds of every class of operators."""
    total = dict.fromkeys(CLASSES, 0.0)
    for _, kind, _, seconds in priced(graph, rates):
        total[kind] += seconds
    return total


def latency(
    graph: OperatorGraph, machine: Machine, engine: str, precision: str = "fp32", threads: int = 0, without: str = ""
) -> Prediction:
    """Predicts one execution.

    Args:
        threads: 0 for all that the process may use. Fewer are priced by their share of the cores.
        without: a family whose measurements on this machine are to have no part in it.

    Raises:
        IncompatibleError: the device has no figure for the precision.
    """
    rates = rates_for(machine, engine, precision, threads)
    calibrated = rates.basis == "calibrated"
    correction = learning.correction(machine, engine, precision, without) if calibrated else learning.NONE
    scale = _threads_factor(machine, threads) if not calibrated else 1.0
    phases: dict[str, float] = {}
    classes: dict[str, float] = dict.fromkeys(CLASSES, 0.0)
    bounds: dict[str, dict[str, float]] = {name: defaultdict(float) for name in CLASSES}
    uncorrected = dict.fromkeys(CLASSES, 0.0)
    for phase, kind, bound, plain in priced(graph, rates):
        seconds = scale * plain * correction.factors.get(kind, 1.0)
        uncorrected[kind] += plain
        classes[kind] += seconds
        bounds[kind][bound] += seconds
        phases[phase] = phases.get(phase, 0.0) + seconds
    total = max(sum(classes.values()), 1e-9)
    spread = math.exp(correction.halfwidth + rates.widening) if calibrated else SPREAD.get(rates.basis, 4.0)
    by_bound: dict[str, float] = defaultdict(float)
    for found in bounds.values():
        for bound, seconds in found.items():
            by_bound[bound] += seconds
    power, energy_basis = _power(machine, threads)
    return Prediction(
        device=machine.id,
        engine=engine,
        precision=precision,
        batch=graph.batch,
        length=graph.length,
        latency_s=total,
        interval_s=(total / spread, total * spread),
        phase_s=phases,
        classes={
            name: Share(seconds, seconds / total, max(bounds[name], key=bounds[name].__getitem__))
            for name, seconds in classes.items()
            if seconds > 0
        },
        uncorrected=uncorrected,
        bottleneck=max(by_bound, key=by_bound.__getitem__) if by_bound else "overhead",
        memory=memory_of(graph, engine, precision, machine.platform),
        energy_j=None if power is None else power * total,
        power_w=power,
        energy_basis=energy_basis,
        calibrated=calibrated,
        basis=rates.basis,
        notes=() if calibrated else (_caution(machine, rates.basis),),
    )


def for_plans(
    model: Model, batch: int, length: int | None, plans: Sequence[Plan], new_tokens: int | None = None
) -> list[tuple[Plan, Prediction]]:
    """Predictions for plans of this machine, fastest first; only for those whose engine was calibrated here.

    A plan that reaches its precision in a way of its own (`variant`) is left out: what is priced is the plain graph.

    Args:
        length: tokens of a text or samples of a sound; what counts otherwise (pixels) decides nothing here.

    Returns:
        nothing where no engine is calibrated, which costs a look at a file.

    Raises:
        AccelError: the model's operators cannot be found.
    """
    able = [p for p in plans if not p.variant and p.precision == "fp32" and calibration.kept(p.engine) is not None]
    if not able:
        return []
    has_length = model.family in (*graphs.TEXT, "audio")
    graph = graphs.graph_of(model, batch, length if has_length else None, new_tokens or graphs.NEW_TOKENS)
    here = {machine.id: machine for machine in machines(",".join(dict.fromkeys(p.device for p in able)))}
    found = [(p, latency(graph, here[p.device], p.engine, p.precision, p.threads)) for p in able if p.device in here]
    return sorted((pair for pair in found if pair[1].calibrated), key=lambda pair: pair[1].latency_s)


def expected_s(model: Model, plan: Plan, length: int | None, new_tokens: int | None = None) -> float | None:
    """Seconds of one execution, where that is known at the cost of reading files; None elsewhere.

    That is: the model was profiled before, and the plan's engine was calibrated here.
    """
    if plan.precision != "fp32" or calibration.kept(plan.engine) is None:
        return None
    try:
        graph = graphs.known(model, plan.batch, length, new_tokens or graphs.NEW_TOKENS)
        if graph is None:
            return None
        found = latency(graph, machines(plan.device)[0], plan.engine, plan.precision, plan.threads)
    except AccelError:
        return None
    return found.latency_s if found.calibrated else None


def _caution(machine: Machine, basis: str) -> str:
    if not machine.present:
        return (
            f"uncalibrated: transferred from published figures of {machine.name}, expect a factor of {SPREAD[basis]:g}"
        )
    how = {
        "measured": "from the peaks that accel detect --deep measured",
        "catalogue": "from published figures",
        "estimated": "from an estimate of its peaks",
    }[basis]
    return f"uncalibrated: {how}, expect a factor of {SPREAD[basis]:g}; accel profile --calibrate measures this machine"


def _cores() -> int:
    from accel.core.cpu import limits

    return max(1, limits()[1])


def _threads_factor(machine: Machine, threads: int) -> float:
    """How much longer it takes with fewer threads than there are."""
    if not threads or machine.platform not in ("cpu", "openvino") or not machine.present:
        return 1.0
    return max(1.0, _cores() / threads)


def _power(machine: Machine, threads: int) -> tuple[float | None, str]:
    """Watts while it computes, and where the figure comes from."""
    from accel.core.performance import ledger

    if machine.present:
        try:
            measured = ledger.power(machine.id)
        except AccelError:
            measured = None
        if measured is not None:
            return measured, "measured by the energy counter in earlier benchmarks"
    if machine.power_w is not None:
        return 0.7 * machine.power_w, "estimated: 0.7 of the maker's power limit"
    if machine.present and machine.platform in ("cpu", "openvino"):
        cores = threads or _cores()
        return CORE_W * cores, f"estimated: {CORE_W:g} W for each of {cores} cores; no energy counter was read"
    return None, "no figure"
