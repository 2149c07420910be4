"""The intervals keep their promise on series that break textbook ones; the rest agrees with what is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accel.core.bench import statistics
from accel.core.bench.distributions import normal_cdf, student_cdf, student_quantile
from accel.core.errors import InputError
from tests.core.bench.series import KINDS, autocorrelated

SERIES = 1000


def covers(low: float | None, high: float | None, truth: float) -> bool:
    return (low is None or low <= truth) and (high is None or truth <= high)


@pytest.mark.parametrize("length", [100, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_the_median_lies_in_its_interval_in_93_to_97_percent(kind: str, length: int) -> None:
    make, truth = KINDS[kind]
    random = np.random.default_rng([length, len(kind)])
    found = [statistics.quantile(make(random, length)) for _ in range(SERIES)]
    coverage = sum(covers(q.low, q.high, truth) for q in found) / SERIES
    assert 0.93 <= coverage <= 0.97


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


@pytest.mark.parametrize("kind", ["skewed, lognormal", "autocorrelated, 0.8", "bimodal, 60 to 40"])
def test_two_equal_series_have_a_ratio_of_one_within_its_interval(kind: str) -> None:
    make, _ = KINDS[kind]
    random = np.random.default_rng(6)
    inside, alarms = 0, 0
    for _ in range(300):
        new, old = make(random, 200), make(random, 200)
        found = statistics.ratio(np.abs(new), np.abs(old))
        inside += covers(found.low, found.high, 1.0)
        alarms += statistics.slower_p(np.abs(new), np.abs(old), 1.0) < 0.025
    assert 0.93 <= inside / 300 <= 0.99
    assert alarms / 300 <= 0.04


def test_a_slower_series_is_found_and_its_p_value_meets_its_interval() -> None:
    random = np.random.default_rng(7)
    old = np.exp(0.05 * random.standard_normal(400))
    new = 1.05 * np.exp(0.05 * random.standard_normal(400))
    found = statistics.ratio(new, old)
    assert found.low is not None and found.high is not None
    assert 1.03 < found.low < 1.05 < found.high < 1.07
    assert statistics.slower_p(new, old, found.low) == pytest.approx(0.025, abs=0.001)
    assert statistics.slower_p(new, old, 1.2) == 1.0


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
        ratio = statistics.across_ratio(medians, [float(np.median(part)) for part in second], 1.0)
        assert ratio is not None
        compared += ratio[0] <= 1.0 <= ratio[1]
    assert 0.93 <= inside / 400 <= 0.995 and 0.93 <= compared / 400 <= 0.99


def test_few_processes_say_nothing_about_each_other() -> None:
    assert statistics.across([1.0, 1.1]) is None and statistics.across([1.0, 1.1, 0.0]) is None
    assert statistics.across_ratio([1.0, 0.0], [1.0], 1.0) is None
    # one process on each side: two percent apart is nothing, ten are something
    for factor, slower in ((1.02, False), (1.1, True)):
        found = statistics.across_ratio([factor], [1.0], 1.0)
        assert found is not None and found[0] < factor < found[1] and (found[2] < 0.025) is slower
    assert statistics.across_ratio([2.0] * 3, [1.0] * 3, 1.03) == (2.0, 2.0, 0.0)
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
    assert math.isnan(statistics.ratio([0.0] * 50, [1.0] * 50).value)
    assert statistics.slower_p([0.0] * 50, [0.0] * 50, 1.03) == 1.0
    mixed = statistics.quantile([0.0] * 30 + [1e-9] * 20)
    assert mixed.value == 0.0


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_series_is_refused(bad: list[float]) -> None:
    with pytest.raises(InputError):
        statistics.summarise(bad)


def test_negative_times_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="below zero"):
        statistics.ratio([1.0, -1.0], [1.0, 1.0])


def test_holm_corrects_as_in_the_textbook() -> None:
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert statistics.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert statistics.holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert statistics.holm([]) == []
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]


def test_signed_ranks_are_those_of_the_tables() -> None:
    values = [0.11, -0.02, 0.05, 0.07, 0.03, 0.09, -0.01, 0.06]
    found, p = statistics.signed_rank(values)
    # the two negative ones have ranks 1 and 2: five of the 256 signs give as large a sum
    assert p == pytest.approx(5 / 256)
    # with eight values the bounds are the fourth smallest and largest average (Hollander and Wolfe, table A.4)
    averages = sorted((a + b) / 2 for i, a in enumerate(values) for b in values[i:])
    assert found.low is not None and found.high is not None
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((averages[3], averages[-4]))
    assert math.log(found.value) == pytest.approx((averages[17] + averages[18]) / 2)
    few, p = statistics.signed_rank([1.0] * 5)
    assert few.low is None and p == pytest.approx(1 / 32)
    assert statistics.signed_rank([1.0] * 6)[0].low == pytest.approx(math.e)
    assert statistics.signed_rank([])[1] == 1.0


def test_signed_ranks_keep_their_level_and_find_what_is_there() -> None:
    random = np.random.default_rng(9)
    outside, alarms, found = 0, 0, 0
    for _ in range(400):
        # heavy tails: what contention leaves
        logs = 0.01 * random.standard_t(3, 16)
        ratio, p = statistics.signed_rank(logs)
        outside += not covers(ratio.low, ratio.high, 1.0)
        alarms += p < 0.025
        found += statistics.signed_rank(logs + math.log(1.05), threshold=1.03)[1] < 0.025
    assert outside / 400 <= 0.08 and alarms / 400 <= 0.05 and found / 400 >= 0.95


def test_many_pairs_take_the_normal_form() -> None:
    random = np.random.default_rng(3)
    logs = 0.1 * random.standard_normal(61)
    exact, p = statistics.signed_rank(logs[:60])
    near, q = statistics.signed_rank(logs)
    assert near.value == pytest.approx(exact.value, rel=0.01) and abs(p - q) < 0.1


def test_precision_is_reached_by_more_samples_alone() -> None:
    random = np.random.default_rng(10)
    series = np.exp(0.1 * random.standard_normal(4000))
    assert not statistics.precise_enough(series[:50], 0.01)
    assert statistics.precise_enough(series, 0.01)


def test_stopping_at_the_first_narrow_interval_keeps_most_of_the_coverage() -> None:
    random = np.random.default_rng(12)
    covered = 0
    for _ in range(300):
        series = np.exp(0.1 * random.standard_normal(3000))
        end = next((n for n in range(40, 3000, 40) if statistics.precise_enough(series[:n], 0.02)), 3000)
        found = statistics.quantile(series[:end])
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
