"""Sweeps: cells in turn, what is kept when, going on after an interruption, budgets and lanes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from accel.core import results
from accel.core.bench import journal, measured
from accel.core.bench.cells import Cell, Skipped
from accel.core.bench.lanes import cpus_for, waves
from accel.core.bench.matrix import Axes, Matrix, World, expand
from accel.core.bench.measured import Outcome
from accel.core.bench.process import Settings, Visit
from accel.core.bench.runner import Sweep, Wanted
from accel.core.bench.session import Gates, Order, Report, carry_out
from accel.core.bench.visiting import Group, State
from accel.core.errors import InputError, PartialError, TransferError, UnavailableError
from accel.core.models import resolve

QUICK = Wanted(target=0.5, max_time_s=0.4, processes=2, settings=Settings(timeout_s=60.0, memory_limit=2 << 30))


class Notes:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.done: list[str] = []
        self.begun: tuple[int, int, int] | None = None

    def show(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)

    def begin(self, cells: int, finished: int, skipped: Sequence[Skipped]) -> None:
        self.begun = (cells, finished, len(skipped))

    def finished(self, outcome: Outcome, done: int, total: int, left_s: float | None) -> None:
        self.done.append(outcome.cell.key)


def axes(model: Path, *engines: str, **more: Any) -> Axes:
    return Axes(**{"models": (str(model),), "hw": "cpu", "engines": engines, **more})


def order(model: Path, *engines: str, wanted: Wanted = QUICK, **more: Any) -> Order:
    return Order(axes(model, *engines, **more), wanted)


def bench(given: Order | None, gates: Gates | None = None, *, resume: bool = False) -> tuple[Report, Notes]:
    notes = Notes()
    return carry_out(given, gates or Gates(), notes, resume=resume), notes


def rows() -> list[tuple[Any, ...]]:
    results.merge()
    with results.open_reader() as con:
        return con.execute(
            "SELECT engine, inference_time, metadata->>'status', metadata->>'cause', samples_id IS NOT NULL"
            " FROM benchmark_results ORDER BY engine"
        ).fetchall()


def test_a_sweep_from_end_to_end(tiny: Path, evil: Path) -> None:
    report, notes = bench(order(tiny, "onnxruntime", "evil-plain", "evil-crash", "torch", batches=(1, 4)))
    by_engine = {cell["engine"]: cell for cell in report.cells}
    assert notes.begun == (8, 0, 0) and len(notes.done) == 8
    # a bare ONNX file is nothing that torch can run: that is that cell's failure, and only its
    assert by_engine["torch"]["status"] == "failed" and "torch" in by_engine["torch"]["reason"]
    assert (by_engine["evil-crash"]["status"], by_engine["evil-crash"]["cause"]) == ("failed", "crash")
    for name in ("onnxruntime", "evil-plain"):
        cell = by_engine[name]
        assert cell["status"] == "ok" and cell["latency_ms"] > 0 and cell["processes"] == 2
        assert cell["agreement"]["cosine"] == pytest.approx(1.0, abs=1e-6) and cell["agreement"]["repeats"]
        assert cell["agreement"]["reference"] == "onnxruntime"
        assert cell["phases"]["load_ms"] > 0 and cell["phases"]["first_ms"] > 0
        assert cell["memory_bytes"] > 10e6 and cell["energy_note"]
    assert [(r[0], r[2], r[3], r[4]) for r in rows()] == [
        *[("evil-crash", "failed", "crash", False)] * 2,
        *[("evil-plain", "ok", None, True)] * 2,
        *[("onnxruntime", "ok", None, True)] * 2,
        *[("torch", "failed", "engine", False)] * 2,
    ]
    # nothing is left of a sweep that ended
    assert list(journal.root().glob("*/journal.jsonl")) == []


def test_cells_are_measured_in_turn(tiny: Path, evil: Path) -> None:
    """First one, then the other, and each second round backwards: it is a rule and no matter of timing."""
    lines: list[str] = []
    found = World(lambda name, task: resolve(name, task=task or None))
    matrix = expand(axes(tiny, "onnxruntime", "evil-plain"), found)
    states = [State(Outcome(cell), matrix.model(cell), share_s=1e9) for cell in matrix.cells]
    keys = [cell.key for cell in matrix.cells]

    def turns() -> list[int]:
        return [keys.index(line) for line in lines if line in keys]

    # so short that no cell has all the samples of a visit before the end
    group = Group(states, QUICK.settings, None, 0.0, lines.append, stopped=lambda: len(turns()) >= 12, stretch_s=0.001)
    assert group.visit() == states and turns() == [0, 1, 1, 0] * 3
    assert [len(visit.marks) for state in states for visit in state.outcome.visits] == [6, 6]


def test_outputs_that_are_not_numbers_or_not_the_same(tiny: Path, evil: Path) -> None:
    report, _ = bench(order(tiny, "evil-nan", "evil-random", "evil-wrong"))
    nan, random, wrong = report.cells
    assert nan["status"] == "failed" and "not finite" in nan["reason"] and nan["latency_ms"] is None
    assert random["status"] == "ok" and random["agreement"]["repeats"] is False
    assert "not the same in every run" in random["notes"][0]
    assert wrong["status"] == "ok" and wrong["agreement"]["cosine"] < 0


def test_without_agreement_nothing_is_compared(tiny: Path) -> None:
    report, notes = bench(order(tiny, "onnxruntime", wanted=dataclasses.replace(QUICK, agreement=False)))
    assert report.cells[0]["agreement"] is None
    assert not any("reference" in line or "comparing" in line for line in notes.lines)


class Stop(Exception):
    """Ends a sweep from within, as a kill would."""


class Interrupting(Notes):
    """A listener that ends the sweep after some cells."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def finished(self, outcome: Outcome, done: int, total: int, left_s: float | None) -> None:
        super().finished(outcome, done, total, left_s)
        if len(self.done) >= self.after:
            raise Stop


def test_an_interrupted_sweep_goes_on_and_measures_nothing_twice(tiny: Path, evil: Path) -> None:
    given = order(tiny, "onnxruntime", "evil-plain", "evil-crash", batches=(1, 2))
    with pytest.raises(Stop):
        carry_out(given, Gates(), Interrupting(4))
    kept = journal.Journal(journal.root() / journal.latest()).read()
    assert kept is not None and len(kept.done) == 4
    report, notes = bench(None, resume=True)
    assert notes.begun == (6, 4, 0) and len(notes.done) == 2
    assert not set(notes.done) & set(kept.done)
    assert {c["key"] for c in report.cells if c["status"] == "ok"} == {
        key for key in {*kept.done, *notes.done} if "crash" not in key
    }
    assert len(rows()) == 6
    with pytest.raises(InputError, match="no interrupted sweep"):
        bench(None, resume=True)


def test_a_visit_of_an_unfinished_cell_is_kept_too(tiny: Path) -> None:
    given = order(tiny, "onnxruntime", wanted=dataclasses.replace(QUICK, processes=3))

    class AfterOne(Notes):
        def show(self, line: str) -> None:
            super().show(line)
            if sum(text.startswith("opening") for text in self.lines) == 2:
                raise Stop

    with pytest.raises(Stop):
        carry_out(given, Gates(), AfterOne())
    kept = journal.Journal(journal.root() / journal.latest()).read()
    assert kept is not None and [len(o.visits) for o in kept.partial.values()] == [1]
    report, _ = bench(given, resume=True)
    assert report.cells[0]["processes"] == 3
    (before,) = kept.partial.values()
    assert report.outcomes[0].visits[0] == before.visits[0]


def test_another_matrix_is_not_resumed(tiny: Path) -> None:
    with pytest.raises(Stop):
        carry_out(order(tiny, "onnxruntime", batches=(1, 2)), Gates(), Interrupting(1))
    with pytest.raises(InputError, match="this very matrix"):
        bench(order(tiny, "onnxruntime"), resume=True)


def test_a_line_that_was_cut_off_is_measured_again(tiny: Path) -> None:
    with pytest.raises(Stop):
        carry_out(order(tiny, "onnxruntime", batches=(1, 2, 3)), Gates(), Interrupting(2))
    path = journal.root() / journal.latest() / "journal.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-200])
    _, notes = bench(None, resume=True)
    assert notes.begun == (3, 1, 0) and len(rows()) == 3


def test_two_processes_do_not_measure_the_same_matrix(tiny: Path) -> None:
    with journal.opened("x"), pytest.raises(TransferError, match="another process"), journal.opened("x"):
        pass


def test_an_order_survives_the_journal(tiny: Path) -> None:
    given = order(tiny, "onnxruntime", lengths=(None, 8), extra=({"batch": 3},), exclude=({"engine": "torch"},))
    assert Order.from_json(given.as_json()) == given


def test_a_budget_is_kept_and_spent_where_it_is_needed(tiny: Path, evil: Path) -> None:
    wanted = dataclasses.replace(QUICK, budget_s=12.0, target=1e-9, max_time_s=5.0, agreement=False)
    started = time.monotonic()
    report, _ = bench(order(tiny, "onnxruntime", "evil-plain", wanted=wanted))
    took = time.monotonic() - started
    # the rest of a budget that is shorter than opening a cell is not used; a busy machine ends what it began late
    assert 8 < took < 120
    assert all(cell["status"] == "ok" and cell["processes"] >= 2 for cell in report.cells)


def test_cells_that_a_budget_does_not_reach_are_said(tiny: Path) -> None:
    wanted = dataclasses.replace(QUICK, budget_s=4.0, agreement=False)
    report, _ = bench(order(tiny, "onnxruntime", wanted=wanted, batches=tuple(range(1, 61))))
    words = [cell["status"] for cell in report.cells]
    assert words.count("ok") >= 1 and words.count("skipped") >= 1 and len(words) == 60
    assert "budget of 4 s" in next(c["reason"] for c in report.cells if c["status"] == "skipped")


def test_nothing_to_measure() -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        bench(Order(Axes(())))
    with pytest.raises(UnavailableError, match="no cuda device"):
        bench(Order(Axes(("all-minilm",), hw="cuda")))
    with pytest.raises(InputError, match="everything is excluded"):
        bench(Order(Axes(("all-minilm",), hw="cpu", exclude=({"batch": 1},))))


def test_a_full_disk_in_the_middle_keeps_what_was_measured(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    real, written = os.fsync, []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(TransferError, match="No space left") as caught:
        bench(order(tiny, "onnxruntime", batches=tuple(range(1, 9))))
    assert "--resume" in caught.value.hint
    monkeypatch.undo()


def test_a_clock_that_jumps_backwards_changes_no_duration(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day back whenever somebody looks: in this process, and between two runs of a sweep."""
    real, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() - 86400.0 * next(looks))
    given = order(tiny, "onnxruntime", batches=(1, 2, 3))
    with pytest.raises(Stop):
        carry_out(given, Gates(), Interrupting(1))
    journal_file = next(journal.root().glob("*/journal.jsonl"))
    os.utime(journal_file, (real() + 1e6, real() + 1e6))  # the journal is from the future now
    report, notes = bench(None, resume=True)
    assert notes.begun == (3, 1, 0) and all(cell["status"] == "ok" for cell in report.cells)
    assert all(0 < cell["latency_ms"] < 1e4 and cell["phases"]["load_ms"] > 0 for cell in report.cells)
    assert report.elapsed_s > 0 and len(rows()) == 3


def test_results_that_cannot_be_stored_are_a_warning_and_the_report_is_whole(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> str:
        raise TransferError("the disk is read-only")

    monkeypatch.setattr(results, "append", locked)
    report, notes = bench(order(tiny, "onnxruntime"))
    assert report.cells[0]["status"] == "ok" and any("read-only" in w for w in notes.warnings)


def cell(device: str, name: str = "m", threads: int = 0) -> Cell:
    return Cell(name, "t", device.partition(":")[0], device, "torch", "fp32", threads=threads)


def test_only_cells_that_share_nothing_run_at_once() -> None:
    cells = [cell("cuda:0"), cell("cpu:0"), cell("cuda:1"), cell("cuda:0", "n"), cell("openvino:GPU"), cell("cuda:2")]
    assert waves(cells, 1) == [[cells]]
    first, second = waves(cells, 2)
    assert sorted(len(lane) for lane in first) == [2, 2]
    for lane in first:
        assert all(c.platform == "cuda" for c in lane)
    assert sum(cells[0] in lane and cells[3] in lane for lane in first) == 1
    assert second == [[cells[1], cells[4]]]
    assert waves([], 3) == [] and waves([cells[1]], 3) == [[[cells[1]]]]


def test_threads_get_cores_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accel.core.bench import lanes

    monkeypatch.setattr(lanes, "allowed_cpus", lambda: frozenset(range(8)))
    for cpu in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    root = str(tmp_path)
    assert cpus_for(cell("cpu:0", threads=4), root=root) == [0, 1, 2, 3]
    assert cpus_for(cell("cpu:0", threads=6), root=root) == [0, 1, 2, 3, 4, 5]
    assert cpus_for(cell("cpu:0"), root=root) is None and cpus_for(cell("cuda:0", threads=2), root=root) is None
    assert cpus_for(cell("cpu:0", threads=8), root=root) is None
    assert cpus_for(cell("cpu:0", threads=2), (5,), root) == [5]


def test_lanes_run_at_the_same_time_and_one_failure_stops_all(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accel.core.bench import lanes

    monkeypatch.setattr(lanes, "resource", lambda cell: f"lane {cell.batch % 2}")
    found = World(lambda name, task: resolve(name, task=task or None))
    matrix = expand(axes(tiny, "onnxruntime", batches=(1, 2, 3, 4)), found)
    wanted = dataclasses.replace(QUICK, parallel=2, agreement=False)
    with journal.opened("lanes") as log:
        log.begin({}, "run")
        outcomes = Sweep(matrix, wanted, Notes(), log, lambda outcome: None).run()
    assert [o.status for o in outcomes] == ["ok"] * 4 and [len(o.visits) for o in outcomes] == [2] * 4

    def broken(outcome: Outcome) -> None:
        raise TransferError("full")

    with journal.opened("lanes") as log, pytest.raises(TransferError):
        log.begin({}, "run")
        Sweep(matrix, wanted, Notes(), log, broken).run()


def test_the_steady_part_of_several_visits() -> None:
    first = Visit(first_s=0.5, samples=[0.03] * 20 + [0.01] * 100)
    second = Visit(first_s=0.5, samples=[0.01] * 50)
    part = measured.steady_part([first, second])
    assert part is not None and part.starts == (20, 0) and len(part.series) == 150 and part.reason == ""
    never = measured.steady_part([Visit(first_s=0.5, samples=[0.01 * 1.1**i for i in range(60)])])
    assert never is not None and never.starts == (30,) and never.reason
    assert measured.steady_part([]) is None and measured.steady_part([Visit()]) is None


def test_failures_are_partial() -> None:
    assert issubclass(PartialError, Exception) and PartialError.exit_code == 7
    assert Matrix().cells == []
