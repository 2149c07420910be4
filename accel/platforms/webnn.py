"""Browsers that offer WebNN."""

from __future__ import annotations

from typing import Any

from accel.platforms._browser import BrowserPlatform


class WebNnPlatform(BrowserPlatform):
    """Neural accelerators through a browser, or the library on the processor that stands in for them."""

    name = "webnn"
    priority = 65
    title = "WebNN"
    kinds = ("chromium", "chrome", "edge")
    install = "install Chromium, Chrome or Edge"

    def describe(self, found: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        """See `BrowserPlatform.describe`. A type counts when what it built says that it runs there."""
        types = found["types"]
        true = [name for name, fact in types.items() if fact["executes"] and name in (fact["devices"] or ())]
        lent = [
            f"{name} runs on the {'/'.join(fact['devices'])}"
            for name, fact in types.items()
            if fact["executes"] and fact["devices"] and name not in fact["devices"]
        ]
        said = (
            "executes on " + " and ".join(f"the {name}" for name in true) if true else "does not say where it executes"
        )
        hardware = [name for name in true if name != "cpu"]
        return ", but ".join([said, *([" and ".join(lent)] if lent else [])]), (
            *true,
            *([] if hardware else ["software"]),
        )


PLUGIN = WebNnPlatform
