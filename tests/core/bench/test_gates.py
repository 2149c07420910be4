"""Budgets, baselines, and the formats that other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from accel.core.bench import baselines, budgets, compare, duel, formats, measured
from accel.core.bench.cells import Cell
from accel.core.bench.measured import Outcome
from accel.core.bench.process import Visit
from accel.core.bench.session import Report
from accel.core.errors import InputError, TransferError, UnavailableError
from accel.core.paths import home

CELL = Cell("m", "t", "cpu", "cpu:0", "torch", "fp32")


def outcome(median: float = 0.010, name: str = "m", seed: int = 0, spread: float = 0.02, count: int = 200) -> Outcome:
    """A cell that three processes measured."""
    random = np.random.default_rng(seed)
    visits = [
        Visit(
            "fp32", None, 0.5, 0.02, None, 8, 1e9,
            (median * np.exp(spread * random.standard_normal(count))).tolist(),
            [count], peak_bytes=200_000_000, spent_s=1.0,
        )
        for _ in range(3)
    ]  # fmt: skip
    cell = Cell(name, "t", "cpu", "cpu:0", "torch", "fp32")
    agreement = {"cosine": 0.9995, "max_abs": 1e-3, "top1": 1.0, "repeats": True, "reference": "torch"}
    return Outcome(cell, visits=visits, agreement=agreement)


def cell(**more: Any) -> dict[str, Any]:
    return {**measured.describe(outcome(), 0.01), **more}


def test_a_description_has_every_key_whatever_happened() -> None:
    ok = measured.describe(outcome(), 0.01)
    failed = measured.describe(Outcome(CELL, "failed", "crash", "it died", "try"), 0.01)
    skipped = measured.describe(Outcome(CELL, "skipped", "skipped", "no card"), 0.01)
    assert ok.keys() == failed.keys() == skipped.keys()
    assert ok["latency_ms"] == pytest.approx(10.0, rel=0.01)
    low, high = ok["latency_interval_ms"]
    assert low < ok["latency_ms"] < high and ok["precision_reached"]
    assert ok["throughput_per_s"] == pytest.approx(100, rel=0.01)
    assert ok["gflops_per_s"] == pytest.approx(100, rel=0.01)
    assert ok["noise"]["verdict"] == "clean" and ok["steady"]["reached"]
    assert ok["energy_j"] is None and ok["energy_note"] == "not measured"
    assert (failed["latency_ms"], failed["cause"], failed["noise"]) == (None, "crash", None)
    json.dumps([ok, failed, skipped], allow_nan=False)


def test_a_record_is_the_same_for_the_same_cell_of_the_same_sweep() -> None:
    where = {"fingerprint": "f"}
    one, two = (measured.record(outcome(), "sweep", 0.01, where) for _ in range(2))
    assert one == two and one["id"] != measured.record(outcome(), "other", 0.01, where)["id"]
    assert len(one["samples"]["inference_time"]) == 600
    assert one["inference_time"] == pytest.approx(0.01, rel=0.01) and one["accuracy_score"] == 0.9995


def test_warm_up_is_kept_apart_and_not_lost() -> None:
    slow = outcome()
    slow.visits[0].samples[:0] = [0.03] * 40
    record = measured.record(slow, "sweep", 0.01, {"fingerprint": "f"})
    assert len(record["samples"]["warmup_1"]) == 40 and "warmup_2" not in record["samples"]
    assert len(record["samples"]["inference_time"]) == 600
    assert record["metadata"]["steady"]["warmup_runs"] == [40, 0, 0]


@pytest.mark.parametrize(
    ("text", "breaks"),
    [
        ("p95<20ms", False), ("p95<5ms", True), ("median<=0.02s", False), ("mean<9000us", True), ("memory<1GB", False),
        ("memory<100MiB", True), ("cosine>0.999", False), ("cosine>0.9999", True), ("top1>=99%", False),
        ("throughput>50", False), ("throughput > 500", True), ("first<30ms", False), ("load<0.1s", True),
        ("energy<1J", True), ("tokens_per_s>1", True), ("P50<11MS", False), ("max_abs<1e-2", False),
    ],
)  # fmt: skip
def test_budgets(text: str, breaks: bool) -> None:
    (found,) = budgets.broken([budgets.parse(text)], [cell()]) or [("", "")]
    assert bool(found[1]) is breaks
    if breaks:
        assert "".join(text.split()) in found[1]


def test_a_budget_on_what_was_not_measured_is_broken_and_says_so() -> None:
    ((_, why),) = budgets.broken([budgets.parse("energy<1J")], [cell()])
    assert "energy was not measured" in why
    failed = measured.describe(Outcome(CELL, "failed", "crash", "it died"), 0.01)
    ((_, why),) = budgets.broken([budgets.parse("p95<1s")], [failed])
    assert "it failed (it died)" in why
    assert budgets.broken([budgets.parse("p95<1s")], [measured.describe(Outcome(CELL, "skipped"), 0.01)]) == []


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("p95", "write it as"), ("medain<1ms", "did you mean median"), ("speed<1ms", "known"), ("p95<2", "give one of"),
        ("p95<20MB", "give one of"), ("cosine>0.9ms", "plain number"), ("p95<1.2.3ms", "p95"), ("p95=3ms", "write it"),
    ],
)  # fmt: skip
def test_budgets_that_cannot_be_read(text: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        budgets.parse(text)
    assert hint in caught.value.hint


ENVIRONMENT = {"cpu": "this one", "versions": {}, "interpreter": "/x/python", "path": ["/x"], "code": "c"}


def test_a_baseline_is_found_again() -> None:
    path = baselines.save("main", [outcome()], ENVIRONMENT)
    assert path == home() / "baselines" / "main.json"
    found = baselines.load("main")
    assert found.own and found.environment == ENVIRONMENT
    assert found.cells[CELL.key].visits[0].samples == outcome().visits[0].samples


def test_a_baseline_as_a_file_does_not_say_where_things_are(tmp_path: Path) -> None:
    file = tmp_path / "ci" / "base.json"
    baselines.save(str(file), [outcome()], ENVIRONMENT)
    found = baselines.load(str(file))
    assert not found.own and "path" not in found.environment and "interpreter" not in found.environment
    assert compare.old_environment(found).runtime is None


def test_no_baseline_and_none_for_this_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match="no baseline 'main'") as caught:
        baselines.load("main")
    assert "--save-as main" in caught.value.hint
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(baselines, "fingerprint", lambda: "another")
        baselines.save("main", [outcome()], {**ENVIRONMENT, "cpu": "Abacus"})
    with pytest.raises(UnavailableError, match="of other hardware") as caught:
        baselines.load("main")
    assert caught.value.exit_code == 3
    baselines.save("main", [outcome()], ENVIRONMENT)
    assert len(json.loads((home() / "baselines" / "main.json").read_text())["machines"]) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "accel.baseline/9", "machines": {}}', "\0\1"])
def test_a_file_that_is_no_baseline(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InputError):
        baselines.load(str(tmp_path / "b.json"))


def test_names_of_baselines_and_nothing_to_keep() -> None:
    with pytest.raises(InputError, match="no name"):
        baselines.save("x y", [outcome()], ENVIRONMENT)
    with pytest.raises(TransferError, match="nothing to keep"):
        baselines.save("main", [Outcome(CELL, "failed")], ENVIRONMENT)


def stored(new: list[Outcome], old: list[Outcome], threshold: float = 1.03) -> dict[str, compare.Comparison]:
    baseline = baselines.Baseline("b", True, 0.0, ENVIRONMENT, {o.cell.key: o for o in old})
    return {c.key: c for c in compare.stored(new, baseline, threshold)}


def test_what_is_slower_faster_and_the_same() -> None:
    for factor, word in ((1.08, "slower"), (1.0, "same"), (0.9, "faster")):
        (found,) = stored([outcome(0.010 * factor, seed=1)], [outcome(0.010)]).values()
        assert found.word == word and found.ratio is not None
        assert found.ratio.value == pytest.approx(factor, abs=0.01)


def test_what_looks_much_faster_is_not_clear() -> None:
    """A baseline of a busy machine would hide a slowdown."""
    for ratio, is_clear in (((0.99, 1.01), True), ((0.17, 0.58), False), ((0.99, 1.05), False), ((None, 1.0), False)):
        found = compare.Comparison("k", "undecided", compare.ratios.Ratio(1.0, *ratio))
        assert compare.clear(found, 1.03) is is_clear


def test_what_is_not_known_well_enough_fails_nothing() -> None:
    (found,) = stored([outcome(0.0105, seed=1, spread=0.5, count=30)], [outcome(0.010, spread=0.5, count=30)]).values()
    assert found.word == "undecided"


def test_new_gone_and_failed_cells() -> None:
    broken = Outcome(Cell("dead", "t", "cpu", "cpu:0", "torch", "fp32"), "failed", "crash", "it died")
    found = stored([outcome(name="new"), broken], [outcome(name="old"), outcome(name="dead")])
    assert {c.word for c in found.values()} == {"new", "failed", "gone"}


def test_many_cells_raise_the_bar() -> None:
    """A difference that one cell alone would prove does not stand among a hundred that differ in nothing."""

    def part(name: str, slower: bool, seed: int) -> Outcome:
        """Three processes that differ by some 0.3 %; those of a slower one are at 5 %."""
        made = outcome(0.010, name, seed, 0.001)
        draws = np.random.default_rng(seed)
        for number, visit in enumerate(made.visits):
            factor = (1.046, 1.050, 1.054)[number] if slower else np.exp(0.002 * draws.standard_normal())
            visit.samples = [sample * factor for sample in visit.samples]
        return made

    (one,) = stored([part("m", True, 1)], [part("m", False, 2)]).values()
    assert one.p is not None and 1e-4 < one.p < 0.025 and one.word == "slower"
    names = [f"m{i}" for i in range(100)]
    new = [part("m", True, 1), *(part(name, False, i + 5) for i, name in enumerate(names))]
    old = [part("m", False, 2), *(part(name, False, i + 905) for i, name in enumerate(names))]
    many = stored(new, old)
    assert all(c.word != "slower" for c in many.values())


def test_a_second_look_decides() -> None:
    first = compare.Comparison("k", "slower", p=0.001)
    again = compare.confirmed(first, compare.Comparison("k", "same", p=0.9))
    assert again.word == "same" and again.confirmed is False and "measured again" in again.note
    assert compare.confirmed(first, compare.Comparison("k", "slower", p=0.001)).confirmed
    assert compare.confirmed(first, compare.Comparison("k", "undecided", p=0.2)).word == "undecided"


def test_stretches_pair_up_from_the_steady_state_on() -> None:
    slow = [0.02] * 10 + [0.01] * 90
    new = Visit(first_s=0.02, samples=[v * 1.1 for v in slow], marks=[10, 40, 70, 100])
    old = Visit(first_s=0.02, samples=slow, marks=[10, 40, 70, 100])
    found = duel.paired(new, old)
    assert set(found) == {0.5, 0.25, 0.1}
    assert all(value == pytest.approx(np.log(1.1)) for value in found.values())
    assert duel.paired(Visit(), old) == {}
    assert duel.paired(Visit(samples=[0.0] * 100, marks=[100]), old) == {}


def test_a_lower_quantile_decides_where_the_median_scatters() -> None:
    random = np.random.default_rng(0)
    calm = [{0.5: 0.05 + 0.01 * random.standard_normal(), 0.25: 0.05, 0.1: 0.05 + 0.009 * random.standard_normal()}
            for _ in range(16)]  # fmt: skip
    for pair in calm:
        pair[0.25] = 0.05 + 0.009 * random.standard_normal()
    ratio, p, level = duel.decided(calm, 1.03)
    assert level == 0.5 and p < 0.025 and ratio.value == pytest.approx(np.exp(0.05), rel=0.01)
    busy = [{**pair, 0.5: 0.05 + random.standard_normal()} for pair in calm]
    ratio, p, level = duel.decided(busy, 1.03)
    assert level in (0.25, 0.1) and p < 0.025
    assert duel.decided([], 1.03)[1] == 1.0


def test_the_machine_itself_may_have_changed() -> None:
    def at(median: float) -> Outcome:
        made = outcome(median, seed=4)
        return Outcome(compare.control.cell(), visits=made.visits)

    key = compare.control.cell().key
    for factor, slower, faster in ((1.0, False, False), (1.3, True, False), (0.7, False, True)):
        baseline = baselines.Baseline("b", True, 0.0, ENVIRONMENT, {key: at(0.001)})
        low, high = compare.machine_change([at(0.001 * factor)], baseline)
        assert (high > 1.2, low < 0.8) == (slower, faster)
    assert compare.machine_change([], baseline) == (1.0, 1.0)
    # a cell that is slower by no more than the machine is not slower
    old = baselines.Baseline("b", True, 0.0, ENVIRONMENT, {CELL.key: outcome()})
    (found,) = compare.stored([outcome(0.0125, seed=1)], old, 1.03, machine=1.3)
    assert found.word != "slower"
    (found,) = compare.stored([outcome(0.0125, seed=1)], old, 1.03)
    assert found.word == "slower"


def report(**more: Any) -> Report:
    cells = [
        cell(key="a | b"),
        cell(key="slow"),
        measured.describe(Outcome(CELL, "failed", "crash", "died <&\x00>"), 0.01),
    ]
    cells.append(measured.describe(Outcome(CELL, "skipped", "skipped", "no card"), 0.01))
    regression = compare.Comparison(
        "slow", "slower", compare.ratios.Ratio(1.052, 1.031, None), 0.001, 10.0, 10.52, "interleaved", True
    )
    differences = [{"what": "torch", "then": "2.12", "now": "2.13"}]
    given: dict[str, Any] = {
        "comparisons": [regression, compare.Comparison("a | b", "new", note="none")],
        "baseline": {"name": "main", "created": 0.0, "old_can_run": True, "differences": differences},
        "threshold": 1.03,
        "broken": [("a | b", "p95<1ms: it is 9 ms")],
    }
    return Report("run", {}, 12.0, 0.01, cells, [], [], **{**given, **more})


def test_junit_is_xml_that_counts() -> None:
    root = ElementTree.fromstring(formats.junit(report()))
    suite = root.find("testsuite")
    assert suite is not None
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "2", "errors": "1", "skipped": "1"}
    error = suite.find("testcase/error")
    assert error is not None and error.get("message") == "died <&?>" and error.get("type") == "crash"


def test_markdown_for_a_pull_request() -> None:
    text = formats.markdown(report())
    assert "| slow | slower | 10 | 10.52 | +5.2 % | [+3.1 %, ?] |" in text
    assert "torch: 2.12 before, 2.13 now" in text
    assert "`a \\| b`: p95<1ms: it is 9 ms" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") in (7, 9) for line in rows)


def test_annotations_are_one_line_each() -> None:
    lines = formats.github(report(broken=[("k:1,2", "50%\nmore")]))
    assert "::error title=accel bench%3A k%3A1%2C2::50%25%0Amore" in lines
    assert any(line.startswith("::warning") and "died" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_without_a_threshold_nothing_is_a_regression() -> None:
    assert report(threshold=None).regressions == []
    assert formats.problems(report(threshold=None, broken=[])) == {}
