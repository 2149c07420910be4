"""One way to run one model on one device, and whether it works out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from accel.core import prepared
from accel.core.compatibility import disk, drivers, need
from accel.core.compatibility.need import Need
from accel.core.compatibility.requirements import SOFT, Requirement, amount, fact, score, unknown
from accel.core.compatibility.supply import of_host
from accel.core.compatibility.targets import Target
from accel.core.cpu import limits
from accel.core.errors import AccelError
from accel.core.performance import graphs, predict
from accel.core.performance.operators import OperatorGraph
from accel.core.performance.predict import Prediction
from accel.core.registry import engine as engine_named
from accel.core.types import GraphSpec, Model, Recipe

#: the graph of a workload by batch, length and new tokens
Sized = Callable[[int, int | None, int], OperatorGraph]


@dataclass(frozen=True)
class Way:
    """How a workload is run: what decides what it needs.

    Attributes:
        length: of the inputs; None for the default of the model.
        new_tokens: that a decoder generates at most.
        prepared: it is prepared beforehand, without a limit of memory.
    """

    engine: str
    precision: str = "fp32"
    batch: int = 1
    length: int | None = None
    new_tokens: int = graphs.NEW_TOKENS
    threads: int = 0
    prepared: bool = False


@dataclass(frozen=True)
class Bounds:
    """Limits that the user sets: bytes of memory and seconds; None for no limit."""

    memory: int | None = None
    latency_s: float | None = None


@dataclass(frozen=True)
class Judgement:
    """A way with everything that it has to meet.

    Attributes:
        prediction: of its time; None where nothing can be said.
    """

    way: Way
    need: Need
    requirements: tuple[Requirement, ...]
    prediction: Prediction | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def score(self) -> float:
        """The probability that it runs as asked."""
        return score(self.requirements)

    @property
    def runs(self) -> bool:
        """Whether every requirement is met."""
        return all(one.met for one in self.requirements)

    @property
    def failing(self) -> tuple[Requirement, ...]:
        """What is not met."""
        return tuple(one for one in self.requirements if not one.met)


def recipe_of(graph: OperatorGraph) -> Recipe:
    """As much of the model's recipe as the engines look at when they say what they offer."""
    cache = graph.cache_bytes > 0
    return Recipe(graph.family, graph.task, {name: GraphSpec(name, (), (), cache) for name in graph.graphs}, {})


def judge(
    model: Model, graph: OperatorGraph, target: Target, way: Way, bounds: Bounds, covered: Requirement | None = None
) -> Judgement:
    """Looks at one way.

    Args:
        graph: of the way's batch, length and new tokens.
        covered: what the engine said about the model's operators, where it was asked.
    """
    threads = way.threads or (limits()[1] if target.present else 1)
    wanted = need.of(graph, way.engine, way.precision, target.platform, threads)
    found = [*_facts(graph, target, way), *([covered] if covered else [])]
    if any(not one.met for one in found):
        return Judgement(way, wanted, tuple(found))
    found += [*_memory(model, target, way, wanted, bounds), *_size(wanted, way)]
    if target.present:
        found.append(disk.requirement(model, graph, way.engine))
    prediction = None
    if target.machine is not None:
        try:
            prediction = predict.latency(graph, target.machine, way.engine, way.precision, way.threads)
        except AccelError:
            prediction = None  # no figure for the precision: the time is unknown, the memory is not
    if bounds.latency_s is not None:
        found.append(_latency(prediction, target, bounds.latency_s))
    return Judgement(way, wanted, tuple(found), prediction, prediction.notes if prediction else ())


def _facts(graph: OperatorGraph, target: Target, way: Way) -> list[Requirement]:
    offer = engine_named(way.engine)
    if target.platform not in offer.platforms:
        return [fact("engine", False, f"{way.engine} does not run on {target.platform}")]
    found = []
    if target.device is not None:
        found = drivers.requirements(target.device, way.engine)
        if any(not one.met for one in found):
            return found
    offered = offer.plans(target.id, recipe_of(graph), (way.precision,))
    why = f"{way.engine} offers {way.precision} on {target.platform}"
    if not offered:
        why = f"{way.engine} offers no {way.precision} on {target.platform}"
        if not offer.plans(target.id, recipe_of(graph), ("fp32", "fp16", "bf16", "int8")):
            why = f"{way.engine} has no way to run a {graph.family} on {target.platform}"
    elif target.device is not None and way.precision not in target.device.precisions["possible"]:
        return [*found, fact("precision", False, f"{target.id} has no {way.precision}")]
    found.append(fact("precision", bool(offered), why))
    machine = target.machine
    if offered and not target.present and machine is not None and way.precision not in machine.gflops:
        found.append(unknown("precision", f"nobody publishes that {target.id} computes in {way.precision}"))
    return found


def _gib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.3g} GiB"


def _memory(model: Model, target: Target, way: Way, wanted: Need, bounds: Bounds) -> list[Requirement]:
    found = []
    basis = "" if wanted.basis == "measured" else " (assumed, not measured)"
    supply = target.supply
    words = f"{_gib(wanted.resident)}, at most {_gib(wanted.resident_bound)}{basis}"
    if supply.free is not None:
        reason = f"needs {words}; {_gib(supply.free)} {supply.where}"
        reason += f" of {_gib(supply.total)}" if supply.total and target.present else ""
        reason += f"; {'; '.join(supply.holders)}" if supply.holders else ""
        found.append(amount("memory", wanted.resident, wanted.resident_bound, supply.free, reason))
    elif bounds.memory is None:
        found.append(unknown("memory", f"needs {words}; nobody publishes how much memory {target.id} has"))
    if bounds.memory is not None:
        private = target.platform in ("cpu", "openvino")
        size, most = (wanted.private, wanted.private_bound) if private else (wanted.resident, wanted.resident_bound)
        kind = "private memory" if private else "memory"
        reason = f"needs {_gib(size)} of {kind}, at most {_gib(most)}{basis}; the limit is {_gib(bounds.memory)}"
        found.append(amount("limit", size, most, bounds.memory, reason))
    if wanted.host and target.present:
        host = of_host()
        if host.free is not None:
            reason = f"loading takes {_gib(wanted.host)} of the machine's memory, of which {_gib(host.free)} are free"
            found.append(amount("host", wanted.host, wanted.host_bound, host.free, reason))
    if wanted.preparing and target.present and not _ready(model, target, way):
        free = target.supply.free if target.platform in ("cpu", "openvino") else of_host().free
        limit = None if way.prepared else bounds.memory
        most_of = min((v for v in (free, limit) if v is not None), default=math.inf)
        reason = f"the first run also prepares the model, which takes {_gib(wanted.preparing)} once"
        found.append(amount("preparing", wanted.preparing, wanted.preparing_bound, most_of, reason))
    return found


def _size(wanted: Need, way: Way) -> list[Requirement]:
    most = engine_named(way.engine).largest_weights
    if most is None:
        return []
    return [fact("size", wanted.weights <= most, f"{_gib(wanted.weights)} of weights; {way.engine} opens {_gib(most)}")]


def _ready(model: Model, target: Target, way: Way) -> bool:
    """Whether some plan of this engine and precision has been prepared here."""
    folder = prepared.model_folder(model)
    start = f"{way.engine}-{target.id.replace(':', '.')}-{way.precision}"
    return folder.is_dir() and any(child.name.startswith(start) for child in folder.iterdir())


def _latency(prediction: Prediction | None, target: Target, limit_s: float) -> Requirement:
    limit = f"the limit is {1e3 * limit_s:.4g} ms"
    if prediction is None:
        return Requirement("latency", 0.0, f"{target.lacking or 'no time can be predicted'}; {limit}", SOFT)
    low, high = prediction.interval_s
    reason = (
        f"predicted {1e3 * prediction.latency_s:.4g} ms, {1e3 * low:.3g} to {1e3 * high:.3g} nine times of ten; {limit}"
    )
    return amount("latency", prediction.latency_s, high, limit_s, reason, SOFT)
