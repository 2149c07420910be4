"""Whether people see the page: in a window of a browser of this machine, or in a browser of their own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from accel.core.browser.control import BrowserLost
from accel.core.browser.finding import Browser
from accel.core.errors import InputError

Mode = Literal["", "show", "wait"]
#: the browser of whoever opens the address
VISITOR = Browser("visitor", "", None)
#: seconds that a person may take to open the address
VISIT_S = 3600.0


@dataclass
class Audience:
    """Process-wide, since one command has one audience.

    Attributes:
        mode: "" for nobody, `show` for a window, `wait` for a browser that somebody opens.
        announce: called with a line for the person.
    """

    mode: Mode = ""
    announce: Callable[[str], None] = lambda _: None


current = Audience()


def invite(mode: Mode, announce: Callable[[str], None]) -> None:
    """Pages from now on are for people.

    Raises:
        InputError: a window is wanted where there is no display.
    """
    if mode == "show" and not has_display():
        raise InputError(
            "--show opens a window, and there is no display here",
            "--wait-for-browser, and open the address that it prints (a forwarded port will do)",
        )
    current.mode, current.announce = mode, announce


def has_display() -> bool:
    """Whether a window can be opened."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def tell(**facts: Any) -> None:
    """Shows something on every open page (`model`, `state`, `facts`, `output`). A page that is gone misses it."""
    if not current.mode:
        return
    from accel.core.browser import pool

    for page in pool.pages():
        with contextlib.suppress(BrowserLost):
            page.call("tell", timeout=10, **facts)


def linger() -> None:
    """Leaves a window open until it is closed, or until Ctrl-C; a visitor keeps the page anyway."""
    from accel.core.browser import pool

    if current.mode != "show":
        return
    current.announce("close the window, or press Ctrl-C, to end")
    for page in pool.pages():
        with contextlib.suppress(BrowserLost, KeyboardInterrupt):
            page.wait()
