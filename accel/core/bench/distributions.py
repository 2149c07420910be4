"""The normal and Student's t distribution, without scipy."""

from __future__ import annotations

import functools
import math

#: degrees of freedom above which t is the normal distribution to more digits than anybody needs
NORMAL_FROM = 1e6


def normal_cdf(value: float) -> float:
    """P(Z <= value)."""
    return 0.5 * math.erfc(-value / math.sqrt(2.0))


@functools.lru_cache(maxsize=1024)
def normal_quantile(level: float) -> float:
    """The value that Z stays below with this probability, 0 < level < 1."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(level)


def student_cdf(value: float, df: float) -> float:
    """P(T <= value) for `df` > 0 degrees of freedom, whole or not."""
    if df >= NORMAL_FROM:
        return normal_cdf(value)
    tail = 0.5 * _incomplete_beta(df / (df + value * value), df / 2.0, 0.5)
    return tail if value < 0 else 1.0 - tail


@functools.lru_cache(maxsize=4096)
def student_quantile(level: float, df: float) -> float:
    """The value that T stays below with this probability, 0 < level < 1."""
    if df >= NORMAL_FROM:
        return normal_quantile(level)
    if level < 0.5:
        return -student_quantile(1.0 - level, df)
    scale = math.exp(math.lgamma((df + 1.0) / 2.0) - math.lgamma(df / 2.0)) / math.sqrt(df * math.pi)
    # t has wider tails than the normal distribution, and above its median a concave distribution function: from the
    # normal quantile Newton's steps approach from below and never overshoot
    value = normal_quantile(level)
    for _ in range(200):
        density = scale * (1.0 + value * value / df) ** (-(df + 1.0) / 2.0)
        step = (level - student_cdf(value, df)) / density
        value += step
        if abs(step) <= 1e-12 * (1.0 + abs(value)):
            break
    return value


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function (continued fraction, modified Lentz; Numerical Recipes 6.4)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1.0 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 1000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 + numerator * d
            c = 1.0 + numerator / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return value
