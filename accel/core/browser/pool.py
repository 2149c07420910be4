"""Pages that are reused: within one process a model that opens next finds the browser running and its page warm."""

from __future__ import annotations

import atexit
from dataclasses import dataclass

from accel.core.browser import audience
from accel.core.browser.finding import Browser
from accel.core.browser.pages import Page
from accel.core.browser.runtime import FILES, folder, obtain

#: seconds that a fresh page may take to answer
ANSWER_S = 60.0


@dataclass(frozen=True)
class Kind:
    """What a page is started for; pages of one kind are interchangeable.

    Attributes:
        purpose: `webgpu`, `webnn` or `wasm`.
        threads: of WebAssembly.
    """

    browser: Browser
    purpose: str
    threads: int


_pages: dict[Kind, Page] = {}


def lease(kind: Kind) -> Page:
    """A page of this kind that has loaded onnxruntime-web, or is about to: the one that is there, or a new one.

    Raises:
        BrowserLost: the browser does not start or hangs.
        UnavailableError, TransferError: onnxruntime-web is not to be had.
    """
    page = _pages.get(kind)
    if page is not None:
        return page
    obtain()
    files = {f"ort/{name}": folder() / name for name in FILES}
    if not _pages:
        atexit.register(close)
    page = Page(kind.browser, kind.purpose, files)
    try:
        build = "wasm" if kind.purpose == "wasm" else "webgpu"
        watched = bool(audience.current.mode)
        loaded, _ = page.call("load", build=build, threads=kind.threads, watched=watched, timeout=ANSWER_S)
        page.agent = str(loaded["agent"])
    except BaseException:
        page.close()
        raise
    _pages[kind] = page
    return page


def pages() -> list[Page]:
    """Those that are open."""
    return list(_pages.values())


def discard(kind: Kind, page: Page) -> None:
    """Ends a page that crashed, hangs or ran out of memory, so that the next `lease` starts a new one."""
    if _pages.get(kind) is page:
        del _pages[kind]
    page.close()


def close() -> None:
    """Ends all pages."""
    for kind, page in list(_pages.items()):
        discard(kind, page)
    atexit.unregister(close)
