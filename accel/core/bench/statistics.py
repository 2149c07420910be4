"""Statistics of timings: quantiles whose intervals hold for skewed, heavy-tailed, bimodal and autocorrelated series.

An interval of a quantile needs no assumption about the shape of the distribution, only how many of the samples count
as independent. The bootstrap distribution of a sample quantile is known in closed form: it puts the binomial
distribution of ranks on the ordered samples (Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans,
10.2; Maritz and Jarrett 1978, JASA 73), so nothing is resampled and the same samples always give the same interval.
Samples that depend on each other are counted by how much the *indicator* series "sample <= quantile" depends on
itself (Heidelberger and Lewis 1984, Operations Research 32), with Geyer's initial monotone sequence (1992, Statistical
Science 7) as its spectral density at zero. On AR(1) series of 300 samples with coefficient 0.9 this covers the median
in 95 % of cases; the stationary bootstrap with automatic block length (Politis and White 2004) covers it in 82 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.core.bench.distributions import normal_cdf, student_cdf, student_quantile
from accel.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

CONFIDENCE = 0.95
LEVELS = (0.5, 0.9, 0.95, 0.99)
#: modified z-score above which a sample is marked (Iglewicz and Hoaglin)
OUTLIER = 3.5
#: the least that negative autocorrelation may shrink the variance to: a lucky short series proves no more
LEAST_TAU = 0.6
SELECTION = 0.75


@dataclass(frozen=True)
class Effective:
    """How much a series says.

    Attributes:
        size: independent samples that would say as much.
        tau: integrated autocorrelation time, samples per independent one.
        df: degrees of freedom of that estimate, for Student's t.
    """

    size: float
    tau: float
    df: float


@dataclass(frozen=True)
class Quantile:
    """A quantile with its interval. A bound is None where the samples are too few to give one."""

    level: float
    value: float
    low: float | None
    high: float | None

    @property
    def halfwidth(self) -> float | None:
        """Half the width of the interval as a share of the value, or None where it is not bounded."""
        if self.low is None or self.high is None:
            return None
        if self.high == self.low:
            return 0.0
        return 0.5 * (self.high - self.low) / self.value if self.value > 0 else math.inf


def as_series(samples: Sequence[float] | Array) -> Array:
    """Samples as a one-dimensional fp64 array.

    Raises:
        InputError: there are none, or one is not a finite number.
    """
    import numpy as np

    series = np.asarray(samples, dtype=np.float64).reshape(-1)
    if not series.size:
        raise InputError("there are no samples", "measure at least one")
    if not np.isfinite(series).all():
        raise InputError("a sample is not a finite number", "see what the benchmark returns")
    return series


def _autocovariance(series: Array) -> Array:
    import numpy as np

    n = len(series)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(series - series.mean(), size)
    return np.asarray(np.fft.irfft(spectrum * np.conj(spectrum), size)[: max(2, n // 2 + 1)] / n)


def autocorrelation_time(series: Array) -> tuple[float, int]:
    """Integrated autocorrelation time, and the lag at which its sum was cut off.

    Geyer's initial monotone positive sequence. The autocovariances of a series whose mean was estimated from it are
    too small by about tau/n of the variance each, which is added back (two fixed-point steps). That the cut-off is
    chosen by the same series makes tau larger by about 2/sqrt(n) where there is no dependence (simulated), and by less
    where there is some; a part of it is taken off.
    """
    import numpy as np

    n = len(series)
    if n < 4:
        return 1.0, 1
    covariance = _autocovariance(series)
    variance = float(covariance[0])
    if variance <= 0.0:
        return 1.0, 1

    def summed(values: Array) -> tuple[float, int]:
        pairs = len(values) // 2
        sums = values[0 : 2 * pairs : 2] + values[1 : 2 * pairs : 2]
        below = np.flatnonzero(sums <= 0.0)
        kept = int(below[0]) if below.size else pairs
        if kept == 0:
            return float((values[0] + 2.0 * values[1]) / variance), 1
        total = float(np.minimum.accumulate(sums[:kept]).sum())
        return (2.0 * total - float(values[0])) / variance, 2 * kept - 1

    tau, cut = summed(covariance)
    for _ in range(2):
        tau, cut = summed(covariance + variance * min(max(tau, 0.0), n / 4.0) / n)
    return min(max(tau - SELECTION / math.sqrt(n), LEAST_TAU), n / 4.0), cut


def effective(samples: Sequence[float] | Array, level: float = 0.5) -> Effective:
    """How many independent samples a series is worth for the quantile of this level."""
    import numpy as np

    series = as_series(samples)
    n = len(series)
    tau, cut = autocorrelation_time((series <= np.quantile(series, level)).astype(np.float64))
    # a sum of autocovariances up to lag M has about 2n/(2M+1) degrees of freedom (Priestley 1981, 6.2.4). Half of that
    # keeps the promise for short dependent series, and all of n is there where the samples turn out independent.
    dependence = min(1.0, max(0.0, (tau - 1.0) / 2.0))
    df = max(1.0, n / (1.0 + 2.0 * cut * dependence))
    return Effective(n / tau, tau, df)


def quantile(
    samples: Sequence[float] | Array,
    level: float = 0.5,
    confidence: float = CONFIDENCE,
    *,
    worth: Effective | None = None,
) -> Quantile:
    """A quantile with its interval.

    The ranks of the bounds are those of the binomial distribution, in its Cornish-Fisher form since the number of
    independent samples need not be whole, with Student's t in the place of the normal distribution.

    Args:
        samples: in the order they were taken.
        worth: what `effective` said, if it is known already.
    """
    import numpy as np

    series = as_series(samples)
    ordered = np.sort(series)
    value = float(np.quantile(ordered, level, method="median_unbiased"))
    known = worth or effective(series, level)
    if level != 0.5 and worth is None:
        middle = effective(series)
        known = Effective(min(known.size, middle.size), max(known.tau, middle.tau), min(known.df, middle.df))
    z = student_quantile(0.5 + confidence / 2.0, known.df)
    low, high = _bounds(ordered, level, known.size, z)
    return Quantile(level, value, low, high)


def _bounds(ordered: Array, level: float, size: float, z: float) -> tuple[float | None, float | None]:
    reach = z * math.sqrt(level * (1.0 - level) / size)
    skew = (1.0 - 2.0 * level) * (z * z - 1.0) / (6.0 * size)
    return _at(ordered, level - reach + skew), _at(ordered, level + reach + skew)


def _at(ordered: Array, level: float) -> float | None:
    """The ordered sample at this level, between two of them linearly; None beyond the first and the last."""
    n = len(ordered)
    rank = level * n + 0.5
    if not 0.5 <= rank <= n + 0.5:
        return None
    rank = min(max(rank, 1.0), float(n))
    below = math.floor(rank)
    part = rank - below
    low = float(ordered[below - 1])
    return low if part == 0.0 else low + part * (float(ordered[below]) - low)


def outliers(samples: Sequence[float] | Array) -> Array:
    """Which samples are far from the others (bool array); they are marked and never dropped.

    Modified z-score over 3.5 (Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers); where more than half of
    the samples are equal, the mean absolute deviation takes the place of the median one.
    """
    import numpy as np

    series = as_series(samples)
    distance = np.abs(series - np.median(series))
    spread = float(np.median(distance)) / 0.6745
    if spread == 0.0:
        spread = 1.253314 * float(distance.mean())
    if spread == 0.0:
        return np.zeros(len(series), bool)
    return np.asarray(distance > OUTLIER * spread)


@dataclass(frozen=True)
class Summary:
    """A series in numbers; seconds where the samples are seconds.

    Attributes:
        quantiles: by level, those of `LEVELS`.
        outlier_count: samples marked by `outliers`.
    """

    count: int
    minimum: float
    maximum: float
    mean: float
    deviation: float
    quantiles: dict[float, Quantile]
    worth: Effective
    outlier_count: int

    @property
    def median(self) -> Quantile:
        """The quantile of level 0.5."""
        return self.quantiles[0.5]


def summarise(samples: Sequence[float] | Array) -> Summary:
    """Everything that is reported about a series."""
    series = as_series(samples)
    return Summary(
        count=len(series),
        minimum=float(series.min()),
        maximum=float(series.max()),
        mean=float(series.mean()),
        deviation=float(series.std(ddof=1)) if len(series) > 1 else 0.0,
        quantiles={level: quantile(series, level) for level in LEVELS},
        worth=effective(series),
        outlier_count=int(outliers(series).sum()),
    )


def precise_enough(samples: Sequence[float] | Array, target: float) -> bool:
    """Whether the interval of the median reaches no further than `target` (a share of the median) to each side.

    A rule that stops at the first narrow interval stops too early too often; it is harmless from some 30 samples on
    (Chow and Robbins 1965; the callers ask for a least number and look again only after whole blocks).
    """
    halfwidth = quantile(samples).halfwidth
    return halfwidth is not None and halfwidth <= target


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
        return _bounds(self.ordered, 0.5, self.worth.size, z)


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


#: processes from which their medians alone bound what is common to them
PROCESSES = 3
#: deviation between processes of one program that is assumed where too few tell it, and its degrees of freedom
BETWEEN = 0.02
BETWEEN_DF = 10.0


def across(medians: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Interval of what several processes have in common, from the median of each; None for fewer than three.

    Processes of the same program differ for as long as they live, so each of them is one observation however many
    samples it gave (Kalibera and Jones 2013): Student's t on the logarithms. Where processes differ by a fifth of
    what single runs do, an interval of all samples in a row covers the median in 70 % of cases, this one in 95 %.
    """
    import numpy as np

    if len(medians) < PROCESSES or min(medians) <= 0.0:
        return None
    logs = np.log(np.asarray(medians, dtype=np.float64))
    n = len(logs)
    reach = student_quantile(0.5 + confidence / 2.0, n - 1.0) * float(logs.std(ddof=1)) / math.sqrt(n)
    middle = float(logs.mean())
    return math.exp(middle - reach), math.exp(middle + reach)


def widened(found: Quantile, medians: Sequence[float], confidence: float = CONFIDENCE) -> Quantile:
    """An interval of all samples, made to hold that of the processes too."""
    own = across(medians, confidence)
    if own is None:
        return found
    low = min(own[0], found.value, own[0] if found.low is None else found.low)
    high = max(own[1], found.value, own[1] if found.high is None else found.high)
    return Quantile(found.level, found.value, low, high)


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


def _rank_sum_tail(count: int, value: float) -> float:
    """P(sum of the ranks of the positive ones >= value) if each of `count` signs is a coin."""
    if count > EXACT_UP_TO:
        deviation = math.sqrt(count * (count + 1) * (2 * count + 1) / 24.0)
        return 1.0 - normal_cdf((value - count * (count + 1) / 4.0 - 0.5) / deviation)
    ways = [1] + [0] * (count * (count + 1) // 2)
    for rank in range(1, count + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return sum(ways[max(0, math.ceil(value)) :]) / 2.0**count


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
