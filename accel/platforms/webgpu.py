"""Browsers that offer WebGPU."""

from __future__ import annotations

from typing import Any

from accel.platforms._browser import BrowserPlatform


class WebGpuPlatform(BrowserPlatform):
    """The graphics processor through a browser, or the software renderer that stands in for it."""

    name = "webgpu"
    priority = 70
    title = "WebGPU"
    kinds = ("chromium", "chrome", "edge", "firefox")
    install = "install Chromium, Chrome, Edge or Firefox"

    def describe(self, found: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        """See `BrowserPlatform.describe`."""
        words = [str(found[key]) for key in ("vendor", "architecture", "device", "description") if found.get(key)]
        name = " ".join(words) or "an adapter that does not say what it is"
        buffer = int(found["limits"].get("maxStorageBufferBindingSize") or 0)
        size = f", buffers up to {buffer >> 20} MB" if buffer else ""
        useful = tuple(f for f in ("shader-f16", "subgroups", "timestamp-query") if f in found["features"])
        if found["software"]:
            return f"{name}, a software renderer{size}", ("software", *useful)
        return f"{name}{size}", useful


PLUGIN = WebGpuPlatform
