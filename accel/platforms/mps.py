"""The GPU of an Apple-silicon Mac, through Metal Performance Shaders. Told from the system, without torch."""

from __future__ import annotations

import platform
import sys

from accel.core.contracts import HardwarePlugin
from accel.core.cpu import describe, memory
from accel.core.types import Device, PlatformReport


class MpsPlatform(HardwarePlugin):
    """Memory is the machine's own: an Apple GPU has none of its own."""

    name = "mps"
    priority = 85

    def __init__(self, system: str = sys.platform, machine: str = "", release: str = "") -> None:
        self.system = system
        self.machine = machine or platform.machine()
        self.release = release or (platform.mac_ver()[0] if system == "darwin" else "")

    def detect_hardware(self) -> PlatformReport:
        if self.system != "darwin":
            reason = f"wrong operating system: Metal is Apple's, and this is {self.system}"
            return PlatformReport(self.name, False, reason, "use a Mac with Apple silicon")
        if self.machine != "arm64":
            reason = f"no device: this Mac is {self.machine}, and torch uses Metal on Apple silicon only"
            return PlatformReport(self.name, False, reason, "use --hw cpu, or a Mac with Apple silicon")
        version = tuple(int(part) for part in self.release.split(".")[:2] if part.isdigit())
        if version < (14, 0):
            reason = f"driver too old: macOS {self.release or 'of unknown version'}, and torch needs 14.0 for Metal"
            return PlatformReport(self.name, False, reason, "update macOS to 14 or newer")
        room = memory()
        device = Device(
            id="mps:0",
            platform=self.name,
            name=f"{describe().name} GPU",
            vendor="Apple",
            memory_total_bytes=room.total_bytes,
            memory_free_bytes=room.free_bytes,
            features=("metal", "unified_memory"),
            precisions={"fast": ["fp32", "fp16", "bf16"], "possible": ["fp32", "fp16", "bf16"]},
            driver=f"macOS {self.release}",
        )
        return PlatformReport(self.name, True, "Apple silicon; it shares the machine's memory", devices=(device,))


PLUGIN = MpsPlatform
