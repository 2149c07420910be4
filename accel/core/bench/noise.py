"""What disturbed a measurement: sampled from the system before and after each stretch of it, and judged at the end.

Linux tells most of it; elsewhere the verdict rests on the samples alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from accel.core.probe import listing, properties, read_int, read_text

Level = Literal["clean", "noisy", "unusable"]
#: shares and rates from which a disturbance is named; below them it is everyday life of a quiet machine
STEAL = 0.01
WAITED = 0.02
OTHERS = 0.10
THROTTLED = 0.005
FREQUENCY = 0.03
#: pages per second
SWAPPED = 10.0
#: share of outliers from which a series counts as noisy: a normal distribution has 0.05 % of them
OUTLIERS = 0.10
#: half-width of the median's interval above which a number decides nothing, and shares that make it so too
UNUSABLE = 0.10
UNUSABLE_WAIT = 0.30


@dataclass(frozen=True)
class Snapshot:
    """Counters of the system and of one process at one moment; None where the system does not tell.

    Attributes:
        at: seconds of a clock that never goes back.
        steal_s, busy_s: time of all CPUs taken by the hypervisor, and spent on any work.
        ran_s, waited_s: time the process's threads ran, and waited for a CPU although they could have run.
        swapped: pages swapped in or out by anybody; faults: pages the process had to wait for from a disk.
        throttled_s: time the control group's CPU quota stopped it.
        hot: times a core was slowed down for its temperature.
        frequency: mean clock of the CPUs in Hz.
    """

    at: float
    steal_s: float | None = None
    busy_s: float | None = None
    ran_s: float | None = None
    waited_s: float | None = None
    swapped: int | None = None
    faults: int | None = None
    throttled_s: float | None = None
    hot: int | None = None
    frequency: float | None = None


def snapshot(pid: int, root: str = "") -> Snapshot:
    """The counters now. About a tenth of a millisecond; taken outside the measured stretch."""
    steal, busy = _cpu_times(root)
    ran, waited = _scheduled(pid, root)
    memory = properties(read_text(f"{root}/proc/vmstat"))
    swapped = [int(memory[key]) for key in ("pswpin", "pswpout") if memory.get(key, "").isdigit()]
    return Snapshot(
        at=time.monotonic(),
        steal_s=steal,
        busy_s=busy,
        ran_s=ran,
        waited_s=waited,
        swapped=sum(swapped) if swapped else None,
        faults=_major_faults(pid, root),
        throttled_s=_throttled(root),
        hot=_sum_over_cpus("thermal_throttle/core_throttle_count", root),
        frequency=_frequency(root),
    )


def _cpu_times(root: str) -> tuple[float | None, float | None]:
    fields = read_text(f"{root}/proc/stat", 4096).partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None, None
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, irq, soft, steal = (int(field) / tick for field in fields[1:9])
    return steal, user + nice + system + irq + soft


def _scheduled(pid: int, root: str) -> tuple[float | None, float | None]:
    ran = waited = 0
    found = False
    for thread in listing(f"{root}/proc/{pid}/task"):
        fields = read_text(f"{root}/proc/{pid}/task/{thread}/schedstat", 128).split()
        if len(fields) >= 2:
            found = True
            ran += int(fields[0])
            waited += int(fields[1])
    return (ran / 1e9, waited / 1e9) if found else (None, None)


def _major_faults(pid: int, root: str) -> int | None:
    # the name of a process may hold spaces and brackets
    fields = read_text(f"{root}/proc/{pid}/stat", 4096).rpartition(")")[2].split()
    return int(fields[9]) if len(fields) > 9 else None


def _throttled(root: str) -> float | None:
    for path, key, unit in (("cpu.stat", "throttled_usec", 1e6), ("cpu/cpu.stat", "throttled_time", 1e9)):
        value = properties(read_text(f"{root}/sys/fs/cgroup/{path}", 4096)).get(key, "")
        if value.isdigit():
            return int(value) / unit
    return None


def _sum_over_cpus(name: str, root: str) -> int | None:
    base = f"{root}/sys/devices/system/cpu"
    found = [read_int(f"{base}/{cpu}/{name}") for cpu in listing(base) if cpu.startswith("cpu") and cpu[3:].isdigit()]
    known = [value for value in found if value is not None]
    return sum(known) if known else None


def _frequency(root: str) -> float | None:
    base = f"{root}/sys/devices/system/cpu/cpufreq"
    found = [read_int(f"{base}/{policy}/scaling_cur_freq") for policy in listing(base) if policy.startswith("policy")]
    known = [value for value in found if value]
    return 1000.0 * sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Disturbance:
    """What happened around a measurement, as shares of its time; None where the system does not tell.

    Attributes:
        seconds: measured time that it covers.
        steal, throttled: shares of that time. others: share of all CPUs that other processes used.
        waited: share of the time its threads could have run in which they had to wait for a CPU.
        swapped, faults, hot: counts. frequency_change: largest change of the mean clock, as a share of it.
    """

    seconds: float = 0.0
    steal: float | None = None
    waited: float | None = None
    others: float | None = None
    throttled: float | None = None
    swapped: int | None = None
    faults: int | None = None
    hot: int | None = None
    frequency_change: float | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON object of everything that is known."""
        return {key: value for key, value in self.__dict__.items() if value is not None}


def disturbance(stretches: Sequence[tuple[Snapshot, Snapshot]], cpus: int | None = None) -> Disturbance:
    """Joins the snapshots before and after each stretch of a measurement."""
    count = cpus or os.cpu_count() or 1
    seconds = sum(after.at - before.at for before, after in stretches)
    if seconds <= 0.0:
        return Disturbance()

    def grown(name: str) -> float | None:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in stretches]
        # a thread that ended takes its counters with it, and a counter may wrap
        steps = [max(0.0, after - before) for before, after in pairs if before is not None and after is not None]
        return sum(steps) if steps else None

    def share(name: str, of: float = 1.0) -> float | None:
        value = grown(name)
        return None if value is None else value / seconds / of

    def number(name: str) -> int | None:
        value = grown(name)
        return None if value is None else round(value)

    busy, ran, waited = grown("busy_s"), grown("ran_s"), grown("waited_s")
    others = None if busy is None or ran is None else max(0.0, busy - ran) / seconds / count
    clocks = [s.frequency for pair in stretches for s in pair if s.frequency]
    return Disturbance(
        seconds=seconds,
        steal=share("steal_s", count),
        waited=waited / (ran + waited) if waited is not None and ran is not None and ran + waited > 0 else None,
        others=others,
        throttled=share("throttled_s"),
        swapped=number("swapped"),
        faults=number("faults"),
        hot=number("hot"),
        frequency_change=(max(clocks) - min(clocks)) / max(clocks) if clocks else None,
    )


@dataclass(frozen=True)
class Verdict:
    """How far a measurement can be trusted, and what most likely disturbed it (nothing where it is clean)."""

    level: Level
    causes: tuple[str, ...] = ()


def causes(found: Disturbance) -> list[str]:
    """What the system says disturbed the measurement, the most telling first."""
    named = []

    def above(value: float | None, limit: float, text: str) -> None:
        if value is not None and value > limit:
            named.append(text)

    above(found.throttled, THROTTLED, f"the CPU quota stopped it for {_percent(found.throttled)} of the time")
    above(found.steal, STEAL, f"the hypervisor took {_percent(found.steal)} of the CPUs' time (steal)")
    above(found.hot, 0, f"a core was slowed down {found.hot} times for its temperature")
    rate = None if found.swapped is None or not found.seconds else found.swapped / found.seconds
    above(rate, SWAPPED, f"the machine swapped ({found.swapped} pages)")
    above(found.waited, WAITED, f"its threads waited for a CPU for {_percent(found.waited)} of the time (other load)")
    if not named:
        above(found.others, OTHERS, f"other processes used {_percent(found.others)} of the CPUs")
    above(found.frequency_change, FREQUENCY, f"the clock changed by {_percent(found.frequency_change)}")
    return named


def _percent(value: float | None) -> str:
    return f"{100 * (value or 0.0):.0f} %" if (value or 0.0) >= 0.095 else f"{100 * (value or 0.0):.1f} %"


def judge(halfwidth: float | None, target: float, steady: str, outlier_share: float, found: Disturbance) -> Verdict:
    """The verdict on a measurement.

    Args:
        halfwidth: of the median's interval, as a share of it; None where it has no bounds.
        target: what the half-width was to reach.
        steady: why no steady state was reached; empty where one was.
        outlier_share: samples marked as outliers, as a share.
    """
    named = causes(found)
    if halfwidth is None or halfwidth > UNUSABLE or (found.waited or 0.0) > UNUSABLE_WAIT:
        wide = "too few samples to bound the median" if halfwidth is None else ""
        if halfwidth is not None and halfwidth > UNUSABLE:
            wide = f"the median is known to {_percent(halfwidth)} only"
        return Verdict("unusable", tuple(filter(None, [wide, steady, *named])))
    reasons = [steady] if steady else []
    if halfwidth > target:
        reasons.append(f"the median is known to {_percent(halfwidth)}, not to {_percent(target)}")
    if outlier_share > OUTLIERS:
        reasons.append(f"{_percent(outlier_share)} of the runs are outliers")
    serious = [n for n in named if not n.startswith("other processes")]
    if reasons or serious:
        return Verdict("noisy", (*reasons, *named))
    return Verdict("clean")


def die_first() -> None:
    """Has Linux end this process first when memory runs out, so that a cell dies and not the sweep."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
