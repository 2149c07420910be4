"""A second look at a cell: old and new in turn where the old environment can still run, else the new one once more.

Measured in short stretches right after each other and compared pair by pair, what the machine does to both sides
cancels out.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

from accel.core.bench import measured, ratios
from accel.core.bench.baselines import Baseline
from accel.core.bench.compare import LEVEL, Comparison, against
from accel.core.bench.measured import Outcome
from accel.core.bench.process import Runtime, Settings, Visit
from accel.core.bench.runner import Wanted
from accel.core.bench.visiting import Group, State
from accel.core.types import Model

#: seconds of one stretch of a pair: short, so that the machine is the same for both
STRETCH_S = 0.05
#: numbers of pairs of processes at which a duel looks whether it is decided; the level is shared among the looks
LOOKS = (8, 16, 32)
#: pairs from which a duel may end because the interval lies below the threshold: six are the fewest that have one
CLEARED_FROM = 6
#: measuring time of one process of a pair, seconds: more pairs tell more than longer ones
SHARE_S = 0.3
#: quantiles of a stretch that are compared: the median, and lower ones for a busy machine
QUANTILES = (0.5, 0.25, 0.1)
#: how much calmer than the median a lower quantile has to be to take its place
CALMER = 2.0
#: visits of the new side that is measured once more, at least and at most
LEAST_VISITS = 3
MOST_VISITS = 8


class Duel:
    """New and old in turn, one fresh pair of processes after the other, until it is clear which it is.

    Two processes of the same program differ by a percent or more for as long as they live, so a pair of processes is
    one observation, however often it is measured. It is the median of the ratios of many short stretches, each of new
    and old right after each other.

    Args:
        runtime: of the old side.
        max_time_s: measuring time of each side.
        cells: how many cells are compared, for the correction.
    """

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime | None,
        threshold: float,
        max_time_s: float,
        cells: int,
        show: Callable[[str], None],
    ) -> None:
        self.settings, self.runtime, self.threshold = settings, runtime, threshold
        self.max_time_s, self.level, self.show = max_time_s, LEVEL / max(1, cells) / len(LOOKS), show

    def fight(self, outcome: Outcome, model: Model) -> Comparison:
        """Compares one cell; its p is corrected for the number of looks."""
        key = outcome.cell.key
        pairs: list[dict[float, float]] = []
        times: list[tuple[float, float]] = []
        spent = 0.0
        tries, deadline = 0, time.monotonic() + self.settings.timeout_s
        while tries < LOOKS[-1] and (len(pairs) < LOOKS[0] or spent < self.max_time_s) and time.monotonic() < deadline:
            tries += 1
            new = State(Outcome(outcome.cell), model, share_s=SHARE_S)
            old = State(Outcome(outcome.cell), model, share_s=SHARE_S, runtime=self.runtime)
            states = [new, old] if tries % 2 else [old, new]
            Group(states, self.settings, None, 0.0, self.show, stretch_s=STRETCH_S).visit()
            if new.outcome.status == "failed":
                return Comparison(key, "failed", how="interleaved", note=new.outcome.reason)
            if old.outcome.status == "failed":
                why = f"the old side failed: {old.outcome.reason}"
                return Comparison(key, "undecided", how="interleaved", note=why)
            if not new.outcome.visits or not old.outcome.visits:
                continue
            one, two = new.outcome.visits[0], old.outcome.visits[0]
            found = paired(one, two)
            if found:
                pairs.append(found)
                times.append((_middle(one), _middle(two)))
            spent += max(new.spent_s, 1e-3)
            if len(pairs) >= CLEARED_FROM:
                ratio, p, _ = decided(pairs, self.threshold)
                if (len(pairs) in LOOKS and p < self.level) or (ratio.high is not None and ratio.high < self.threshold):
                    break
        ratio, p, quantile = decided(pairs, self.threshold)
        note = (
            ""
            if quantile == 0.5
            else f"by the {100 * quantile:g} % quantile, which others on this machine disturb less"
        )
        new_s, old_s = (sorted(side)[len(times) // 2] for side in zip(*times, strict=True)) if times else (0.0, 0.0)
        corrected = min(1.0, len(LOOKS) * p)
        return Comparison(key, "undecided", ratio, corrected, 1e3 * old_s, 1e3 * new_s, "interleaved", None, note)


def decided(pairs: Sequence[dict[float, float]], threshold: float) -> tuple[ratios.Ratio, float, float]:
    """Ratio, p-value and the quantile they are of, from the logarithms of ratios of each pair of processes.

    It is the median, unless others on the machine make it scatter much more than a lower quantile does. Scatter says
    nothing about the direction, so the choice favours neither verdict.
    """
    import numpy as np

    if not pairs:
        return ratios.Ratio(math.nan, None, None), 1.0, 0.5

    def scatter(level: float) -> float:
        values = np.array([pair[level] for pair in pairs])
        return float(np.median(np.abs(values - np.median(values))))

    best = min(QUANTILES, key=scatter)
    chosen = best if scatter(0.5) > CALMER * scatter(best) else 0.5
    ratio, p = ratios.signed_rank([pair[chosen] for pair in pairs], threshold=threshold)
    return ratio, p, chosen


def _middle(visit: Visit) -> float:
    import numpy as np

    part = measured.steady_part([visit])
    return float(np.median(part.series)) if part is not None else 0.0


def once_more(
    outcome: Outcome,
    model: Model,
    baseline: Baseline,
    wanted: Wanted,
    threshold: float,
    show: Callable[[str], None],
) -> Comparison:
    """The new side measured anew in fresh processes, against the stored numbers of the old one.

    Args:
        threshold: with what the machine itself is slower by already in it.
    """
    again = Outcome(outcome.cell)
    state = State(again, model, share_s=wanted.max_time_s / LEAST_VISITS)
    while again.status == "ok" and (
        len(again.visits) < LEAST_VISITS or (len(again.visits) < MOST_VISITS and state.spent_s < wanted.max_time_s)
    ):
        before = len(again.visits)
        Group([state], wanted.settings, None, wanted.target, show).visit()
        if len(again.visits) == before:
            break
    if again.status == "failed":
        return Comparison(outcome.cell.key, "failed", note=again.reason)
    return against(again, baseline.cells[outcome.cell.key], threshold)


def paired(new: Visit, old: Visit) -> dict[float, float]:
    """The logarithm of the ratio new to old of two processes, for each of `QUANTILES`.

    It is the median over the stretches that were measured right after each other, from the steady state on. Empty where
    there are none.
    """
    import numpy as np

    both = [(one, two) for one, two in zip(_stretches(new), _stretches(old), strict=False) if one and two]
    found: dict[float, float] = {}
    for level in QUANTILES:
        ratios = [(float(np.quantile(one, level)), float(np.quantile(two, level))) for one, two in both]
        logs = [math.log(a / b) for a, b in ratios if a > 0.0 and b > 0.0]
        if not logs:
            return {}
        found[level] = float(np.median(logs))
    return found


def _stretches(visit: Visit) -> list[list[float]]:
    part = measured.steady_part([visit])
    start = part.starts[0] if part is not None else 0
    edges = [0, *visit.marks]
    return [visit.samples[max(a, start) : b] for a, b in itertools.pairwise(edges)]
