"""Probabilities, scores and what is counted on."""

from __future__ import annotations

import pytest

from accel.core.compatibility.requirements import FIRM, amount, fact, probability, score, unknown


def test_the_bound_is_the_95th_percentile() -> None:
    """A supply of exactly the bound is enough in 95 % of cases, one of the prediction in half of them."""
    assert probability(100, 150, 150) == pytest.approx(0.95)
    assert probability(100, 150, 100) == pytest.approx(0.5)
    assert probability(100, 150, 0) == 0.0
    assert probability(0, 0, 10) == 1.0


def test_more_supply_is_never_worse_and_more_doubt_never_better() -> None:
    """Monotone in both."""
    grown = [probability(100, 150, supply) for supply in range(50, 400, 10)]
    assert grown == sorted(grown)
    assert probability(100, 120, 140) > probability(100, 160, 140)


def test_memory_is_counted_on_at_its_bound_alone() -> None:
    """Between prediction and bound it is more likely than not, and not counted on."""
    assert amount("memory", 100, 150, 151, "").met
    assert not amount("memory", 100, 150, 149, "").met
    assert amount("latency", 100, 150, 101, "", 0.5).met


def test_score() -> None:
    """The product; a fact that does not hold makes it nothing, what nobody knows halves it and is not counted on."""
    assert score([fact("engine", True, ""), amount("memory", 100, 150, 150, "")]) == pytest.approx(FIRM)
    assert score([fact("engine", False, ""), amount("memory", 100, 150, 1e9, "")]) == 0.0
    assert score([unknown("memory", "")]) == 0.5 and not unknown("memory", "").met
