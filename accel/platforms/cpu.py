"""The CPU of this machine, as much of it as this process may use."""

from __future__ import annotations

import os

from accel.core.contracts import HardwarePlugin
from accel.core.cpu import describe, memory, precisions
from accel.core.types import Device, PlatformReport


class CpuPlatform(HardwarePlugin):
    """Always present, always last where there is no evidence."""

    name = "cpu"
    priority = 50

    def __init__(self, root: str = "") -> None:
        self.root = root

    def detect_hardware(self) -> PlatformReport:
        cpu = describe(self.root)
        room = memory(self.root)
        device = Device(
            id="cpu:0",
            platform=self.name,
            name=cpu.name,
            vendor=cpu.vendor,
            memory_total_bytes=room.total_bytes,
            memory_free_bytes=room.free_bytes,
            cores=cpu.cores,
            threads=cpu.threads,
            features=cpu.features,
            precisions=precisions(cpu.features),
        )
        there = os.cpu_count() or cpu.threads
        reason = f"{cpu.threads} of {there} hardware threads may be used"
        return PlatformReport(self.name, True, reason, devices=(device,))


PLUGIN = CpuPlatform
