"""The intervals keep their promise on series that break textbook ones; the rest agrees with what is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accel.core.bench import ratios, statistics
from accel.core.bench.distributions import normal_cdf, student_cdf, student_quantile
from accel.core.errors import InputError
from tests.core.bench.series import KINDS, autocorrelated, covers


def coverage(kind: str, length: int, count: int) -> float:
    """In which share of so many series the interval holds the median."""
    make, truth = KINDS[kind]
    random = np.random.default_rng([length, len(kind)])
    found = [statistics.quantile(make(random, length)) for _ in range(count)]
    return sum(covers(q.low, q.high, truth) for q in found) / count


@pytest.mark.slow
@pytest.mark.parametrize("length", [100, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_the_median_lies_in_its_interval_in_93_to_97_percent(kind: str, length: int) -> None:
    assert 0.93 <= coverage(kind, length, 1000) <= 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_the_median_lies_in_its_interval(kind: str) -> None:
    """Of 200 series chance alone takes three deviations of 1.5 percent."""
    assert coverage(kind, 200, 200) >= 0.90


@pytest.mark.parametrize("kind", ["skewed, exponential", "heavy-tailed, Cauchy", "autocorrelated, 0.5"])
def test_tail_quantiles_lie_in_their_intervals(kind: str) -> None:
    make, _ = KINDS[kind]
    truth = {0.9: math.log(10.0), 0.95: math.log(20.0)}
    if kind == "heavy-tailed, Cauchy":
        truth = {p: 10.0 + math.tan(math.pi * (p - 0.5)) for p in truth}
    if kind == "autocorrelated, 0.5":
        truth = {0.9: 10.0 + 1.2815516 / math.sqrt(0.75), 0.95: 10.0 + 1.6448536 / math.sqrt(0.75)}
    random = np.random.default_rng(5)
    hits = dict.fromkeys(truth, 0)
    for _ in range(500):
        series = make(random, 500)
        for level in truth:
            found = statistics.quantile(series, level)
            hits[level] += covers(found.low, found.high, truth[level])
    assert all(0.92 <= count / 500 <= 0.98 for count in hits.values()), hits


@pytest.mark.parametrize("between", [0.0, 0.002, 0.02])
@pytest.mark.parametrize("processes", [3, 8])
def test_what_differs_from_process_to_process_is_in_the_interval(processes: int, between: float) -> None:
    random = np.random.default_rng([processes, int(1000 * between)])
    inside, compared = 0, 0
    for _ in range(400):
        first, second = (
            [np.exp(between * random.standard_normal() + 0.01 * random.standard_normal(100)) for _ in range(processes)]
            for _ in range(2)
        )
        medians = [float(np.median(part)) for part in first]
        found = statistics.widened(statistics.quantile(np.concatenate(first)), medians)
        inside += covers(found.low, found.high, 1.0)
        ratio = ratios.across_ratio(medians, [float(np.median(part)) for part in second], 1.0)
        assert ratio is not None
        compared += ratio[0] <= 1.0 <= ratio[1]
    assert 0.93 <= inside / 400 <= 0.995 and 0.93 <= compared / 400 <= 0.99


def test_few_processes_say_nothing_about_each_other() -> None:
    assert statistics.across([1.0, 1.1]) is None and statistics.across([1.0, 1.1, 0.0]) is None
    assert ratios.across_ratio([1.0, 0.0], [1.0], 1.0) is None
    # one process on each side: two percent apart is nothing, ten are something
    for factor, slower in ((1.02, False), (1.1, True)):
        found = ratios.across_ratio([factor], [1.0], 1.0)
        assert found is not None and found[0] < factor < found[1] and (found[2] < 0.025) is slower
    assert ratios.across_ratio([2.0] * 3, [1.0] * 3, 1.03) == (2.0, 2.0, 0.0)
    plain = statistics.quantile(np.random.default_rng(0).random(100))
    assert statistics.widened(plain, [0.5]) == plain


def test_dependent_samples_count_for_less() -> None:
    random = np.random.default_rng(8)
    independent = np.mean([statistics.effective(random.standard_normal(1000)).size for _ in range(20)])
    assert 850 <= independent <= 1150
    # the indicator of an AR(1) series has the autocorrelation 2/pi asin(phi^k)
    tau = 1.0 + 2.0 * sum(2.0 / math.pi * math.asin(0.8**k) for k in range(1, 200))
    worth = np.mean([statistics.effective(autocorrelated(random, 2000, 0.8)).size for _ in range(20)])
    assert worth == pytest.approx(2000 / tau, rel=0.15)


def test_drift_leaves_next_to_nothing() -> None:
    assert statistics.effective(np.linspace(1.0, 2.0, 400)).size < 8


def test_outliers_are_marked_and_nothing_is_dropped() -> None:
    series = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 5.0, 1.01]
    assert statistics.outliers(series).tolist() == [False] * 6 + [True, False]
    summary = statistics.summarise(series)
    assert (summary.count, summary.maximum, summary.outlier_count) == (8, 5.0, 1)


def test_outliers_among_equal_samples() -> None:
    assert statistics.outliers([2.0] * 20 + [9.0]).tolist() == [False] * 20 + [True]
    assert not statistics.outliers([2.0] * 20).any()


def test_five_samples_bound_no_median_and_twenty_do() -> None:
    assert statistics.quantile([1.0, 2.0, 3.0, 4.0, 5.0]).low is None
    found = statistics.quantile(np.random.default_rng(2).random(20))
    assert found.low is not None and found.high is not None and found.low < found.value < found.high


def test_a_tail_that_the_samples_do_not_reach_has_no_bound() -> None:
    found = statistics.quantile(np.random.default_rng(1).exponential(size=60), 0.99)
    assert found.high is None and found.halfwidth is None


def test_one_sample_is_its_own_median() -> None:
    summary = statistics.summarise([0.25])
    assert (summary.median.value, summary.median.low, summary.deviation) == (0.25, None, 0.0)


def test_samples_of_zero_duration() -> None:
    summary = statistics.summarise([0.0] * 50)
    assert (summary.median.low, summary.median.high, summary.median.halfwidth) == (0.0, 0.0, 0.0)
    mixed = statistics.quantile([0.0] * 30 + [1e-9] * 20)
    assert mixed.value == 0.0


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_series_is_refused(bad: list[float]) -> None:
    with pytest.raises(InputError):
        statistics.summarise(bad)


def test_stopping_at_the_first_narrow_interval_keeps_most_of_the_coverage() -> None:
    random = np.random.default_rng(12)
    covered = 0
    for _ in range(300):
        series = np.exp(0.1 * random.standard_normal(3000))
        for end in range(40, 3000, 40):
            found = statistics.quantile(series[:end])
            if (found.halfwidth or 1.0) <= 0.02:
                break
        covered += covers(found.low, found.high, 1.0)
    assert covered / 300 >= 0.91


def test_student_and_normal_agree_with_tables() -> None:
    assert normal_cdf(1.959963985) == pytest.approx(0.975, abs=1e-9)
    table = {(1, 0.975): 12.70620474, (2, 0.95): 2.91998558, (5, 0.975): 2.57058184, (30, 0.995): 2.74999565}
    for (df, level), value in table.items():
        assert student_quantile(level, df) == pytest.approx(value, rel=1e-7)
        assert student_cdf(value, df) == pytest.approx(level, abs=1e-9)
    assert student_quantile(0.025, 5) == pytest.approx(-2.57058184)
    assert student_quantile(0.975, 1e9) == pytest.approx(1.959963985)
