"""Energy and device memory, where the machine tells: RAPL for the processor, NVML for NVIDIA cards.

Both meters count everything that runs, not this cell alone, so on a busy machine they say too much.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from accel.core.probe import listing, read_int, read_text

NO_RAPL = "the processor's energy counter (RAPL) is not here, or only root may read it"
NO_CARD = "the driver tells no energy for this device"


@dataclass(frozen=True)
class Reading:
    """Joules that each counter of a meter has counted so far, and where each wraps round (None: it does not)."""

    joules: tuple[float, ...]
    wraps: tuple[float | None, ...]


class Meter:
    """The energy meter of a device.

    Args:
        device: `cpu:0`, `cuda:1`, ...
    """

    def __init__(self, device: str, root: str = "") -> None:
        self._root = root
        self.handle: Any = None
        self._zones: list[str] = []
        platform = device.partition(":")[0]
        if platform == "cuda":
            self.handle = card(device)
            self.missing = "" if self._card_energy() is not None else NO_CARD
        elif platform == "cpu" or device.startswith("openvino:CPU"):
            self._zones = _packages(root)
            self.missing = "" if self._zones else NO_RAPL
        else:
            self.missing = NO_CARD

    def read(self) -> Reading | None:
        """The counter now, or None where it cannot be read."""
        if self.handle is not None:
            joules = self._card_energy()
            return None if joules is None else Reading((joules,), (None,))
        values = [read_int(f"{zone}/energy_uj") for zone in self._zones]
        known = [value / 1e6 for value in values if value is not None]
        if not known or len(known) != len(values):
            return None
        ranges = [read_int(f"{zone}/max_energy_range_uj") for zone in self._zones]
        return Reading(tuple(known), tuple(limit / 1e6 if limit else None for limit in ranges))

    def _card_energy(self) -> float | None:
        if self.handle is None:
            return None
        try:
            import pynvml

            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3
        except Exception:  # NVMLError has a class per code, and cards before Volta have no such counter
            return None


def used(before: Reading | None, after: Reading | None) -> float | None:
    """Joules between two readings, or None where they tell nothing."""
    if before is None or after is None or len(before.joules) != len(after.joules):
        return None
    total = 0.0
    for start, end, wrap in zip(before.joules, after.joules, after.wraps, strict=True):
        if end < start and wrap is None:
            return None
        total += end - start + (wrap or 0.0) * (end < start)
    return total if total >= 0.0 else None


def _packages(root: str) -> list[str]:
    """Readable RAPL zones of whole processor packages (`psys` and subzones would count the same energy twice)."""
    base = f"{root}/sys/class/powercap"
    zones = [f"{base}/{name}" for name in listing(base) if name.startswith("intel-rapl:") and name.count(":") == 1]
    return [
        zone
        for zone in zones
        if read_text(f"{zone}/name", 64).startswith("package") and read_int(f"{zone}/energy_uj") is not None
    ]


def card(device: str) -> Any:
    """NVML's handle of `cuda:N` as CUDA numbers it under `CUDA_VISIBLE_DEVICES`, or None."""
    from accel.core.visible import visible

    number = device.partition(":")[2]
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        chosen = visible(os.environ.get("CUDA_VISIBLE_DEVICES"), [(uuid,) for uuid in uuids])
        return handles[chosen[int(number or 0)]]
    except Exception:  # no library, no driver, no such card: each with an error of its own
        return None


def card_memory(handle: Any, pid: int) -> int | None:
    """Bytes that a process holds on a card, or None: in a container the driver may know it by another number."""
    if handle is None:
        return None
    try:
        import pynvml

        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
    except Exception:  # as in `card`
        return None
    return None
