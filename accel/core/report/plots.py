"""Numbers behind plots: counts, thinned series, and what they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accel.core.report.cells import Cell


def histogram(values: Sequence[float], bins: int) -> list[float]:
    """Counts of values between their 1 % and their 99 % quantile, in bins of the same width; empty without values.

    Values beyond the quantiles count to the outermost bins, so that one outlier does not squeeze the others.
    """
    import numpy as np

    if not len(values):
        return []
    series = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(series, [0.01, 0.99])
    if high <= low:
        return [float(len(series))]
    counts: Any = np.histogram(np.clip(series, low, high), bins, (low, high))[0]
    return [float(count) for count in counts]


def condensed(values: Sequence[float], width: int) -> list[float]:
    """A series as at most `width` medians of stretches of the same length, in order."""
    import statistics

    n = len(values)
    if n <= width:
        return list(values)
    return [statistics.median(values[i * n // width : (i + 1) * n // width]) for i in range(width)]


def thinned(values: Sequence[float], steps: int) -> list[float]:
    """The sorted values, or where they are more than `steps`, that many quantiles of them from least to largest."""
    import numpy as np

    if len(values) <= steps:
        return sorted(values)
    found: list[float] = np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0.0, 1.0, steps)).tolist()
    return found


def intensity(cell: Cell) -> float | None:
    """Operations per byte of one run, where only its weights are moved, once: the roofline's horizontal position.

    Williams, Waterman and Patterson 2009, Communications of the ACM 52. That is the least that has to be moved, so the
    true position may be farther left. The files' size stands for fp32 weights and is scaled to the precision.
    """
    rate, size = cell.metadata.get("gflops_per_s"), cell.metadata.get("weights_bytes")
    if not rate or not size or not cell.latency_ms:
        return None
    share = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5, "int8": 0.25}.get(cell.precision, 1.0)
    return float(rate * 1e6 * cell.latency_ms / (size * share))


def roofs(deep: Sequence[Cell]) -> list[dict[str, Any]]:
    """What `accel detect --deep` measured: `fingerprint`, `device`, `gflops` by precision and `gb_per_s` or None.

    A device without a bandwidth of its own that computes in the processor's memory has the processor's.
    """
    found: list[dict[str, Any]] = []
    for cell in deep:
        measured = cell.metadata.get("measured") or {}
        rates = {name: value for name, value in (measured.get("gflops") or {}).items() if value}
        if rates:
            found.append(
                {
                    "fingerprint": cell.fingerprint,
                    "device": cell.device,
                    "gflops": rates,
                    "gb_per_s": measured.get("copy_gb_per_s"),
                }
            )
    processors = {r["fingerprint"]: r["gb_per_s"] for r in found if r["device"].startswith("cpu")}
    for roof in found:
        if roof["gb_per_s"] is None and roof["device"].endswith(":CPU"):
            roof["gb_per_s"] = processors.get(roof["fingerprint"])
    return found
