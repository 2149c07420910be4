"""A real headless Chromium, driven over its debugging pipe: pages opened, clicked, looked at."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Tab:
    """One page of a browser."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out, self._buffer, self._number = into, out, b"", 0
        self._session: str | None = None
        #: uncaught errors and messages of the console, and addresses that were asked for
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the DevTools Protocol and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._into, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer}"
                return dict(answer["result"])
            self._event(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._out], [], [], 60)[0], "the browser does not answer"
            data = os.read(self._out, 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(text))

    def _event(self, event: dict[str, Any]) -> None:
        found = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(found["exceptionDetails"])[:500])
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(found["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])

    def open(self, path: Path) -> None:
        """Opens a file and waits until it is there."""
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + 60
        while self.js("document.readyState") != "complete" or not self.js("location.href").endswith(path.name):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Another window; `phone` touches, and has a denser screen."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip
        self.settle()

    def prefer(self, scheme: str, media: str = "") -> None:
        """`light` or `dark`; `media` "print" shows the page as it is printed."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.settle()

    def settle(self) -> None:
        """Lets the page draw."""
        self.js("new Promise(r => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(r)), 200))")

    def click(self, selector: str, number: int = 0) -> None:
        """Clicks into the middle of an element with a real mouse."""
        place = self.js(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{number}];"
            " e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " return [r.left + r.width / 2, r.top + r.height / 2]; })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button=button, clickCount=1)
        self.settle()

    def screenshot(self, path: Path) -> bytes:
        """The whole page as PNG, also written to a file."""
        data = base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        path.write_bytes(data)
        return data

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])


@contextlib.contextmanager
def chromium() -> Iterator[Tab]:
    """A page of a fresh browser, which is ended with all that it started."""
    program = next((p for name in ("chromium", "google-chrome", "chromium-browser") if (p := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium")
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # the browser reads from file 3 and writes to file 4
        wire = f"exec {program} --headless=new --remote-debugging-pipe --no-sandbox --disable-gpu --no-first-run"
        wire += f" --disable-extensions --user-data-dir={profile} about:blank 3<&{to_read} 4>&{from_write}"
        process = subprocess.Popen(
            ["bash", "-c", wire],
            pass_fds=(to_read, from_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        os.close(to_read)
        os.close(from_write)
        try:
            tab = Tab(to_write, from_read)
            yield tab
            tab._session = None
            with contextlib.suppress(AssertionError):
                tab.call("Browser.close")
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            os.close(to_write)
            os.close(from_read)
