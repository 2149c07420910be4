"""What measurements of whole models teach: a factor for each class of operators, and how far predictions are off.

Prices of operators in isolation miss what a network does to them (caches, threads that meet, memory that is mapped).
Non-negative factors close to one, by class of operators, make up for it: a ridge regression towards one of relative
errors. The interval is that of split conformal prediction (Vovk et al. 2005; Lei et al. 2018,
https://doi.org/10.1080/01621459.2017.1307116) with the residuals of a cross-validation that leaves whole families out,
as in CV+ (Barber et al. 2021, https://doi.org/10.1214/20-AOS1965).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core.performance.machines import Machine
from accel.core.performance.memory import PARTS
from accel.core.performance.prices import CLASSES

SHIPPED = Path(__file__).resolve().parent.parent.parent / "data" / "corrections.json"
#: strength of the pull towards one, in squared relative errors
PULL = 0.02
#: the share of measurements that an interval is to hold
COVERAGE = 0.9
#: measured pairs of one engine on this machine, from so many families, that outweigh what was shipped
ENOUGH_PAIRS, ENOUGH_FAMILIES = 12, 3
#: half-width (logarithm) where nothing was ever checked
UNCHECKED = math.log(2.0)


#: how often parts of memory are held where measurements say little, and the strength of that, in squared shares
MEMORY_PRIOR = {"dense": 1.0, "tables": 1.0, "activations": 1.5, "cache": 2.0}
MEMORY_PULL = 1e-4


@dataclass(frozen=True)
class Correction:
    """Factors by class, and the half-width of the interval of the logarithm of the latency.

    Attributes:
        source: `ledger` (this machine), `shipped` (another machine), or `none`.
        pairs: measurements behind it.
    """

    factors: dict[str, float] = field(default_factory=dict)
    halfwidth: float = UNCHECKED
    source: str = "none"
    pairs: int = 0


NONE = Correction()


@dataclass(frozen=True)
class Pair:
    """One measurement beside its prediction.

    Attributes:
        group: what is left out together in cross-validation: the family.
        seconds: uncorrected, by class of operators. measured: seconds.
    """

    group: str
    seconds: dict[str, float]
    measured: float


def fit(pairs: Sequence[Pair]) -> dict[str, float]:
    """Factors that minimise squared relative errors, pulled towards one; none below 0.1.

    A common factor is found first, so that what pulls is the shape and not the level.
    """
    import numpy as np

    if not pairs:
        return {}
    table = np.array([[p.seconds.get(name, 0.0) / p.measured for name in CLASSES] for p in pairs])
    level = math.exp(-float(np.median(np.log(np.maximum(table.sum(axis=1), 1e-9)))))
    level = level ** (len(pairs) / (len(pairs) + 2))  # a single pair is not believed whole
    weight = np.sqrt(PULL * len(pairs)) * np.eye(len(CLASSES))
    factors = np.full(len(CLASSES), level)
    free = np.ones(len(CLASSES), bool)
    # active set: what would fall below the floor is put there, and the rest is solved again
    for _ in CLASSES:
        left = np.vstack([table, weight])[:, free]
        right = np.concatenate(
            [np.ones(len(pairs)) - table[:, ~free] @ factors[~free], (level * weight[:, free]).sum(axis=1)]
        )
        solved = np.linalg.lstsq(left, right, rcond=None)[0]
        factors[free] = solved
        low = free & (factors < 0.1)
        if not low.any():
            break
        factors[low] = 0.1
        free &= ~low
    return {name: float(value) for name, value in zip(CLASSES, factors, strict=True)}


def corrected(pair: Pair, factors: dict[str, float]) -> float:
    """Predicted seconds of a pair under these factors."""
    return max(1e-9, sum(seconds * factors.get(name, 1.0) for name, seconds in pair.seconds.items()))


def held_out(pairs: Sequence[Pair]) -> list[float]:
    """log(measured / predicted) of every pair, predicted from the other groups."""
    groups = {p.group for p in pairs}
    factors = {group: fit([p for p in pairs if p.group != group]) for group in groups}
    return [math.log(p.measured / corrected(p, factors[p.group])) for p in pairs]


def conformal(residuals: Sequence[float], coverage: float = COVERAGE) -> float:
    """The half-width that holds `coverage` of new residuals: the ceil((n + 1) coverage)-th smallest magnitude.

    Infinite (here: the largest, doubled) where there are too few of them for that rank.
    """
    ranked = sorted(abs(r) for r in residuals)
    rank = math.ceil((len(ranked) + 1) * coverage)
    if not ranked:
        return UNCHECKED
    return ranked[rank - 1] if rank <= len(ranked) else max(2 * ranked[-1], UNCHECKED / 4)


def learn(pairs: Sequence[Pair], source: str) -> Correction:
    """The correction that these pairs teach."""
    return Correction(fit(pairs), conformal(held_out(pairs)), source, len(pairs))


@functools.cache
def _shipped() -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data


def correction(machine: Machine, engine: str, precision: str, without: str = "") -> Correction:
    """What is known for an engine here: from this machine's own measurements if there are enough, else shipped.

    Args:
        without: a family whose measurements are to teach nothing.
    """
    from accel.core.performance import ledger

    pairs = [pair for pair in ledger.pairs(machine.id, engine, precision) if pair.group != without]
    if len(pairs) >= ENOUGH_PAIRS and len({p.group for p in pairs}) >= ENOUGH_FAMILIES:
        return learn(pairs, "ledger")
    known = _shipped().get("engines", {}).get(engine)
    if known is None or precision != "fp32":
        return NONE
    return Correction(known["factors"], known["halfwidth"], "shipped", known["pairs"])


def memory_fit(measured: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    """The non-negative line through peaks of memory, with the least squares of relative errors.

    What hardly occurs among the measurements (a cache, where no decoder is) keeps about its `MEMORY_PRIOR`.

    Args:
        measured: parts (see `memory.parts`) and the peak in bytes, of one engine.
    """
    import numpy as np

    table = np.array([[found[name] / peak for name in PARTS] for found, peak in measured])
    scale = np.maximum(table.max(axis=0), 1e-30)
    strength = np.sqrt(MEMORY_PULL * len(measured))
    pulled = [name for name in PARTS if name in MEMORY_PRIOR]
    weight = np.array([[strength * (one == name) for one in PARTS] for name in pulled])
    left = np.vstack([table, weight]) / scale
    right = np.concatenate([np.ones(len(measured)), [strength * MEMORY_PRIOR[name] for name in pulled]])
    free = np.ones(len(PARTS), bool)
    line = np.zeros(len(PARTS))
    while free.any():
        solved = np.linalg.lstsq(left[:, free], right, rcond=None)[0]
        line[:] = 0.0
        line[free] = solved
        if not (line < 0).any():
            break
        free &= line > 0
    return {name: float(value) for name, value in zip(PARTS, line / scale, strict=True)}
