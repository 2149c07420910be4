"""A cell's process: what it measures, and every way in which it can be lost, each with its cause."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.core.bench import noise
from accel.core.bench.cells import Cell
from accel.core.bench.process import MARK, CellProcess, Settings, Visit, cause_of
from accel.core.errors import AccelError, InputError, UnavailableError
from accel.core.models import resolve
from accel.core.worker import to_json

QUICK = Settings(timeout_s=60.0, memory_limit=1 << 30)


def cell_of(model: Path, engine: str, **more: object) -> Cell:
    return Cell(str(model), "tensors", "cpu", "cpu:0", engine, "fp32", **more)  # type: ignore[arg-type]


def run(cell: Cell, settings: Settings = QUICK) -> CellProcess:
    """Prepares, opens and measures a cell for a moment; its process is ended."""
    with CellProcess(cell, resolve(cell.model), settings) as process:
        process.call("ready", plan=to_json(cell.plan()))
        process.open()
        process.measure(0.05, lead=False)
        process.measure(0.05)
    return process


def failure(cell: Cell, settings: Settings = QUICK) -> AccelError:
    with pytest.raises(AccelError) as caught:
        run(cell, settings)
    return caught.value


def marked() -> list[int]:
    """Processes that carry the mark of a cell of this test run."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and MARK.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def eventually(true: Callable[[], bool]) -> bool:
    """Whether something becomes true within a minute: signals take a moment on a busy machine."""
    deadline = time.monotonic() + 60.0
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def test_the_phases_and_the_samples(tiny: Path) -> None:
    visit = run(cell_of(tiny, "onnxruntime", batch=4)).visit
    assert visit.load_s is not None and visit.first_s is not None
    assert 0 < visit.first_s <= visit.opening_s and 0 < visit.load_s <= visit.opening_s
    assert visit.precision == "fp32" and visit.length == 4 * 256
    assert visit.marks == sorted(visit.marks) and len(visit.marks) == 2
    assert len(visit.samples) == visit.marks[-1] >= 10
    assert visit.peak_bytes is not None and visit.resident_bytes is not None
    assert 20e6 < visit.resident_bytes <= visit.peak_bytes < 1e9
    # what is measured cannot take longer than the stretches it was measured in
    assert sum(visit.samples) <= visit.spent_s


def test_a_visit_survives_the_journal(tiny: Path) -> None:
    visit = run(cell_of(tiny, "onnxruntime")).visit
    assert Visit.from_json(visit.as_json()) == visit


@pytest.mark.parametrize(
    ("word", "cause", "says"),
    [
        ("crash", "crash", "SIGSEGV"),
        ("exit", "crash", "exit status 0"),
        ("garbage", "garbage", "something else than an answer"),
        ("memory", "memory", "memory ran out"),
        ("killed", "memory", "killed"),
        ("raise", "engine", "the engine is not amused"),
    ],
)
def test_a_process_that_is_lost_tells_its_cause(tiny: Path, evil: Path, word: str, cause: str, says: str) -> None:
    error = failure(cell_of(tiny, f"evil-{word}"))
    assert cause_of(error) == cause
    assert says in error.message and error.hint is not None


def test_a_process_that_hangs_is_given_up(tiny: Path, evil: Path) -> None:
    error = failure(cell_of(tiny, "evil-hang"), Settings(timeout_s=4.0))
    assert cause_of(error) == "timeout" and "4 s" in error.message and "--cell-timeout" in error.hint
    assert eventually(lambda: marked() == [])


def test_what_a_cell_forked_does_not_outlive_it(tiny: Path, evil: Path) -> None:
    error = failure(cell_of(tiny, "evil-fork"))
    assert cause_of(error) == "crash" and "exit status 7" in error.message
    assert eventually(lambda: marked() == [])


def test_an_engine_that_prints_disturbs_nobody(tiny: Path, evil: Path) -> None:
    assert len(run(cell_of(tiny, "evil-print")).visit.samples) >= 10


def test_a_paused_process_does_not_run(tiny: Path) -> None:
    cell = cell_of(tiny, "onnxruntime")
    with CellProcess(cell, resolve(cell.model), QUICK) as process:
        process.call("ready", plan=to_json(cell.plan()))
        process.open()
        process.pause()
        pid = process._worker.pid
        assert eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt")
        before = noise.snapshot(pid).ran_s
        time.sleep(0.2)
        # the kernel books the last microseconds of a thread that it stops a little later
        assert noise.snapshot(pid).ran_s - before < 0.01
        process.go_on()
        process.measure(0.02)
        assert process.visit.samples
    assert not Path(f"/proc/{pid}").exists()


def test_threads_and_processors_of_a_cell(tiny: Path, evil: Path) -> None:
    cell = cell_of(tiny, "evil-plain", threads=1)
    cpu = min(os.sched_getaffinity(0))
    with CellProcess(cell, resolve(cell.model), QUICK, cpus=[cpu]) as process:
        process.call("ready", plan=to_json(cell.plan()))
        process.open()
        pid = process._worker.pid
        assert os.sched_getaffinity(pid) == {cpu}
        assert b"OMP_NUM_THREADS=1\0" in Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"


def test_words_for_causes() -> None:
    assert cause_of(UnavailableError("gone")) == "unavailable"
    assert cause_of(InputError("odd")) == "input"
    assert cause_of(AccelError("what")) == "engine"
