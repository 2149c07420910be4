"""Times whole processes in turn, A B A B ..., so that drift of the machine meets both alike."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
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
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).parent / "launch.py")]
    with tempfile.NamedTemporaryFile() as file:
        done = subprocess.run(
            [*launcher, file.name, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        found = json.load(file)
    figures.output = done.stdout
    figures.wall_s.append(found["wall_s"])
    figures.memory_bytes.append(found["memory_bytes"])
    assert found["code"] == 0, f"{command} ended with {found['code']}"


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
