"""What a browser really offers: it is opened once, and what it says is kept until the browser changes."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any

from accel.core.browser.finding import Browser
from accel.core.errors import AccelError
from accel.core.locks import holding
from accel.core.paths import home, write_atomic
from accel.core.probe import read_text

#: seconds that a browser may take to start, and to answer
START_S, ANSWER_S = 25.0, 15.0
_FILE = "browsers.json"
#: raised when the meaning of what is kept changes
_VERSION = 1
#: vendors and architectures of adapters that are programs
_SOFTWARE = ("swiftshader", "llvmpipe", "lavapipe", "software", "basic render", "warp")


def known_browsers() -> int:
    """Changes whenever what is known of browsers does."""
    try:
        return os.stat(f"{home()}/{_FILE}").st_mtime_ns  # noqa: PTH116 - called at every start
    except OSError:
        return 0


def _key(browser: Browser, platform: str) -> str:
    try:
        stat = os.stat(os.path.realpath(browser.path))  # noqa: PTH116
    except OSError:
        return ""
    return f"{_VERSION}|{platform}|{browser.path}|{stat.st_size}|{stat.st_mtime_ns}"


def _kept() -> dict[str, Any]:
    try:
        data = json.loads(read_text(f"{home()}/{_FILE}", 1 << 22) or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def known(browser: Browser, platform: str) -> dict[str, Any] | None:
    """What an earlier `look` at this very program found, or None."""
    found = _kept().get(_key(browser, platform))
    return found if isinstance(found, dict) else None


def look(browser: Browser, platform: str) -> dict[str, Any]:
    """Opens the browser and asks what it offers: `accel/data/web/probe.js` has the keys; `present` and `reason` always.

    A browser that does not start, crashes or hangs is an answer too, which is not kept.
    """
    from accel.core.browser.control import BrowserLost
    from accel.core.browser.pages import Page, PageError

    try:
        page = Page(browser, platform, timeout=START_S)
        try:
            found, _ = page.call("probe", what=platform, timeout=ANSWER_S)
        finally:
            page.close()
    except (BrowserLost, PageError, AccelError) as error:
        return {"present": False, "reason": str(error), "failed": True}
    found.pop("id", None)
    found["version"] = version(str(found.get("agent", "")))
    if platform == "webgpu" and found["present"]:
        found["software"] = is_software(found)
    remember(browser, platform, found)
    return found


def remember(browser: Browser, platform: str, found: dict[str, Any]) -> None:
    """Keeps what was found; a home folder that cannot be written costs the memory, not the answer."""
    with contextlib.suppress(AccelError, OSError), holding(home() / "browsers.lock", 5.0):
        data = _kept()
        data[_key(browser, platform)] = found
        write_atomic(home() / _FILE, json.dumps(dict(list(data.items())[-32:])).encode(), durable=False)


def version(agent: str) -> str | None:
    """A browser's version from how it names itself."""
    found = re.search(r"(?:Chrome|Edg|Firefox)/([\d.]+)", agent)
    return found[1] if found else None


def is_software(adapter: dict[str, Any]) -> bool:
    """Whether a WebGPU adapter is a program that runs on the processor."""
    said = " ".join(str(adapter.get(k) or "") for k in ("vendor", "architecture", "device", "description")).lower()
    return bool(adapter.get("fallback")) or any(word in said for word in _SOFTWARE)
