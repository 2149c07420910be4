"""Firefox's remote control, WebDriver BiDi (https://w3c.github.io/webdriver-bidi/), over a socket of this machine."""

from __future__ import annotations

import base64
import json
import re
import select
import socket
import time
from typing import Any

from accel.core.browser.channel import LARGEST, Channel, ChannelClosed
from accel.core.browser.control import BrowserLost, Control
from accel.core.browser.launching import Launched

_LISTENING = re.compile(r"WebDriver BiDi listening on (ws://127\.0\.0\.1:(\d+))")


class BiDi(Control):
    """The control of a launched Firefox."""

    def __init__(self, launched: Launched, timeout: float) -> None:
        self._launched = launched
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._context: str | None = None
        deadline = time.monotonic() + timeout
        self._channel = self._connect(self._port(deadline), deadline)
        self.call("session.new", max(0.1, deadline - time.monotonic()), capabilities={})

    def _port(self, deadline: float) -> int:
        while time.monotonic() < deadline:
            found = _LISTENING.search(self._launched.output())
            if found:
                return int(found[2])
            if not self._launched.running:
                raise BrowserLost(f"it ended: {self._launched.said()}")
            time.sleep(0.02)
        raise BrowserLost("it did not offer WebDriver BiDi in time")

    def _connect(self, port: int, deadline: float) -> Channel:
        from websockets.client import ClientProtocol
        from websockets.http11 import Response
        from websockets.uri import parse_uri

        try:
            connection = socket.create_connection(("127.0.0.1", port), max(0.1, deadline - time.monotonic()))
            protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/session"), max_size=LARGEST)
            protocol.send_request(protocol.connect())
            for data in protocol.data_to_send():
                connection.sendall(data)
            while True:
                data = connection.recv(65536)
                if not data:
                    raise BrowserLost("it refused the control connection")
                protocol.receive_data(data)
                if any(isinstance(event, Response) for event in protocol.events_received()):
                    break
            if protocol.handshake_exc is not None:
                raise BrowserLost(f"it refused the control connection: {protocol.handshake_exc}")
        except OSError as error:
            raise BrowserLost(f"its control port does not answer: {error}") from error
        return Channel(connection, protocol)

    def fileno(self) -> int:
        """See `Control.fileno`."""
        return self._channel.fileno()

    def call(self, method: str, timeout: float, **parameters: Any) -> dict[str, Any]:
        """Calls a method and waits for its result. Raises BrowserLost."""
        self._number += 1
        deadline = time.monotonic() + timeout
        try:
            self._channel.send_text(json.dumps({"id": self._number, "method": method, "params": parameters}))
            while self._number not in self._answers:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._channel], [], [], left)[0]:
                    raise BrowserLost(f"it did not answer {method} within {timeout:.3g} s")
                self.pump()
        except ChannelClosed as error:
            raise BrowserLost(f"it ended: {self._launched.said()}") from error
        answer = self._answers.pop(self._number)
        if answer.get("type") == "error":
            raise BrowserLost(f"{method}: {answer.get('message') or answer.get('error')}")
        return dict(answer["result"])

    def open(self, url: str, timeout: float) -> None:
        """See `Control.open`."""
        contexts = self.call("browsingContext.getTree", timeout)["contexts"]
        self._context = contexts[0]["context"]
        self.call("session.subscribe", timeout, events=["browsingContext.contextDestroyed"])
        self.call("browsingContext.navigate", timeout, context=self._context, url=url, wait="none")

    def pump(self) -> None:
        """See `Control.pump`."""
        try:
            self._channel.fill()
        except ChannelClosed as error:
            raise BrowserLost(f"it ended: {self._launched.said()}") from error
        while (text := self._channel.take()) is not None:
            message = json.loads(text)
            if message.get("id") is not None:
                self._answers[message["id"]] = message
            elif message.get("method") == "browsingContext.contextDestroyed":
                raise BrowserLost("its page crashed or was closed")

    def screenshot(self, timeout: float) -> bytes:
        """See `Control.screenshot`."""
        found = self.call("browsingContext.captureScreenshot", timeout, context=self._context)
        return base64.b64decode(found["data"])

    def close(self) -> None:
        """See `Control.close`."""
        self._channel.close()
