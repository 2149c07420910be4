"""What a cell has to meet, and how sure it is that it does.

Every requirement has a probability. For an amount it is that of `need <= supply`, where the need is log-normal around
its prediction: the stated error is the one-sided bound that 95 % of needs stay under, so

    probability = Phi(1.645 * ln(supply / need) / ln(bound / need))

A fact (an engine is installed, a precision exists) has probability 1 or 0, and what nobody knows has 0.5. The *score*
of a cell is the product over its requirements: the probability that it runs as asked, if their errors are independent.
Its *confidence* is the probability that its verdict is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

#: the quantile of the normal distribution that a stated bound stands for
QUANTILE = NormalDist().inv_cdf(0.95)
#: probability that a requirement has to have: running out of memory or disk ends the run, a latency is only missed
FIRM, SOFT = 0.95, 0.5


@dataclass(frozen=True)
class Requirement:
    """One thing that has to hold.

    Attributes:
        kind: `engine`, `precision`, `driver`, `adapter`, `operators`, `memory`, `limit`, `host`, `preparing`, `size`,
            `disk` or `latency`.
        probability: that it holds. least: that it has to have.
        reason: what is compared with what, in words.
    """

    kind: str
    probability: float
    reason: str
    least: float = FIRM

    @property
    def met(self) -> bool:
        """Whether it is counted on."""
        return self.probability >= self.least


def fact(kind: str, holds: bool, reason: str) -> Requirement:
    """A requirement that holds or does not."""
    return Requirement(kind, 1.0 if holds else 0.0, reason)


def unknown(kind: str, reason: str) -> Requirement:
    """A requirement of which nobody knows whether it holds: not to be counted on."""
    return Requirement(kind, 0.5, reason, FIRM)


def amount(kind: str, need: float, bound: float, supply: float, reason: str, least: float = FIRM) -> Requirement:
    """A requirement `need <= supply`.

    Args:
        bound: what 95 % of such needs stay under; above `need`.
    """
    return Requirement(kind, probability(need, bound, supply), reason, least)


def probability(need: float, bound: float, supply: float) -> float:
    """That a log-normal need, with its median and its 95th percentile, is at most the supply."""
    if supply <= 0:
        return 0.0
    if need <= 0:
        return 1.0
    spread = math.log(max(bound / need, 1 + 1e-9))
    return NormalDist().cdf(QUANTILE * math.log(supply / need) / spread)


def score(requirements: Sequence[Requirement]) -> float:
    """The probability that all hold, if their errors are independent."""
    return math.prod(one.probability for one in requirements)
