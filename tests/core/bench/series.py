"""Synthetic series of known medians: the kinds of timings that break textbook intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Generator = np.random.Generator
Array = np.ndarray[Any, Any]


def autocorrelated(random: Generator, count: int, coefficient: float) -> Array:
    """AR(1) around 10 with this coefficient, stationary from its first value."""
    noise = random.standard_normal(count)
    values = np.empty(count)
    values[0] = noise[0] / math.sqrt(1.0 - coefficient**2)
    for i in range(1, count):
        values[i] = coefficient * values[i - 1] + noise[i]
    return 10.0 + values


def bimodal(random: Generator, count: int, low_share: float) -> Array:
    """Two narrow modes at 1 and 1.5: a processor that switches between two clocks."""
    low = random.random(count) < low_share
    return np.where(low, 1.0, 1.5) + 0.01 * random.standard_normal(count)


def sticky(random: Generator, count: int) -> Array:
    """Two modes again, but each lasts: the next sample is of the same mode four times out of five."""
    low = np.empty(count, bool)
    low[0] = random.random() < 0.6
    draws = random.random(count)
    for i in range(1, count):
        low[i] = draws[i] >= 0.2 if low[i - 1] else draws[i] < 0.3
    return np.where(low, 1.0, 1.5) + 0.01 * random.standard_normal(count)


def bimodal_median(low_share: float) -> float:
    """Where the distribution of `bimodal` reaches one half, by bisection."""

    def below(value: float) -> float:
        def phi(mode: float) -> float:
            return 0.5 * math.erfc(-(value - mode) / 0.01 / math.sqrt(2.0))

        return low_share * phi(1.0) + (1.0 - low_share) * phi(1.5)

    low, high = 0.5, 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if below(middle) < 0.5 else (low, middle)
    return 0.5 * (low + high)


#: kind: (series of a length, its true median)
KINDS: dict[str, tuple[Callable[[Generator, int], Array], float]] = {
    "skewed, lognormal": (lambda r, n: np.exp(r.standard_normal(n)), 1.0),
    "skewed, exponential": (lambda r, n: r.exponential(size=n), math.log(2.0)),
    "heavy-tailed, Cauchy": (lambda r, n: 10.0 + r.standard_cauchy(n), 10.0),
    "heavy-tailed, t with 2 df": (lambda r, n: 10.0 + r.standard_t(2, n), 10.0),
    "autocorrelated, 0.5": (lambda r, n: autocorrelated(r, n, 0.5), 10.0),
    "autocorrelated, 0.8": (lambda r, n: autocorrelated(r, n, 0.8), 10.0),
    "autocorrelated, 0.9": (lambda r, n: autocorrelated(r, n, 0.9), 10.0),
    "autocorrelated and skewed": (lambda r, n: np.exp(autocorrelated(r, n, 0.8) - 10.0), 1.0),
    "bimodal, equal": (lambda r, n: bimodal(r, n, 0.5), 1.25),
    "bimodal, 60 to 40": (lambda r, n: bimodal(r, n, 0.6), bimodal_median(0.6)),
    "bimodal, 80 to 20": (lambda r, n: bimodal(r, n, 0.8), bimodal_median(0.8)),
    "bimodal and autocorrelated": (sticky, bimodal_median(0.6)),
}


def covers(low: float | None, high: float | None, truth: float) -> bool:
    """Whether an interval holds the truth; a bound that is None holds everything on its side."""
    return (low is None or low <= truth) and (high is None or truth <= high)
