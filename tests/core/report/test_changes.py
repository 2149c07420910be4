"""Change points: found where a level changed, not found where nothing did."""

from __future__ import annotations

import numpy as np
import pytest

from accel.core.report import changes


def noise(count: int, seed: int, scale: float = 0.02) -> np.ndarray:
    return 10.0 * (1.0 + scale * np.random.default_rng(seed).standard_normal(count))


def test_a_step_is_found_where_it_is() -> None:
    series = noise(60, 1)
    series[35:] *= 1.08
    (found,) = changes.find(series)
    assert abs(found.index - 35) <= 1
    assert found.ratio == pytest.approx(1.08, abs=0.02)
    assert found.p < 0.01


def test_two_steps_that_cancel_out_are_both_found() -> None:
    series = noise(90, 2)
    series[30:60] *= 1.10
    up, down = changes.find(series)
    assert (abs(up.index - 30) <= 1, abs(down.index - 60) <= 1) == (True, True)
    assert up.ratio > 1.05 > 0.96 > down.ratio


def test_a_step_a_few_results_ago_is_found() -> None:
    series = noise(100, 3)
    series[94:] *= 1.15
    (found,) = changes.find(series)
    assert abs(found.index - 94) <= 1


def test_one_outlier_is_no_change_however_large() -> None:
    series = noise(60, 4)
    series[30] *= 100.0
    assert changes.find(series) == []


def test_a_step_that_is_too_small_to_matter_is_left_out() -> None:
    series = noise(400, 5, 0.002)
    series[200:] *= 1.005
    assert changes.find(series) == []
    assert len(changes.find(series, least_ratio=1.001)) == 1


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 7, [3.0] * 50])
def test_too_few_or_equal_values_have_no_change(values: list[float]) -> None:
    assert changes.find(values) == []


def test_chance_rarely_looks_like_a_change() -> None:
    """At a level of 1 % about one series in a hundred may show one; 9 or more of 300 happen once in 600 times."""
    heavy = [10.0 * np.exp(0.03 * np.random.default_rng(seed).standard_t(2, 24)) for seed in range(300)]
    assert sum(bool(changes.find(series)) for series in heavy) <= 8


def test_real_steps_of_five_per_cent_are_found_in_noise_of_two() -> None:
    found = 0
    for seed in range(60):
        series = noise(40, seed)
        series[20:] *= 1.05
        places = [change.index for change in changes.find(series)]
        found += any(abs(place - 20) <= 2 for place in places)
    assert found >= 54


def test_the_range_of_a_change_holds_its_true_place() -> None:
    held = 0
    for seed in range(200):
        series = noise(40, seed)
        series[20:] *= 1.05
        (found, *_) = changes.find(series) or [None]
        held += found is not None and found.earliest <= 20 <= found.latest
    assert held >= 170


def test_equal_values_share_their_rank() -> None:
    assert changes.ranks(np.array([5.0, 1.0, 5.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
