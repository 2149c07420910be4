"""Chromium's DevTools Protocol over a pipe, so that nobody else on the machine can drive the browser.

Messages are JSON texts that end with a zero byte. See https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import time
from typing import Any

from accel.core.browser.control import BrowserLost, Control
from accel.core.browser.launching import Launched


class DevTools(Control):
    """The control of a launched Chromium, Chrome or Edge."""

    def __init__(self, launched: Launched) -> None:
        assert launched.pipes is not None
        self._launched = launched
        self._from, self._to = launched.pipes
        self._buffer = bytearray()
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._session: str | None = None
        self._crash = ""
        #: the page's last uncaught error
        self.complaint = ""

    def fileno(self) -> int:
        """See `Control.fileno`."""
        return self._from

    def call(self, method: str, timeout: float, **parameters: Any) -> dict[str, Any]:
        """Calls a method and waits for its result. Raises BrowserLost."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._to, json.dumps(message).encode() + b"\0")
        except OSError as error:
            raise BrowserLost(self._gone()) from error
        deadline = time.monotonic() + timeout
        while self._number not in self._answers:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                raise BrowserLost(f"it did not answer {method} within {timeout:.3g} s")
            self.pump()
        answer = self._answers.pop(self._number)
        if "error" in answer:
            raise BrowserLost(f"{method}: {answer['error'].get('message', answer['error'])}")
        return dict(answer["result"])

    def open(self, url: str, timeout: float) -> None:
        """See `Control.open`."""
        targets = self.call("Target.getTargets", timeout)["targetInfos"]
        page = next((t["targetId"] for t in targets if t["type"] == "page"), None)
        if page is None:
            page = self.call("Target.createTarget", timeout, url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", timeout, targetId=page, flatten=True)["sessionId"]
        self.call("Inspector.enable", timeout)
        self.call("Runtime.enable", timeout)
        found = self.call("Page.navigate", timeout, url=url)
        if found.get("errorText"):
            raise BrowserLost(f"it could not open the page: {found['errorText']}")
        # what a page writes to its console would otherwise be carried over here, every line
        self.call("Runtime.disable", timeout)

    def pump(self) -> None:
        """See `Control.pump`."""
        try:
            data = os.read(self._from, 1 << 16)
        except OSError:
            data = b""
        if not data:
            raise BrowserLost(self._gone())
        self._buffer += data
        *messages, rest = self._buffer.split(b"\0")
        self._buffer = bytearray(rest)
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif message["method"] in ("Inspector.targetCrashed", "Target.targetCrashed"):
                self._crash = "its page crashed"
            elif message["method"] == "Target.targetDestroyed":
                self._crash = "its page was closed"
            elif message["method"] == "Runtime.exceptionThrown":
                self.complaint = str(message["params"]["exceptionDetails"].get("text", ""))
        if self._crash:
            raise BrowserLost(self._crash)

    def _gone(self) -> str:
        said = self._launched.said()
        return f"it ended{': ' + said if said else ''}"

    def screenshot(self, timeout: float) -> bytes:
        """See `Control.screenshot`."""
        return base64.b64decode(self.call("Page.captureScreenshot", timeout, format="png")["data"])

    def close(self) -> None:
        """See `Control.close`."""
        with contextlib.suppress(OSError):
            os.write(self._to, b'{"id":0,"method":"Browser.close"}\0')
