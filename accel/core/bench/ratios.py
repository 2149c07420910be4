"""Two series against each other: the ratio of their medians, its interval, and how likely it is by chance alone."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accel.core.bench.distributions import normal_cdf, student_cdf, student_quantile
from accel.core.bench.statistics import CONFIDENCE, PROCESSES, as_series, bounds, effective
from accel.core.errors import InputError

if TYPE_CHECKING:
    from accel.core.bench.statistics import Array

#: deviation between processes of one program that is assumed where too few tell it, and its degrees of freedom
BETWEEN = 0.02
BETWEEN_DF = 10.0


@dataclass(frozen=True)
class Ratio:
    """How much larger the new median is than the old one: 1.05 is 5 % slower.

    Attributes:
        low, high: its interval; None where it is not bounded.
    """

    value: float
    low: float | None
    high: float | None


def _mover(new: _Median, old: _Median, confidence: float) -> tuple[float | None, float | None]:
    n_low, n_high = new.bounds(confidence)
    o_low, o_high = old.bounds(confidence)
    difference = new.log - old.log
    low = high = None
    if n_low and o_high:
        low = difference - math.hypot(new.log - math.log(n_low), math.log(o_high) - old.log)
    if n_high and o_low:
        high = difference + math.hypot(math.log(n_high) - new.log, old.log - math.log(o_low))
    return low, high


class _Median:
    """A series prepared for many intervals of its median."""

    def __init__(self, samples: Sequence[float] | Array) -> None:
        import numpy as np

        series = as_series(samples)
        if float(series.min()) < 0.0:
            raise InputError("a sample is below zero", "times cannot be negative: see what the benchmark returns")
        self.ordered = np.sort(series)
        self.worth = effective(series)
        middle = float(np.median(self.ordered))
        self.log = math.log(middle) if middle > 0.0 else -math.inf

    def bounds(self, confidence: float) -> tuple[float | None, float | None]:
        z = student_quantile(0.5 + confidence / 2.0, self.worth.df)
        return bounds(self.ordered, 0.5, self.worth.size, z)


def ratio(new: Sequence[float] | Array, old: Sequence[float] | Array, confidence: float = CONFIDENCE) -> Ratio:
    """The ratio of the medians of two independent series.

    The intervals of both medians are joined on the logarithmic scale by the method of variance estimates recovery
    (Zou and Donner 2008, Statistics in Medicine 27), which keeps what is asymmetric about them.
    """
    ours, theirs = _Median(new), _Median(old)
    if math.isinf(ours.log) or math.isinf(theirs.log):
        return Ratio(math.nan, None, None)
    low, high = _mover(ours, theirs, confidence)
    return Ratio(
        math.exp(ours.log - theirs.log),
        None if low is None else math.exp(low),
        None if high is None else math.exp(high),
    )


def slower_p(new: Sequence[float] | Array, old: Sequence[float] | Array, threshold: float) -> float:
    """One-sided p-value of "the new median is at most `threshold` times the old one".

    It is the level at which the lower bound of `ratio` meets the threshold; 1 where the samples decide nothing.
    """
    ours, theirs = _Median(new), _Median(old)
    if math.isinf(ours.log) or math.isinf(theirs.log) or ours.log - theirs.log <= math.log(threshold):
        return 1.0
    limit = math.log(threshold)
    low, high = 0.0, 1.0 - 1e-12
    for _ in range(50):
        middle = 0.5 * (low + high)
        bound = _mover(ours, theirs, middle)[0]
        low, high = (middle, high) if bound is not None and bound > limit else (low, middle)
    return 0.5 * (1.0 - low)


def across_ratio(
    new: Sequence[float], old: Sequence[float], threshold: float, confidence: float = CONFIDENCE
) -> tuple[float, float, float] | None:
    """Bounds of the ratio of what two sets of processes have in common, and its one-sided p-value.

    Welch's t-test on the logarithms of the processes' medians (Welch 1947, Biometrika 34). A side of fewer than three
    processes does not tell how much they differ; `BETWEEN` stands for it, which is more than was seen on a quiet
    machine. None where a median is not above zero.
    """
    import numpy as np

    if min(*new, *old) <= 0.0:
        return None
    sides = [np.log(np.asarray(new)), np.log(np.asarray(old))]
    known = [len(logs) >= PROCESSES for logs in sides]
    parts = [
        (float(logs.var(ddof=1)) if told else BETWEEN**2) / len(logs) for logs, told in zip(sides, known, strict=True)
    ]
    freedom = [len(logs) - 1 if told else BETWEEN_DF for logs, told in zip(sides, known, strict=True)]
    variance = sum(parts)
    difference = float(sides[0].mean() - sides[1].mean())
    if variance == 0.0:
        return math.exp(difference), math.exp(difference), 0.0 if difference > math.log(threshold) else 1.0
    df = variance**2 / sum(part**2 / free for part, free in zip(parts, freedom, strict=True))
    error = math.sqrt(variance)
    reach = student_quantile(0.5 + confidence / 2.0, df) * error
    p = 1.0 - student_cdf((difference - math.log(threshold)) / error, df)
    return math.exp(difference - reach), math.exp(difference + reach), p


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the same order (Holm 1979, Scandinavian Journal of Statistics 6)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


#: pairs up to which the distribution of the signed-rank sum is counted out
EXACT_UP_TO = 60


@functools.lru_cache(maxsize=EXACT_UP_TO + 1)
def _rank_sum_tails(count: int) -> tuple[float, ...]:
    """P(sum of the ranks of the positive ones >= value) for each whole value, if each of `count` signs is a coin."""
    ways = [1] + [0] * (count * (count + 1) // 2)
    for rank in range(1, count + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return tuple(above / 2.0**count for above in itertools.accumulate(reversed(ways)))[::-1]


def _rank_sum_tail(count: int, value: float) -> float:
    if count > EXACT_UP_TO:
        deviation = math.sqrt(count * (count + 1) * (2 * count + 1) / 24.0)
        return 1.0 - normal_cdf((value - count * (count + 1) / 4.0 - 0.5) / deviation)
    tails = _rank_sum_tails(count)
    least = max(0, math.ceil(value))
    return tails[least] if least < len(tails) else 0.0


def signed_rank(
    logs: Sequence[float] | Array, confidence: float = CONFIDENCE, threshold: float = 1.0
) -> tuple[Ratio, float]:
    """The ratio new to old from logarithms of ratios that are independent of each other.

    Hodges-Lehmann estimate with the interval and the one-sided p-value ("at most `threshold`") of Wilcoxon's
    signed-rank test, exact for up to 60 of them (Hodges and Lehmann 1963, Annals of Mathematical Statistics 34;
    Hollander and Wolfe 1999, 3.1 to 3.3). It takes six pairs to bound a ratio with 95 %.
    """
    import numpy as np

    values = np.asarray(logs, dtype=np.float64)
    n = len(values)
    if not n:
        return Ratio(math.nan, None, None), 1.0
    rows, columns = np.triu_indices(n)
    walsh = np.sort((values[rows] + values[columns]) / 2.0)
    level = (1.0 - confidence) / 2.0
    # the largest number of averages that may be cut off at each end
    cut = 0
    while cut < len(walsh) // 2 and _rank_sum_tail(n, len(walsh) - cut) <= level:
        cut += 1
    low, high = (float(walsh[cut - 1]), float(walsh[len(walsh) - cut])) if cut else (None, None)
    limit = math.log(threshold)
    above = float((walsh > limit).sum()) + 0.5 * float((walsh == limit).sum())
    found = Ratio(
        math.exp(float(np.median(walsh))),
        None if low is None else math.exp(low),
        None if high is None else math.exp(high),
    )
    return found, min(1.0, _rank_sum_tail(n, above))
