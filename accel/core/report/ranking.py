"""Which plan is fastest: leaderboards per device, and what to deploy per model with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from accel.core.report import comparing, cost
from accel.core.report.cells import Cell, latest

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from accel.core.report.reading import Filter

GOALS = ("latency", "throughput", "memory", "cost")
#: engine and precision that every output is compared with
_REFERENCE = ("torch", "fp32")


@dataclass(frozen=True)
class Ranked:
    """A cell that is good enough, in its place.

    Attributes:
        rank: from 1 within its board.
        cost_per_million: None without a configured price.
        slower: ratio of its time per item to that of the first one.
    """

    cell: Cell
    rank: int
    slower: float
    cost_per_million: float | None

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        own = {"rank": self.rank, "slower": self.slower, "cost_per_million": self.cost_per_million}
        return {**own, **brief(self.cell)}


@dataclass(frozen=True)
class Board:
    """The plans on one device of one machine for one workload (model, task, length), fastest first.

    Attributes:
        left_out: cells that are not accurate enough, or whose output nobody checked, with the reason.
    """

    device: str
    machine: str
    cpu: str
    ranked: tuple[Ranked, ...]
    left_out: tuple[tuple[Cell, str], ...]

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "device": self.device,
            "fingerprint": self.machine,
            "cpu": self.cpu or None,
            "ranked": [entry.as_json() for entry in self.ranked],
            "left_out": [{**brief(cell), "reason": why} for cell, why in self.left_out],
        }


def brief(cell: Cell) -> dict[str, Any]:
    """What a ranking says about a cell."""
    names = ("id", "sweep", "key", "model", "task", "weights", "hardware", "device", "engine", "precision", "variant")
    more = ("batch", "length", "threads", "latency_ms", "throughput", "memory_bytes", "cosine", "noise", "when")
    return {**{name: getattr(cell, name) for name in (*names, *more)}, "latency_interval_ms": list(cell.interval_ms)}


def candidates(con: DuckDBPyConnection, wanted: Filter, *, samples: bool = False) -> list[Cell]:
    """The last result of every cell that a filter lets through, failures included."""
    where, values = wanted.where()
    return latest(con, where, values, samples=samples)


def unfit(cell: Cell, tolerance: float) -> str:
    """Why a cell cannot be chosen, or an empty text."""
    if cell.status != "ok" or cell.latency_ms is None:
        return f"it failed last time ({cell.cause}): {cell.metadata.get('reason') or ''}".rstrip(": ")
    if (cell.engine, cell.precision) == _REFERENCE or cell.metadata.get("benchmark"):
        return ""
    if cell.cosine is None:
        return "its output was not compared with fp32 torch"
    if cell.cosine < tolerance:
        return f"cosine {cell.cosine:.6f} is below {tolerance:g}"
    return ""


def boards(cells: Sequence[Cell], tolerance: float, prices: Mapping[str, float]) -> list[Board]:
    """The fastest plans on every device of every machine by time per item, among those that are accurate enough."""
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.fingerprint, cell.device), []).append(cell)
    found = []
    for (machine, device), group in grouped.items():
        reasons = [(cell, unfit(cell, tolerance)) for cell in group]
        fit = sorted((cell for cell, why in reasons if not why), key=_per_item)
        ranked = [
            Ranked(cell, rank, _per_item(cell) / _per_item(fit[0]), cost.per_million(cell, prices))
            for rank, cell in enumerate(fit, start=1)
        ]
        cpu = next((str(cell.environment.get("cpu")) for cell in group if cell.environment.get("cpu")), "")
        found.append(Board(device, machine, cpu, tuple(ranked), tuple((c, why) for c, why in reasons if why)))
    return sorted(found, key=lambda b: (not b.ranked, _per_item(b.ranked[0].cell) if b.ranked else 0.0, b.device))


def _per_item(cell: Cell) -> float:
    return (cell.latency_ms or float("inf")) / (cell.batch or 1)


class Workload(NamedTuple):
    """What a plan is chosen for: a model on a machine (fingerprint), with inputs of a length."""

    model: str
    task: str
    weights: str
    length: int | None
    fingerprint: str


@dataclass(frozen=True)
class Advice:
    """The plan to deploy for a workload, and why.

    Attributes:
        cell: what was chosen; None where nothing can be.
        reasons: sentences. ties: cells that are as good as far as the samples tell. runner_up: the best of the others.
    """

    workload: Workload
    cell: Cell | None
    reasons: tuple[str, ...]
    ties: tuple[Cell, ...] = ()
    runner_up: Cell | None = None
    cost_per_million: float | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            **self.workload._asdict(),
            "plan": None if self.cell is None else brief(self.cell),
            "cost_per_million": self.cost_per_million,
            "reasons": list(self.reasons),
            "ties": [brief(cell) for cell in self.ties],
            "runner_up": None if self.runner_up is None else brief(self.runner_up),
        }


def recommend(cells: Sequence[Cell], goal: str, tolerance: float, prices: Mapping[str, float]) -> list[Advice]:
    """The plan to deploy per model, task, length and machine.

    Args:
        cells: the last results, with samples.
        goal: `latency` (one execution of the smallest batch that was measured), `throughput` (time per item of any
            batch), `memory`, or `cost` (throughput at the configured prices).
    """
    grouped: dict[Workload, list[Cell]] = {}
    for cell in cells:
        asked = cell.metadata.get("length") if cell.kind == "bench" else None
        workload = Workload(cell.model, cell.task, cell.weights, asked, cell.fingerprint)
        grouped.setdefault(workload, []).append(cell)
    return [
        _advice(key, group, goal, tolerance, prices) for key, group in sorted(grouped.items(), key=lambda i: str(i[0]))
    ]


def _advice(
    workload: Workload, group: Sequence[Cell], goal: str, tolerance: float, prices: Mapping[str, float]
) -> Advice:
    reasons = [(cell, unfit(cell, tolerance)) for cell in group]
    fit = [cell for cell, why in reasons if not why]
    if goal == "latency" and fit:
        least = min(cell.batch or 1 for cell in fit)
        fit = [cell for cell in fit if (cell.batch or 1) == least]
    if goal == "cost":
        fit = [cell for cell in fit if cost.per_million(cell, prices) is not None]
    if goal == "memory":
        fit = [cell for cell in fit if cell.memory_bytes]
    if not fit:
        whys = list(dict.fromkeys(why for _, why in reasons if why)) or [f"nothing is known about its {goal}"]
        return Advice(workload, None, tuple(whys))

    def amount(cell: Cell) -> float:
        if goal == "memory":
            return float(cell.memory_bytes or 0)
        if goal == "cost":
            return cost.per_million(cell, prices) or float("inf")
        return _per_item(cell) if goal == "throughput" else cell.latency_ms or float("inf")

    ordered = sorted(fit, key=amount)
    best = ordered[0]
    ties = [cell for cell in ordered[1:] if goal != "memory" and _tied(cell, best, amount(cell) / amount(best))]
    chosen = min([best, *ties], key=lambda c: (-_exactness(c), c.memory_bytes or float("inf"), amount(c)))
    others = [cell for cell in ordered if cell is not chosen and cell not in ties and cell is not best]
    said = _why(goal, chosen, others[0] if others else None, [c for c in (best, *ties) if c is not chosen], amount)
    dropped = [(cell, why) for cell, why in reasons if why and cell.latency_ms is not None]
    faster = [(cell, why) for cell, why in dropped if goal != "memory" and _per_item(cell) < _per_item(chosen)]
    if faster:
        cell, why = min(faster, key=lambda pair: _per_item(pair[0]))
        said.append(f"{cell.plan} on {cell.device} is faster, but {why}")
    rest = tuple(c for c in (best, *ties) if c is not chosen)
    return Advice(workload, chosen, tuple(said), rest, others[0] if others else None, cost.per_million(chosen, prices))


def _exactness(cell: Cell) -> float:
    """Agreement in the digits that matter: plans of the exact class are alike."""
    if (cell.engine, cell.precision) == _REFERENCE:
        return 1.0
    return round(min(cell.cosine or 0.0, 0.99999), 5) if (cell.cosine or 0.0) < 0.99999 else 1.0


def _tied(cell: Cell, best: Cell, amount_ratio: float) -> bool:
    """Whether the samples do not tell which of the two is faster."""
    found = comparing.ratio(cell, best)
    if found is None:
        return amount_ratio < 1.01
    low = found[0].low
    # the ratio of executions becomes that of the amounts by the batches
    scale = amount_ratio / found[0].value if found[0].value > 0 else 1.0
    return low is None or low * scale <= 1.0


def _why(goal: str, chosen: Cell, other: Cell | None, equals: Sequence[Cell], amount: Any) -> list[str]:
    words = {"latency": "takes", "throughput": "takes", "memory": "needs", "cost": "costs"}
    said = []
    if other is not None:
        times = amount(other) / amount(chosen)
        said.append(f"the next, {other.plan} on {other.device}, {words[goal]} {times:.3g} times as much")
    elif not equals:
        said.append("it is the only plan that was measured and is accurate enough")
    if equals:
        names = ", ".join(f"{cell.plan} on {cell.device}" for cell in equals[:3])
        said.append(f"{names} may be as good: the samples do not tell; this one is more exact or needs less memory")
    if (chosen.engine, chosen.precision) == _REFERENCE:
        said.append("it is the reference itself")
    elif chosen.cosine is not None:
        said.append(f"its output agrees with fp32 torch: cosine {chosen.cosine:.6f}")
    if chosen.noise in ("noisy", "unusable"):
        said.append(f"its measurement is {chosen.noise}: measure again on a quiet machine before relying on it")
    return said
