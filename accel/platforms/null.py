"""A platform without hardware, for tests and as the smallest example of a plugin. `accel detect` does not list it."""

from __future__ import annotations

from accel.core.contracts import HardwarePlugin
from accel.core.types import Device, PlatformReport


class NullPlatform(HardwarePlugin):
    """One device that nothing runs on."""

    name = "null"
    priority = 0

    def detect_hardware(self) -> PlatformReport:
        return PlatformReport(self.name, True, "for tests", devices=(Device("null:0", self.name, "null", "none"),))


PLUGIN = NullPlatform
