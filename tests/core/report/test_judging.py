"""Trends, comparisons, rankings, advice and correlations over results as bench stores them."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from accel.core import results
from accel.core.errors import InputError
from accel.core.report import comparing, correlate, cost, ranking, reading, runs
from accel.core.report.reading import Filter
from accel.core.report.trend import Trend, follow, gather
from tests.core.report.history import keep, record, sweep_id

ONE, TWO = sweep_id("one"), sweep_id("two")


def nightly(nights: int, change: int, factor: float = 1.08, **more: Any) -> list[dict[str, Any]]:
    """A cell measured every night; from night `change` on it is slower, with another commit and version."""
    source = random.Random(7)
    made = []
    for night in range(nights):
        after = night >= change
        environment = {
            "commit": ("b" if after else "a") * 40,
            "versions": {"torch": "2.13.0", "onnxruntime": "1.25.0" if after else "1.24.1"},
        }
        median = 0.010 * (factor if after else 1.0) * (1.0 + source.gauss(0.0, 0.004))
        made.append(record(median, sweep_id(f"night {night}"), environment=environment, seed=night, **more))
    return made


def trends(model: str = "bert-base") -> Trend:
    cells, problem = reading.read(lambda con: gather(con, Filter(model=model, kinds=("bench",))))
    assert problem is None
    return follow(cells)


def test_a_trend_names_the_commit_and_the_version_that_changed_it() -> None:
    keep(nightly(30, 18))
    (series,) = trends().series
    (change,) = series.as_json()["changes"]
    assert change["index"] == 18
    assert change["ratio"] == pytest.approx(1.08, abs=0.01)
    named = {entry["what"]: (entry["before"], entry["after"]) for entry in change["differences"]}
    assert named == {"commit": ("a" * 12, "b" * 12), "onnxruntime": ("1.24.1", "1.25.0")}


def test_machines_and_shapes_have_series_of_their_own() -> None:
    keep(nightly(12, 99) + nightly(12, 99, batch=8))
    keep([record(0.002, sweep_id(f"other {n}"), environment={"fingerprint": "e" * 16}) for n in range(12)])
    found = trends()
    assert sorted(len(series.cells) for series in found.series) == [12, 12, 12]
    assert not any(series.changes for series in found.series)


def test_a_clock_that_jumps_back_does_not_turn_a_trend_round() -> None:
    made = nightly(24, 12)
    start = time.time()
    for night, entry in enumerate(made):
        # a flat battery in the middle: the second half seems to be years older
        entry["timestamp"] = start + 86400.0 * night - (10 * 365 * 86400.0 if night >= 12 else 0.0)
        keep([entry])
    (series,) = trends().series
    assert [cell.id for cell in series.cells] == [entry["id"] for entry in made]
    (change,) = series.changes
    assert change.index == 12
    assert change.ratio > 1.0
    last, _ = reading.read(lambda con: runs.find(con, "last"))
    assert last.name == sweep_id("night 23")


def compare(a: str, b: str, threshold: float = 1.03) -> comparing.Compared:
    pair, _ = reading.read(lambda con: (runs.find(con, a), runs.find(con, b)))
    return comparing.compare(*pair, threshold)


def test_a_comparison_tells_slower_faster_same_new_gone_and_failed() -> None:
    keep(
        [
            record(0.010, ONE, spread=0.002, count=200),
            record(0.010, ONE, batch=2, spread=0.002, count=200),
            record(0.010, ONE, batch=3, spread=0.002, count=200),
            record(0.010, ONE, batch=4),
            record(0.010, ONE, batch=5),
        ]
    )
    keep(
        [
            record(0.012, TWO, spread=0.002, count=200, seed=1),
            record(0.008, TWO, batch=2, spread=0.002, count=200, seed=1),
            record(0.010, TWO, batch=3, spread=0.002, count=200, seed=1),
            record(None, TWO, batch=4, cause="crash", reason="signal 11"),
            record(0.010, TWO, batch=6),
        ]
    )
    found = compare("last~1", "last")
    words = {cell.batch: comparison.word for comparison, cell in found.cells}
    assert words == {1: "slower", 2: "faster", 3: "same", 4: "failed", 5: "gone", 6: "new"}
    slower = next(comparison for comparison, cell in found.cells if cell.batch == 1)
    assert slower.ratio is not None
    assert slower.ratio.low is not None
    assert 1.15 < slower.ratio.low < slower.ratio.value == pytest.approx(1.2, abs=0.01)


def test_what_differs_between_runs_is_listed() -> None:
    keep([record(0.010, ONE)])
    keep([record(0.010, TWO, seed=1, environment={"fingerprint": "e" * 16, "cpu": "Other CPU"})])
    found = compare(ONE, TWO)
    assert not found.same_machine
    assert {"what": "cpu", "before": "Test CPU", "after": "Other CPU"} in found.differences


def test_a_name_that_begins_two_runs_is_refused() -> None:
    keep([record(0.01, "abcd" + "0" * 28), record(0.01, "abcd" + "1" * 28)])
    with pytest.raises(InputError, match="more than one"):
        reading.read(lambda con: runs.find(con, "abcd"))


def boards(tolerance: float = 0.99999, **prices: float) -> list[ranking.Board]:
    cells, _ = reading.read(lambda con: ranking.candidates(con, Filter(kinds=("bench",))))
    return ranking.boards(cells, tolerance, prices)


def test_a_leaderboard_holds_what_is_accurate_enough_and_says_why_the_rest_is_not() -> None:
    keep(
        [
            record(0.010, ONE),
            record(0.004, ONE, precision="int8", cosine=0.998),
            record(0.005, ONE, precision="bf16", cosine=None),
            record(0.020, ONE, engine="torch", cosine=None),
            record(None, ONE, engine="openvino", device="openvino:CPU", platform="openvino", cause="memory"),
        ]
    )
    board, empty = boards()
    assert [(entry.rank, entry.cell.engine) for entry in board.ranked] == [(1, "onnxruntime"), (2, "torch")]
    assert board.ranked[1].slower == pytest.approx(2.0, abs=0.05)
    reasons = {cell.precision: why for cell, why in board.left_out}
    assert "below 0.99999" in reasons["int8"]
    assert "not compared" in reasons["bf16"]
    assert not empty.ranked
    assert "memory" in empty.left_out[0][1]
    assert [entry.cell.precision for entry in boards(0.99)[0].ranked] == ["int8", "fp32", "fp32"]


def test_the_last_result_counts_not_the_luckiest() -> None:
    keep([record(0.005, ONE)])
    keep([record(0.010, TWO, seed=1)])
    ((entry,),) = (board.ranked for board in boards())
    assert entry.cell.sweep == TWO


def test_the_cost_of_a_million_is_that_of_the_most_exact_price() -> None:
    keep([record(0.010, ONE, batch=4)])
    ((entry,),) = (board.ranked for board in boards(cpu=3.6))
    # 400 items per second: a million take 2,500 s
    assert entry.cost_per_million == pytest.approx(2.5, rel=0.02)
    assert cost.per_million(entry.cell, {"cpu": 3.6, "cpu:0": 7.2}) == pytest.approx(5.0, rel=0.02)
    assert cost.per_million(entry.cell, {"cuda": 3.6}) is None
    assert cost.per_million(entry.cell, {"all": 3.6}) == pytest.approx(2.5, rel=0.02)


def advise(goal: str = "latency", tolerance: float = 0.99999, **prices: float) -> list[ranking.Advice]:
    cells, _ = reading.read(lambda con: ranking.candidates(con, Filter(kinds=("bench",)), samples=True))
    return ranking.recommend(cells, goal, tolerance, prices)


def test_the_plan_to_deploy_depends_on_goal_and_tolerance() -> None:
    keep(
        [
            record(0.010, ONE),
            record(0.040, ONE, batch=8),
            record(0.020, ONE, engine="torch"),
            record(0.004, ONE, precision="int8", cosine=0.998),
        ]
    )
    (fast,) = advise()
    assert fast.cell is not None
    assert (fast.cell.engine, fast.cell.precision, fast.cell.batch) == ("onnxruntime", "fp32", 1)
    assert any("int8" in reason and "below" in reason for reason in fast.reasons)
    assert any("torch" in reason and "2" in reason for reason in fast.reasons)
    (many,) = advise("throughput")
    assert many.cell is not None
    assert many.cell.batch == 8
    (loose,) = advise(tolerance=0.99)
    assert loose.cell is not None
    assert loose.cell.precision == "int8"
    (cheap,) = advise("cost", cpu=1.0)
    assert cheap.cell is not None
    assert cheap.cell.batch == 8


def test_plans_that_the_samples_do_not_tell_apart_are_told() -> None:
    keep(
        [
            record(0.0100, ONE, engine="torch", spread=0.5),
            record(0.0099, ONE, precision="int8", cosine=0.9999, spread=0.5),
        ]
    )
    (advice,) = advise(tolerance=0.99)
    assert advice.cell is not None
    assert advice.cell.engine == "torch"
    assert [cell.precision for cell in advice.ties] == ["int8"]


def test_without_a_plan_the_reason_is_given() -> None:
    keep([record(None, ONE, cause="timeout", reason="it took longer than 600 s")])
    (advice,) = advise()
    assert advice.cell is None
    assert "timeout" in advice.reasons[0]


def test_correlations_find_what_goes_together() -> None:
    keep([record(0.002 * batch, ONE, batch=batch) for batch in (1, 2, 4, 8, 16, 32)])
    cells, _ = reading.read(lambda con: ranking.candidates(con, Filter(kinds=("bench",))))
    found = {frozenset((c.a, c.b)): c for c in correlate.correlate(cells)}
    pair = found[frozenset(("latency_ms", "batch"))]
    assert (pair.rho, pair.count) == (pytest.approx(1.0), 6)
    assert pair.p < 0.05
    # what does not vary goes with nothing
    assert not any("memory_bytes" in names for names in found)


def test_correlations_of_chance_are_not_significant() -> None:
    source = random.Random(3)
    axes = [(source.choice([1, 2, 4, 8, 16]), source.choice([16, 32, 64, 128]), n) for n in range(40)]
    keep([record(0.01 * (1 + source.random()), ONE, batch=b, length=s, threads=t) for b, s, t in axes])
    cells, _ = reading.read(lambda con: ranking.candidates(con, Filter(kinds=("bench",))))
    free = [c for c in correlate.correlate(cells) if {c.a, c.b} <= {"batch", "threads", "length", "latency_ms"}]
    assert free
    assert all(c.p > 0.01 for c in free)


def test_results_in_the_spool_count_while_another_reads() -> None:
    keep([record(0.01, ONE)])
    with results.open_reader():
        results.append(record(0.01, TWO))
        found, problem = reading.read(lambda con: runs.find(con, "last"), wait_s=1.0)
    assert (found.name, problem) == (TWO, None)
