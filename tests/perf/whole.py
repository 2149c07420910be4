"""Times whole processes in turn, A B A B ..., so that drift of the machine meets both alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RIVALS = Path(__file__).parent / "rivals"


@dataclass
class Figures:
    """Wall times (seconds) and peak resident memory (bytes) of the runs of one command."""

    wall_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    output: str = ""

    @property
    def median_s(self) -> float:
        """Median wall time, seconds."""
        return statistics.median(self.wall_s)

    @property
    def median_bytes(self) -> float:
        """Median peak memory, bytes."""
        return statistics.median(self.memory_bytes)


def rival(name: str, *arguments: object) -> list[str]:
    """The command of a rival's script."""
    return [sys.executable, str(RIVALS / f"{name}.py"), *map(str, arguments)]


def measure(command: Sequence[str], environment: dict[str, str], figures: Figures) -> None:
    """Runs a command once and adds its figures."""
    read, write = os.pipe()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.DEVNULL
    )
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        figures.output = pipe.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    figures.wall_s.append(time.perf_counter() - started)
    figures.memory_bytes.append(usage.ru_maxrss * 1024)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"


def paired(
    ours: Sequence[str],
    theirs: Sequence[str],
    environment: dict[str, str],
    rounds: int,
    before: Callable[[], None] = lambda: None,
) -> tuple[Figures, Figures]:
    """Figures of two commands run in turn, after one uncounted run of each."""
    a, b = Figures(), Figures()
    for number in range(rounds + 1):
        for command, figures in ((ours, a), (theirs, b)):
            before()
            measure(command, environment, figures)
            if number == 0:
                figures.wall_s.clear()
                figures.memory_bytes.clear()
    return a, b
