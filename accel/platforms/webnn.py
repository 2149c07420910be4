"""Browsers that offer WebNN. They are looked for and not started, so what their GPU can do is not known yet."""

from __future__ import annotations

from accel.core.browsers import VENDORS, Browser, chosen, find
from accel.core.contracts import HardwarePlugin
from accel.core.types import Device, PlatformReport

KINDS = ("chromium", "chrome", "edge")


class WebNnPlatform(HardwarePlugin):
    """Detection only: nothing here runs models in a browser yet, so no device has an engine."""

    name = "webnn"
    priority = 65

    def __init__(self, browsers: list[Browser] | None = None) -> None:
        self.browsers = browsers

    def detect_hardware(self) -> PlatformReport:
        wanted = chosen() if self.browsers is None else None
        browsers = find(wanted=wanted) if self.browsers is None else self.browsers
        fit = [browser for browser in browsers if browser.kind in KINDS]
        if not fit and wanted:
            reason = f"not installed: hardware.browser is {wanted!r}, which is no browser here that offers WebNN"
            return PlatformReport(self.name, False, reason, "correct hardware.browser, or unset it to look for one")
        if not fit:
            return PlatformReport(
                self.name, False, "not installed: no browser that offers WebNN", "install Chromium, Chrome or Edge"
            )
        devices = tuple(
            Device(
                id=f"{self.name}:{browser.kind}",
                platform=self.name,
                name=f"{browser.kind.capitalize()} ({browser.path})",
                vendor=VENDORS[browser.kind],
                driver=browser.version,
            )
            for browser in fit
        )
        reason = "found by its files, not started; running models in a browser is not built in yet"
        return PlatformReport(self.name, True, reason, devices=devices)


PLUGIN = WebNnPlatform
