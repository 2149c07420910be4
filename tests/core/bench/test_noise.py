"""Disturbances read from machines of many kinds, and the verdicts on them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel.core.bench import noise
from accel.core.bench.noise import Disturbance, Snapshot, causes, disturbance, judge


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine whose counters a test may turn."""
    write(tmp_path, "proc/stat", "cpu  1000 0 500 9000 10 0 0 40 0 0\ncpu0 1000 0 500 9000 10 0 0 40 0 0\n")
    write(tmp_path, "proc/vmstat", "nr_free_pages 1\npswpin 5\npswpout 7\n")
    write(tmp_path, "proc/77/stat", "77 (a) b) S 1 1 1 0 0 0 3 4 12 6 100 50 0 0\n")
    write(tmp_path, "proc/77/task/77/schedstat", "1000000000 20000000 5\n")
    write(tmp_path, "proc/77/task/78/schedstat", "500000000 10000000 5\n")
    write(tmp_path, "sys/fs/cgroup/cpu.stat", "usage_usec 9\nthrottled_usec 250000\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "3\n")
    write(tmp_path, "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "4\n")
    write(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "2000000\n")
    return tmp_path


def test_every_counter_is_read(machine: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    found = noise.snapshot(77, str(machine))
    assert found.steal_s == 40 / tick and found.busy_s == 1500 / tick
    assert (found.ran_s, found.waited_s) == (1.5, 0.03)
    assert (found.swapped, found.faults, found.hot) == (12, 12, 7)
    assert (found.throttled_s, found.frequency) == (0.25, 2e9)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = noise.snapshot(77, str(tmp_path))
    told = {name for name, value in found.__dict__.items() if value is not None}
    assert told == {"at"}
    assert disturbance([(found, Snapshot(found.at + 1))]).as_json() == {"seconds": 1.0}
    assert causes(Disturbance(1.0)) == []


def test_shares_of_several_stretches() -> None:
    stretches = [
        (Snapshot(0.0, 0.0, 0.0, 0.0, 0.0, 0), Snapshot(1.0, 0.02, 3.0, 1.0, 0.5, 10)),
        (Snapshot(5.0, 9.0, 9.0, 1.0, 0.5, 90), Snapshot(6.0, 9.02, 12.0, 2.0, 1.0, 95)),
    ]
    found = disturbance(stretches, cpus=4)
    assert found.seconds == 2.0 and found.swapped == 15
    assert found.steal == pytest.approx(0.005) and found.waited == pytest.approx(1 / 3)
    assert found.others == pytest.approx((6 - 2) / 2 / 4)


def test_a_counter_that_goes_back_is_no_disturbance() -> None:
    found = disturbance([(Snapshot(0.0, swapped=100), Snapshot(1.0, swapped=3))])
    assert found.swapped == 0
    assert disturbance([(Snapshot(1.0), Snapshot(1.0))]) == Disturbance()


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (Disturbance(1.0, steal=0.05), "steal"),
        (Disturbance(1.0, waited=0.2), "other load"),
        (Disturbance(1.0, throttled=0.1), "CPU quota"),
        (Disturbance(1.0, swapped=5000), "swapped"),
        (Disturbance(1.0, hot=2), "temperature"),
        (Disturbance(1.0, frequency_change=0.2), "clock"),
        (Disturbance(1.0, others=0.5), "other processes"),
    ],
)
def test_each_disturbance_has_a_name(found: Disturbance, word: str) -> None:
    (cause,) = causes(found)
    assert word in cause


def test_verdicts() -> None:
    quiet = Disturbance(1.0, steal=0.0, waited=0.001, others=0.3)
    assert judge(0.005, 0.01, "", 0.01, quiet).level == "clean"
    assert judge(0.03, 0.01, "", 0.01, quiet).level == "noisy"
    assert judge(0.005, 0.01, "it drifts", 0.01, quiet).causes[0] == "it drifts"
    assert judge(0.005, 0.01, "", 0.3, quiet).level == "noisy"
    assert judge(0.005, 0.01, "", 0.0, Disturbance(1.0, steal=0.1)).level == "noisy"
    assert judge(0.5, 0.01, "", 0.0, quiet).level == "unusable"
    assert judge(None, 0.01, "", 0.0, quiet).causes[0] == "too few samples to bound the median"
    assert judge(0.005, 0.01, "", 0.0, Disturbance(1.0, waited=0.5)).level == "unusable"


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel keeps no schedstat")
def test_real_contention_is_seen() -> None:
    spin = "while True: pass"
    cpu = min(os.sched_getaffinity(0))
    children = [subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", spin]) for _ in range(2)]
    try:
        time.sleep(0.3)
        before = noise.snapshot(children[0].pid)
        time.sleep(0.6)
        after = noise.snapshot(children[0].pid)
    finally:
        for child in children:
            child.kill()
            child.wait()
    found = disturbance([(before, after)])
    assert found.waited is not None and found.waited > 0.25
    assert "other load" in causes(found)[0] or "steal" in causes(found)[0]
