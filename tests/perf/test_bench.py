"""What `accel bench` promises about its own numbers, measured: `pytest -m perf tests/perf/test_bench.py -s`.

The long proofs keep their progress in the folder that ACCEL_PERF_STATE names, and go on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import accel as accel_package
from accel.core.bench.far import timed
from tests.core.bench import parts
from tests.program import accel

pytestmark = pytest.mark.perf

ENGINE = "evil-plain"


def test_what_the_measuring_loop_adds_to_one_inference() -> None:
    """Under 1 % at 1 ms: what is in the measured time beside the call, and what the loop takes between two calls."""

    def nothing() -> None:
        pass

    inside = min(statistics.median(timed(nothing, 0.05, 1000, 20_000)) for _ in range(10)) / 1e9
    between = []
    for _ in range(10):
        started = time.perf_counter()
        samples = timed(nothing, 0.0, 20_000, 20_000)
        between.append((time.perf_counter() - started) / len(samples))
    print(f"\nthe loop adds {1e9 * inside:.0f} ns to a sample and takes {1e9 * min(between):.0f} ns a run")
    assert inside < 0.01e-3 and min(between) < 0.01e-3


@pytest.fixture(scope="module")
def frozen(state: Path) -> Path:
    """A copy of accel and two versions of an engine that differ in nothing, and one that is 5 % slower."""
    folder = state / "frozen"
    if not folder.exists():
        fresh = state / "frozen.new"
        shutil.rmtree(fresh, ignore_errors=True)
        source = Path(accel_package.__file__).parent
        shutil.copytree(source, fresh / "accel", ignore=shutil.ignore_patterns("__pycache__"))
        parts.install(fresh / "old", 0, {"plain": "pass"})
        parts.install(fresh / "same", 0, {"plain": "unused = 1"})
        parts.install(fresh / "slower", 0, {"plain": parts.slower(0.05)})
        parts.onnx_model(fresh / "short.onnx", width=256, layers=8)
        fresh.rename(folder)
    return folder


@pytest.fixture(scope="module")
def busy() -> Iterator[None]:
    """Somebody else works on this machine: bursts of half a second on every processor, half of the time.

    A machine that is busy already is left as it is.
    """
    if os.getloadavg()[0] > len(os.sched_getaffinity(0)):
        yield
        return
    code = (
        "import time, random\n"
        "while True:\n"
        "    end = time.perf_counter() + random.random()\n"
        "    while time.perf_counter() < end: pass\n"
        "    time.sleep(random.random())\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(os.cpu_count() or 1)]
    yield
    for child in children:
        child.kill()
        child.wait()


def bench(frozen: Path, home: Path, version: str, model: object, *more: object) -> dict[str, Any]:
    """One `accel bench` of the engine in this version."""
    done = accel(
        "bench", model, "--hw", "cpu", "--engine", ENGINE, "--no-agreement", "--json", *more,
        home=home, cwd=frozen, PYTHONPATH=str(frozen / version), timeout=900,
    )  # fmt: skip
    assert done.returncode in (0, 6), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def trials(
    state: Path, name: str, count: int, one: Callable[[int, int], dict[str, Any]], lanes: int = 1
) -> list[dict[str, Any]]:
    """Results of so many trials, those of an earlier run included.

    Args:
        one: from the number of a trial and that of its lane to what came out.
        lanes: trials at the same time.
    """
    path = state / f"{name}.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    numbers = iter(range(len(done), count))
    lock = threading.Lock()

    def lane(own: int) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            started = time.monotonic()
            found = {**one(number, own), "seconds": time.monotonic() - started, "load": os.getloadavg()[0]}
            with lock:
                with path.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                done.append(found)

    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(lane, range(lanes)))
    return done


SHORT = ("--max-time", "600ms", "--precision-target", "2%", "--threads", "1")


@pytest.mark.timeout(3 * 3600)
def test_false_alarms_of_200_real_comparisons_of_equals_on_a_busy_machine(
    state: Path, frozen: Path, busy: None
) -> None:
    """With old and new in turn, and by turns against a file of stored numbers, whose environment is not run.

    A comparison on each processor at the same time, so that each is what disturbs the other.
    """
    cpus = sorted(os.sched_getaffinity(0))[:2]
    begun: Counter[int] = Counter()

    def one(number: int, lane: int) -> dict[str, Any]:
        home, elsewhere = state / f"home-aa-{lane}", state / f"elsewhere-{lane}.json"
        own = (frozen / "short.onnx", *SHORT, "--affinity", cpus[lane])
        if begun[lane] % 10 == 0:
            bench(frozen, home, "old", *own, "--save-as", "main")
            shutil.copy(home / "baselines" / "main.json", elsewhere)
        begun[lane] += 1
        gate = ("--baseline", "main" if begun[lane] % 2 else elsewhere, "--fail-on-regression", "3%")
        (cell,) = bench(frozen, home, "same", *own, *gate)["comparisons"]
        return {name: cell[name] for name in ("verdict", "ratio", "ratio_interval", "p", "how", "confirmed")}

    done = trials(state, "aa", 200, one, len(cpus))
    alarms = sum(d["verdict"] == "slower" for d in done)
    undecided = sum(d["verdict"] == "undecided" for d in done)
    minutes = sum(d["seconds"] for d in done) / 60 / len(cpus)
    ways = sum(d["how"] == "interleaved" for d in done)
    load = statistics.median(d["load"] for d in done)
    print(
        f"\n{alarms} false alarms in {len(done)} comparisons of equals, {undecided} undecided, {ways} of them with old "
        f"and new in turn, {minutes:.0f} min, load {load:.1f}"
    )
    assert alarms <= 0.02 * len(done)
    assert minutes < 30


MODEL = ("--max-time", "6s", "--precision-target", "1%", "--seq", "16", "--threads", "1")


@pytest.mark.timeout(3 * 3600)
def test_slowdowns_of_5_percent_in_a_real_model_are_found(state: Path, frozen: Path) -> None:
    home = state / "home-slower"

    def one(number: int, lane: int) -> dict[str, Any]:
        if number % 5 == 0:
            bench(frozen, home, "old", "all-minilm", *MODEL, "--save-as", "main")
        gate = ("--baseline", "main", "--fail-on-regression", "3%")
        (cell,) = bench(frozen, home, "slower", "all-minilm", *MODEL, *gate)["comparisons"]
        return {name: cell[name] for name in ("verdict", "ratio", "ratio_interval", "p", "how", "confirmed")}

    done = trials(state, "slower", 20, one)
    found = sum(d["verdict"] == "slower" for d in done)
    print(f"\n{found} of {len(done)} slowdowns of 5 % found (threshold 3 %)")
    assert found >= 0.95 * len(done)
