"""Two series against each other: levels are kept, what is there is found, and the tables agree."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accel.core.bench import ratios
from accel.core.errors import InputError
from tests.core.bench.series import KINDS, covers


@pytest.mark.parametrize("kind", ["skewed, lognormal", "autocorrelated, 0.8", "bimodal, 60 to 40"])
def test_two_equal_series_have_a_ratio_of_one_within_its_interval(kind: str) -> None:
    make, _ = KINDS[kind]
    random = np.random.default_rng(6)
    inside, alarms = 0, 0
    for _ in range(300):
        new, old = make(random, 200), make(random, 200)
        found = ratios.ratio(np.abs(new), np.abs(old))
        inside += covers(found.low, found.high, 1.0)
        alarms += ratios.slower_p(np.abs(new), np.abs(old), 1.0) < 0.025
    assert 0.93 <= inside / 300 <= 0.99
    assert alarms / 300 <= 0.04


def test_a_slower_series_is_found_and_its_p_value_meets_its_interval() -> None:
    random = np.random.default_rng(7)
    old = np.exp(0.05 * random.standard_normal(400))
    new = 1.05 * np.exp(0.05 * random.standard_normal(400))
    found = ratios.ratio(new, old)
    assert found.low is not None and found.high is not None
    assert 1.03 < found.low < 1.05 < found.high < 1.07
    assert ratios.slower_p(new, old, found.low) == pytest.approx(0.025, abs=0.001)
    assert ratios.slower_p(new, old, 1.2) == 1.0


def test_negative_times_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="below zero"):
        ratios.ratio([1.0, -1.0], [1.0, 1.0])


def test_holm_corrects_as_in_the_textbook() -> None:
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert ratios.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert ratios.holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert ratios.holm([]) == []
    assert ratios.holm([0.6, 0.7]) == [1.0, 1.0]


def test_signed_ranks_are_those_of_the_tables() -> None:
    values = [0.11, -0.02, 0.05, 0.07, 0.03, 0.09, -0.01, 0.06]
    found, p = ratios.signed_rank(values)
    # the two negative ones have ranks 1 and 2: five of the 256 signs give as large a sum
    assert p == pytest.approx(5 / 256)
    # with eight values the bounds are the fourth smallest and largest average (Hollander and Wolfe, table A.4)
    averages = sorted((a + b) / 2 for i, a in enumerate(values) for b in values[i:])
    assert found.low is not None and found.high is not None
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((averages[3], averages[-4]))
    assert math.log(found.value) == pytest.approx((averages[17] + averages[18]) / 2)
    few, p = ratios.signed_rank([1.0] * 5)
    assert few.low is None and p == pytest.approx(1 / 32)
    assert ratios.signed_rank([1.0] * 6)[0].low == pytest.approx(math.e)
    assert ratios.signed_rank([])[1] == 1.0


def test_signed_ranks_keep_their_level_and_find_what_is_there() -> None:
    random = np.random.default_rng(9)
    outside, alarms, found = 0, 0, 0
    for _ in range(400):
        # heavy tails: what contention leaves
        logs = 0.01 * random.standard_t(3, 16)
        ratio, p = ratios.signed_rank(logs)
        outside += not covers(ratio.low, ratio.high, 1.0)
        alarms += p < 0.025
        found += ratios.signed_rank(logs + math.log(1.05), threshold=1.03)[1] < 0.025
    assert outside / 400 <= 0.08 and alarms / 400 <= 0.05 and found / 400 >= 0.95


def test_many_pairs_take_the_normal_form() -> None:
    random = np.random.default_rng(3)
    logs = 0.1 * random.standard_normal(61)
    exact, p = ratios.signed_rank(logs[:60])
    near, q = ratios.signed_rank(logs)
    assert near.value == pytest.approx(exact.value, rel=0.01) and abs(p - q) < 0.1


def test_medians_of_zero_have_no_ratio() -> None:
    assert math.isnan(ratios.ratio([0.0] * 50, [1.0] * 50).value)
    assert ratios.slower_p([0.0] * 50, [0.0] * 50, 1.03) == 1.0
