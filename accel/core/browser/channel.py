"""A WebSocket over a plain socket: one thread, no buffering beside the message, so that a call costs little."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from websockets.protocol import Protocol

#: the largest message that is accepted, bytes
LARGEST = 1 << 31
_CHUNK = 1 << 20


class ChannelClosed(Exception):
    """The other side is gone."""


class Channel:
    """An open WebSocket.

    Args:
        connection: the connected socket.
        protocol: either side's protocol object of `websockets`, its opening handshake done.
        early: what was received behind the handshake.
    """

    def __init__(self, connection: socket.socket, protocol: Protocol) -> None:
        self._socket, self._protocol = connection, protocol
        self._ready: deque[bytes] = deque()
        self._parts: list[bytes] = []
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(True)

    def fileno(self) -> int:
        """The socket's number, for `select`."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Sends one binary message. Raises ChannelClosed."""
        self._protocol.send_binary(message)
        self._flush()

    def send_text(self, message: str) -> None:
        """Sends one text message. Raises ChannelClosed."""
        self._protocol.send_text(message.encode())
        self._flush()

    def _flush(self) -> None:
        try:
            for data in self._protocol.data_to_send():
                if data:
                    self._socket.sendall(data)
        except OSError as error:
            raise ChannelClosed(f"sending failed: {error.strerror or error}") from error

    def receive(self, timeout: float | None = None) -> bytes:
        """The next message.

        Raises:
            ChannelClosed: the other side closed or died. TimeoutError: nothing came in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (message := self.take()) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                raise TimeoutError("no message")
            self.fill()
        return message

    def take(self) -> bytes | None:
        """A message that has arrived whole, or None. Does not read."""
        self._sort()
        return self._ready.popleft() if self._ready else None

    def fill(self) -> None:
        """Reads what is there; waits until something is. Raises ChannelClosed."""
        try:
            data = self._socket.recv(_CHUNK)
        except OSError as error:
            raise ChannelClosed(f"receiving failed: {error.strerror or error}") from error
        if not data:
            raise ChannelClosed("the other side is gone")
        self._protocol.receive_data(data)
        self._sort()
        self._flush()

    def _sort(self) -> None:
        from websockets.frames import Frame, Opcode

        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.CLOSE:
                raise ChannelClosed("the other side closed")
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._parts.append(bytes(event.data))
                if event.fin:
                    self._ready.append(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
                    self._parts = []

    def close(self) -> None:
        """Closes the socket at once."""
        self._socket.close()
