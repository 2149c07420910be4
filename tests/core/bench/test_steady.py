"""Where a series becomes steady: steps, slow settling, disturbances, drift, and series that never do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accel.core.bench.steady import detect
from accel.core.errors import InputError


def series(levels: list[tuple[int, float]], noise: float = 0.01, seed: int = 0) -> list[float]:
    """Stretches of so many samples around each level, with noise as a share."""
    random = np.random.default_rng(seed)
    return [level * math.exp(noise * random.standard_normal()) for count, level in levels for _ in range(count)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("noise", [0.005, 0.03])
def test_a_step_is_found_where_it_is(seed: int, noise: float) -> None:
    found = detect(series([(1, 0.5), (60, 0.013), (300, 0.010)], noise, seed))
    assert found.start is not None and abs(found.start - 61) <= 3


@pytest.mark.parametrize("seed", range(10))
def test_a_series_that_is_steady_from_the_start_loses_at_most_its_first(seed: int) -> None:
    found = detect(series([(300, 0.010)], 0.03, seed))
    assert found.start is not None and found.start <= 1


def test_only_the_first_inference_is_slow() -> None:
    assert detect([0.4, *series([(200, 0.010)])]).start == 1


def test_slow_settling_ends_where_two_percent_are_left() -> None:
    random = np.random.default_rng(1)
    times = [0.01 * (1 + math.exp(-i / 20)) * math.exp(0.003 * random.standard_normal()) for i in range(600)]
    found = detect(times)
    # two percent are left after 20 ln(50) = 78 runs
    assert found.start is not None and 55 <= found.start <= 110


@pytest.mark.parametrize("seed", range(5))
def test_a_disturbance_that_passes_is_no_warm_up(seed: int) -> None:
    found = detect(series([(5, 0.02), (150, 0.010), (12, 0.015), (150, 0.010)], 0.01, seed))
    assert found.start == 5


def test_dependent_noise_is_no_step() -> None:
    random = np.random.default_rng(4)
    missed = 0
    for _ in range(40):
        level, logs = 0.0, []
        for _ in range(400):
            level = 0.8 * level + 0.01 * random.standard_normal()
            logs.append(level)
        found = detect([0.5, *(0.01 * np.exp(logs))])
        missed += found.start is None or found.start > 20
    assert missed <= 4


def test_two_speeds_in_turn_are_one_state() -> None:
    random = np.random.default_rng(5)
    found = detect([0.3, *(float(v) for v in random.choice([0.010, 0.011], 300))])
    assert found.start is not None and found.start <= 3


def test_what_never_becomes_steady_says_so() -> None:
    growing = detect([0.01 * 1.01**i for i in range(200)])
    assert not growing.reached and ("drifts" in growing.reason or "same in no more" in growing.reason)
    late = detect(series([(180, 0.020), (20, 0.010)]))
    assert late.start is None and "no more than the last" in late.reason
    few = detect([0.1, 0.01, 0.01])
    assert few.start is None and "3 runs are too few" in few.reason


def test_samples_of_zero_duration() -> None:
    assert detect([0.0] * 50).start == 0
    assert detect([0.0, 0.0, *series([(100, 1e-7)])]).reached


def test_what_is_no_series_is_refused() -> None:
    with pytest.raises(InputError):
        detect([])
    with pytest.raises(InputError):
        detect([1.0, math.nan])
