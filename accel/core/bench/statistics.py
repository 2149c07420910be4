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

from accel.core.bench.distributions import student_quantile
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
#: processes from which their medians alone bound what is common to them
PROCESSES = 3


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
    low, high = bounds(ordered, level, known.size, z)
    return Quantile(level, value, low, high)


def bounds(ordered: Array, level: float, size: float, z: float) -> tuple[float | None, float | None]:
    """Bounds of a quantile: `z` deviations of its rank among `size` independent samples to each side."""
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
