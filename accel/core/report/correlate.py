"""Which quantities go together: rank correlations over the last results of every cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accel.core.bench.distributions import student_cdf
from accel.core.bench.ratios import holm
from accel.core.report.cells import Cell

METHOD = "Spearman's rank correlation (1904), p-values by Student's t, corrected for their number (Holm 1979)"
#: pairs of values that a correlation needs
LEAST = 5


def _of(name: str) -> Callable[[Cell], float | None]:
    return lambda cell: getattr(cell, name)


def _in_metadata(name: str) -> Callable[[Cell], float | None]:
    return lambda cell: cell.metadata.get(name)


def _warmup(cell: Cell) -> float | None:
    runs = (cell.metadata.get("steady") or {}).get("warmup_runs")
    return max(runs) if runs else None


#: what is correlated, by name
QUANTITIES: dict[str, Callable[[Cell], float | None]] = {
    "latency_ms": _of("latency_ms"),
    "throughput": _of("throughput"),
    "memory_bytes": _of("memory_bytes"),
    "cosine": _of("cosine"),
    "batch": _of("batch"),
    "length": _of("length"),
    "threads": _of("threads"),
    "energy_j": _in_metadata("energy_j"),
    "gflops_per_s": _in_metadata("gflops_per_s"),
    "deviation_ms": _in_metadata("deviation_ms"),
    "load_ms": lambda cell: (cell.metadata.get("phases") or {}).get("load_ms"),
    "first_ms": lambda cell: (cell.metadata.get("phases") or {}).get("first_ms"),
    "warmup_runs": _warmup,
}


@dataclass(frozen=True)
class Correlation:
    """Two quantities.

    Attributes:
        rho: -1 to 1. p: corrected for the number of pairs. count: results that have both.
    """

    a: str
    b: str
    rho: float
    p: float
    count: int

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        return dict(self.__dict__)


def correlate(cells: Sequence[Cell]) -> list[Correlation]:
    """Every pair of quantities that vary, the strongest first."""
    import numpy as np

    from accel.core.report.changes import ranks

    good = [cell for cell in cells if cell.status == "ok" and cell.latency_ms is not None]
    columns = {
        name: np.array([math.nan if (v := value(cell)) is None else float(v) for cell in good], dtype=np.float64)
        for name, value in QUANTITIES.items()
    }
    names = list(columns)
    found: list[tuple[str, str, float, float, int]] = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = np.isfinite(columns[a]) & np.isfinite(columns[b])
            x, y = columns[a][both], columns[b][both]
            if len(x) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
                continue
            rho = float(np.corrcoef(ranks(x), ranks(y))[0, 1])
            found.append((a, b, rho, _p(rho, len(x)), len(x)))
    corrected = holm([entry[3] for entry in found])
    made = [Correlation(a, b, rho, p, n) for (a, b, rho, _, n), p in zip(found, corrected, strict=True)]
    return sorted(made, key=lambda c: (-abs(c.rho), c.a, c.b))


def _p(rho: float, count: int) -> float:
    """Two-sided p-value of "they have nothing to do with each other"."""
    if abs(rho) >= 1.0:
        # the exact chance that so many ranks are in order, or in the opposite one
        return 2.0 / math.factorial(min(count, 20))
    t = abs(rho) * math.sqrt((count - 2) / (1.0 - rho * rho))
    return 2.0 * (1.0 - student_cdf(t, count - 2))
