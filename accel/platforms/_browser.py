"""What WebGPU and WebNN have in common: their devices are browsers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from accel.core.browser import probing
from accel.core.browser.finding import VENDORS, Browser, chosen, find
from accel.core.contracts import HardwarePlugin
from accel.core.types import Device, PlatformReport


class BrowserPlatform(HardwarePlugin):
    """A platform that lives in browsers.

    Args:
        browsers: those that there are; None looks for them.
    """

    #: how people write it
    title: ClassVar[str]
    #: browsers that can have it
    kinds: ClassVar[tuple[str, ...]]
    #: what to install where there is none
    install: ClassVar[str]
    deep_time_limit = probing.START_S + probing.ANSWER_S + 20

    def __init__(self, browsers: Sequence[Browser] | None = None) -> None:
        self.browsers = browsers

    @abstractmethod
    def describe(self, found: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        """Name and features of what a browser offers, from what `probing.look` found."""

    def detect_hardware(self) -> PlatformReport:
        """Browsers by their files; what an earlier `detect --deep` saw in them counts until they change."""
        return self._report(lambda browser: probing.known(browser, self.name))

    def detect_deep(self) -> PlatformReport:
        """Opens every browser, at the same time, and really executes something."""

        def look(browser: Browser) -> dict[str, Any]:
            return probing.look(browser, self.name)

        with ThreadPoolExecutor(4) as threads:
            fit = self._fit()
            found = dict(zip((b.path for b in fit), threads.map(look, fit), strict=True))
        return self._report(lambda browser: found[browser.path])

    def _fit(self) -> list[Browser]:
        browsers = find(wanted=chosen()) if self.browsers is None else self.browsers
        return [browser for browser in browsers if browser.kind in self.kinds]

    def _report(self, known: Callable[[Browser], dict[str, Any] | None]) -> PlatformReport:
        fit = self._fit()
        wanted = chosen() if self.browsers is None else None
        if not fit and wanted:
            reason = f"not installed: hardware.browser is {wanted!r}, which is no browser here that offers {self.title}"
            return PlatformReport(self.name, False, reason, "correct hardware.browser, or unset it to look for one")
        if not fit:
            return PlatformReport(self.name, False, f"not installed: no browser that offers {self.title}", self.install)
        seen = [(browser, known(browser)) for browser in fit]
        devices = tuple(self._device(b, found) for b, found in seen if found is None or found["present"])
        without = [f"{b.kind} ({b.path}): {found['reason']}" for b, found in seen if found and not found["present"]]
        if not devices:
            fix = f"{self.install} with {self.title}, or set hardware.browser to one"
            return PlatformReport(self.name, False, f"no browser here offers it: {'; '.join(without)}", fix)
        reasons = ["found by its files; accel detect --deep opens it"] if any(f is None for _, f in seen) else []
        reasons += ["opened, and it executes"] if any(f and f["present"] for _, f in seen) else []
        return PlatformReport(self.name, True, "; ".join([*reasons, *without]), devices=devices)

    def _device(self, browser: Browser, found: dict[str, Any] | None) -> Device:
        where = f"{browser.kind.capitalize()} ({browser.path})"
        said, features = self.describe(found) if found else ("", ("unproven",))
        return Device(
            id=f"{self.name}:{browser.kind}",
            platform=self.name,
            name=f"{where}: {said}" if said else where,
            vendor=VENDORS[browser.kind],
            features=features,
            precisions={"fast": [], "possible": ["fp32"]},
            driver=browser.version or (found or {}).get("version"),
        )
