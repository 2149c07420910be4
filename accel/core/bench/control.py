"""A fixed piece of work that says how fast the machine is right now, measured among the cells of a comparison.

When a baseline can only be compared as stored numbers, a machine that is slower today would look like slower software.
The control is slower then too, and the threshold is raised by as much.
"""

from __future__ import annotations

from typing import Any

from accel.core.bench.cells import Cell
from accel.core.bench.registry import BenchmarkBase, BenchmarkRegistry

NAME = "control"


@BenchmarkRegistry.register(name=NAME, category="control", hardware=["cpu"])
class Control(BenchmarkBase):
    """Arithmetic, a pass over memory and some Python, on one thread: about a millisecond."""

    def setup(self) -> None:
        """Makes the numbers."""
        import numpy as np

        random = np.random.default_rng(0)
        self._few: Any = random.standard_normal(20_000)
        self._many: Any = random.standard_normal(500_000)

    def execute(self) -> None:
        """One round."""
        values = self._few
        for _ in range(4):
            values = values * values * 0.25 + 0.5
        self._many.sum()
        sum(range(5_000))


def cell() -> Cell:
    """The cell of the control."""
    return Cell("", "", "cpu", "cpu:0", "", "", benchmark=NAME)
