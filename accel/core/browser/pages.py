"""A page of ours in a browser: it answers calls, and what crashes, hangs or is killed there is an error here."""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.browser import audience
from accel.core.browser.bidi import BiDi
from accel.core.browser.channel import Channel, ChannelClosed
from accel.core.browser.control import BrowserLost, Control
from accel.core.browser.devtools import DevTools
from accel.core.browser.finding import Browser
from accel.core.browser.launching import Launched
from accel.core.browser.messages import pack, unpack
from accel.core.browser.serving import Server

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

#: seconds from the start of a browser until its page is connected
START_S = 40.0
#: seconds that one call may take before the page counts as hanging
CALL_S = 600.0


class PageError(Exception):
    """What the page answered to a call that it could not carry out; it goes on working."""


class Page:
    """A browser with the page in it.

    Args:
        browser: the browser to start; `audience.VISITOR` is not started but waited for.
        files: what the page may fetch besides its own assets: path -> file.
        purpose: `webgpu`, `webnn` or `wasm`.
        timeout: seconds for all of the start.

    Raises:
        BrowserLost: the browser does not start, hangs, or its page does not connect.
    """

    def __init__(
        self,
        browser: Browser,
        purpose: str = "webgpu",
        files: dict[str, Path] | None = None,
        timeout: float = START_S,
    ) -> None:
        self.browser = browser
        self.server = Server(purpose, dict(files or {}))
        #: how the browser names itself, once it was asked
        self.agent = ""
        self._number = 0
        self._owner = os.getpid()
        self._launched: Launched | None = None
        self.channel: Channel | None = None
        self.control: Control | None = None
        visited = browser == audience.VISITOR
        try:
            if not visited:
                headless = audience.current.mode != "show"
                self._launched = Launched(browser, gpu=purpose != "wasm", headless=headless)
            self._connect(time.monotonic() + (audience.VISIT_S if visited else timeout))
        except BaseException:
            self.close()
            raise

    def _connect(self, deadline: float) -> None:
        def left() -> float:
            return max(0.1, deadline - time.monotonic())

        if self._launched is None:
            audience.current.announce(f"open {self.server.address} in the browser that is to run the model")
        else:
            firefox = self.browser.kind == "firefox"
            self.control = BiDi(self._launched, left()) if firefox else DevTools(self._launched)
            self.control.open(self.server.address, left())
        while self.channel is None:
            with contextlib.suppress(TimeoutError):
                self.channel = self.server.channel(min(0.2, left()))
            if self.channel is None:
                if self.control is not None and select.select([self.control], [], [], 0)[0]:
                    self.control.pump()
                if time.monotonic() > deadline:
                    raise BrowserLost("its page did not connect in time")

    @property
    def pid(self) -> int | None:
        """Process id that the browser's processes descend from; None for a visitor's."""
        return self._launched.pid if self._launched else None

    def call(
        self, op: str, tensors: Tensors | None = None, timeout: float = CALL_S, **head: Any
    ) -> tuple[dict[str, Any], Tensors]:
        """Has the page do one thing and waits for its answer.

        Raises:
            PageError: the page says that it cannot. BrowserLost: it crashed, was killed or did not answer in time.
        """
        if self.channel is None:
            raise BrowserLost("it was closed")
        self._number += 1
        deadline = time.monotonic() + timeout
        try:
            self.channel.send(pack({"id": self._number, "op": op, **head}, tensors))
            answer, found = unpack(self._receive(deadline, op, timeout))
        except ChannelClosed as error:
            raise BrowserLost(self._why_gone()) from error
        except ValueError as error:
            raise BrowserLost(f"its page answered with something else than an answer: {error}") from error
        if answer.get("id") != self._number:
            raise BrowserLost("its page answered another call")
        if "error" in answer:
            raise PageError(str(answer["error"]))
        return answer, found

    def _receive(self, deadline: float, op: str, timeout: float) -> bytes:
        assert self.channel is not None
        while (message := self.channel.take()) is None:
            watched: list[Any] = [self.channel, *([self.control] if self.control else [])]
            ready, _, _ = select.select(watched, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BrowserLost(f"its page did not answer within {timeout:.3g} s ({op})")
            if self.channel in ready:
                self.channel.fill()
            if self.control in ready and self.control is not None:
                self.control.pump()
        return message

    def wait(self) -> None:
        """Returns when the page is gone."""
        with contextlib.suppress(BrowserLost, ChannelClosed):
            while self.channel is not None:
                self._receive(time.monotonic() + CALL_S, "wait", CALL_S)

    def _why_gone(self) -> str:
        """The control may know more about a socket that closed."""
        if self.control is not None:
            with contextlib.suppress(OSError, ValueError):
                try:
                    while select.select([self.control], [], [], 0.5)[0]:
                        self.control.pump()
                except BrowserLost as error:
                    return str(error)
        return "its page is gone"

    def close(self) -> None:
        """Ends the browser; nothing of it is left. Safe to call twice, and nothing after a fork."""
        if os.getpid() != self._owner:
            return
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self.control is not None:
            self.control.close()
            self.control = None
        self.server.close()
        if self._launched is not None:
            self._launched.close()
