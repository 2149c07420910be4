"""What a million inferences cost at the prices of the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from accel.core.report.cells import Cell

HOUR_S = 3600.0


def prices() -> dict[str, float]:
    """Price of an hour by device, platform or `all`, in whatever currency the user thinks in."""
    from accel.core import config

    return {name: float(price) for name, _, price in (entry.partition("=") for entry in config.get(KEY))}


KEY = "performance.price_per_hour"


def per_million(cell: Cell, known: Mapping[str, float]) -> float | None:
    """Price of a million inferences at the cell's throughput, the device being busy all the time.

    The most exact entry counts: the device, then its platform, then `all`. None where there is no price or no time.
    """
    price = next((known[name] for name in (cell.device, cell.hardware, "all") if name in known), None)
    if price is None or not cell.throughput:
        return None
    return price / HOUR_S * 1e6 / cell.throughput
