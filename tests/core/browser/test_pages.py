"""Real browsers with our page: tensors of every kind, crashes, hangs, and a page that reaches nothing but us."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.browser import probing
from accel.core.browser.control import BrowserLost
from accel.core.browser.pages import Page, PageError
from tests.browsers import browser, browsers_of, main_process


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    page = Page(browser(request.param))
    yield page
    page.close()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int64).reshape(3, 4),
        np.zeros((2, 0, 5), np.float32),
        np.float32(1.5),
        np.array([True, False]),
        np.random.default_rng(0).standard_normal((512, 513)).astype(np.float32),
    ],
    ids=["int64", "empty", "scalar", "bool", "megabyte"],
)
def test_tensors_come_back_as_they_were(page: Page, array: Any) -> None:
    _, found = page.call("echo", {"a": array, "b": np.arange(3.0)})
    np.testing.assert_array_equal(found["a"], array)
    assert found["a"].shape == np.shape(array)
    assert found["a"].dtype == array.dtype


def test_two_hundred_megabytes(page: Page) -> None:
    array = np.arange(25_000_000, dtype=np.int64)
    _, found = page.call("echo", {"a": array})
    assert np.array_equal(found["a"], array)


def test_what_the_page_cannot_do_is_said_and_it_goes_on(page: Page) -> None:
    with pytest.raises(PageError, match="unknown operation"):
        page.call("teleport")
    with pytest.raises(PageError, match="there is no session"):
        page.call("run", name="none")
    with pytest.raises(PageError, match="complex64"):
        page.call("echo", {"a": np.ones(2, np.complex64)})
    assert page.call("echo")[1] == {}


def test_the_page_is_isolated_and_reaches_nothing_else(page: Page) -> None:
    asked = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        found, _ = page.call("probe", what="webgpu", timeout=30)
        assert found["isolated"]
        reached, _ = page.call("reach", url=f"http://127.0.0.1:{other.server_port}/leak")
        assert not reached["reached"]
        assert asked == []
    finally:
        other.shutdown()
        other.server_close()


def test_the_token_is_spent(page: Page) -> None:
    reached, _ = page.call("reach", url=page.server.address)
    assert reached["status"] == 403


def test_webgpu_is_there_and_says_that_it_is_software(page: Page) -> None:
    found, _ = page.call("probe", what="webgpu", timeout=60)
    assert found["present"], found
    assert found["features"]
    assert found["limits"]["maxBufferSize"] > 0
    if not Path("/dev/dri").exists():
        assert probing.is_software(found)


@pytest.mark.parametrize("kind", ["chromium", "firefox"])
def test_a_killed_browser_is_noticed_at_once_and_leaves_nothing(kind: str) -> None:
    page = Page(browser(kind))
    profile = page._launched.profile if page._launched else Path()
    assert page.pid is not None
    processes = browsers_of(page.pid)
    assert len(processes) > 1
    main = main_process(page.pid)
    threading.Timer(0.3, os.kill, (main, signal.SIGKILL)).start()
    started = time.monotonic()
    with pytest.raises(BrowserLost):
        page.call("sleep", ms=60_000)
    assert time.monotonic() - started < 30
    page.close()
    assert not profile.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)


def test_a_crashed_page_is_noticed_although_the_browser_lives() -> None:
    page = Page(browser("chromium"))
    try:
        assert page.pid is not None
        renderers = [
            pid for pid in browsers_of(page.pid) if b"--type=renderer" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        threading.Timer(0.3, lambda: [os.kill(pid, signal.SIGKILL) for pid in renderers]).start()
        with pytest.raises(BrowserLost, match="crashed"):
            page.call("sleep", ms=60_000)
    finally:
        page.close()


def test_a_page_that_hangs_costs_its_time_limit() -> None:
    page = Page(browser("chromium"), "wasm")
    try:
        with pytest.raises(BrowserLost, match="did not answer within"):
            page.call("sleep", ms=60_000, timeout=0.3)
    finally:
        page.close()


def test_webnn_in_the_headless_shell_executes_on_what_it_says() -> None:
    found = probing.look(browser("shell"), "webnn")
    assert found["present"], found
    assert found["types"]["cpu"] == {"executes": True, "devices": ["cpu"]}
    assert found["version"].startswith("147.")
    # kept for the next time
    assert probing.known(browser("shell"), "webnn") == found


def test_webnn_that_is_not_there_says_why() -> None:
    found = probing.look(browser("firefox"), "webnn")
    assert not found["present"]
    assert "navigator.ml" in found["reason"]
