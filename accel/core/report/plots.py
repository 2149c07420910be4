"""Numbers behind plots: counts, thinned series, and what they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def histogram(values: Sequence[float], bins: int) -> list[float]:
    """Counts of values between their 1 % and their 99 % quantile, in bins of the same width; empty without values.

    Values beyond the quantiles count to the outermost bins, so that one outlier does not squeeze the others.
    """
    import numpy as np

    if not len(values):
        return []
    series = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(series, [0.01, 0.99])
    if high <= low:
        return [float(len(series))]
    counts: Any = np.histogram(np.clip(series, low, high), bins, (low, high))[0]
    return [float(count) for count in counts]


def condensed(values: Sequence[float], width: int) -> list[float]:
    """A series as at most `width` medians of stretches of the same length, in order."""
    import statistics

    n = len(values)
    if n <= width:
        return list(values)
    return [statistics.median(values[i * n // width : (i + 1) * n // width]) for i in range(width)]
