"""Asks the platforms what this machine has: all at once, each within its own time limit, and none may end the scan."""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accel.core.errors import AccelError
from accel.core.probe import kept
from accel.core.registry import engine, names, platform
from accel.core.types import Device, PlatformReport

if TYPE_CHECKING:
    from accel.core.contracts import HardwarePlugin


def scan(
    names: Sequence[str], deep: bool = False, progress: Callable[[str], None] | None = None
) -> list[PlatformReport]:
    """Reports of the named platforms, in that order, with the engines that could run on each device.

    Args:
        names: platforms, such as `accel.core.types.PLATFORMS`.
        deep: measure every device that torch or OpenVINO can use, which takes some seconds each, and keep the figures.
            Without it the figures kept from an earlier time are given, if there are any.
        progress: takes one line before each measurement.

    Raises:
        InputError: nobody offers a platform of that name.
    """
    from accel.core import deep as measuring

    probes = [_Probe(platform(name), deep) for name in names]
    for probe in probes:
        probe.start()
    reports = [_with_engines(probe.report()) for probe in probes]
    devices = [device for report in reports for device in report.devices]
    figures = measuring.measure(devices, progress) if deep else measuring.kept(devices)
    return [_with_figures(report, figures) for report in reports]


@functools.cache
def engine_names() -> tuple[str, ...]:
    """Built-in engines and those of other packages; the scan of installed packages is kept until one changes."""
    folders = sorted({Path(path).absolute() for path in sys.path if Path(path).is_dir()})
    key = [(str(folder), folder.stat().st_mtime_ns) for folder in folders]
    return tuple(kept("engines", key, lambda: list(names("engines"))))


def engines_for(name: str) -> tuple[str, ...]:
    """Installed engines that can run on a platform, by name. Imports the engines' plugins, not their libraries."""
    found = []
    for candidate in engine_names():
        try:
            offer = engine(candidate)
            if name in offer.platforms and offer.missing_on(name) is None:
                found.append(candidate)
        except (AccelError, ImportError):
            continue  # an engine that cannot even be asked is not one that could execute
    return tuple(found)


def priority(name: str) -> int:
    """Where there is no evidence, the platform with the higher number goes first."""
    return platform(name).priority


class _Probe(threading.Thread):
    """One platform's probe. A thread that hangs is left behind: it ends with the process."""

    def __init__(self, plugin: HardwarePlugin, deep: bool) -> None:
        super().__init__(daemon=True, name=f"probe-{plugin.name}")
        self.plugin, self.deep = plugin, deep
        self.answer: PlatformReport | None = None
        self.began = time.monotonic()

    def run(self) -> None:
        name = self.plugin.name
        try:
            answer = self.plugin.detect_deep() if self.deep else self.plugin.detect_hardware()
        except AccelError as error:
            answer = PlatformReport(name, False, error.message, error.hint)
        except Exception as error:  # an odd machine or a plugin of a third party: the others still have to answer
            reason = f"its probe failed: {type(error).__name__}: {error}"
            answer = PlatformReport(
                name,
                False,
                reason[:300],
                "report this to whoever wrote the plugin; --hw with other names leaves it out",
            )
        self.answer = answer

    def report(self) -> PlatformReport:
        """The answer, or an absent platform once its time is over."""
        limit = self.plugin.deep_time_limit if self.deep else self.plugin.time_limit
        self.join(max(0.0, self.began + limit - time.monotonic()))
        if self.answer is None:
            reason = f"its probe did not answer within {limit:g} s"
            return PlatformReport(
                self.plugin.name, False, reason, "try again; a driver that hangs often needs a restart of the machine"
            )
        return self.answer


def _with_engines(report: PlatformReport) -> PlatformReport:
    if not report.devices:
        return report
    engines = engines_for(report.name)
    return _changed(report, [dataclasses.replace(device, engines=engines) for device in report.devices])


def _with_figures(report: PlatformReport, figures: dict[str, dict[str, object]]) -> PlatformReport:
    changed = [
        dataclasses.replace(device, measured=figures[device.id]) if device.id in figures else device
        for device in report.devices
    ]
    return _changed(report, changed)


def _changed(report: PlatformReport, devices: list[Device]) -> PlatformReport:
    return dataclasses.replace(report, devices=tuple(devices))
