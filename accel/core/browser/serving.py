"""The loopback server of one page: a handful of files and one WebSocket, all behind a token that works once.

Nothing else on the machine or in the browser can reach it: it listens on 127.0.0.1 alone, every path begins with a
random token, the name in the Host header has to be this machine's own (so that no foreign name can be made to point
here), and the socket is opened for our own page's origin only, once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from accel.core.browser.channel import LARGEST, Channel

if TYPE_CHECKING:
    from websockets.http11 import Request
    from websockets.server import ServerProtocol

ASSETS = Path(__file__).resolve().parents[2] / "data" / "web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
}
#: how this machine may be called in the Host header; a forwarded port has another number
LOCAL = ("127.0.0.1", "localhost", "[::1]")
#: seconds that a client may take for its request
PATIENCE = 10.0
#: the page is a world of its own (threads in WebAssembly need that), and reaches nothing but this server
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
#: WebAssembly needs `wasm-unsafe-eval`; its threads are started from a blob. How onnxruntime-web calls WebNN
#: (emscripten's `val`) needs `unsafe-eval`; the page can get no code but ours and onnxruntime-web's all the same
_POLICY = (
    "default-src 'none'; script-src 'self' blob: {evaluation}; worker-src 'self' blob:; style-src 'self'; "
    "img-src 'self'; connect-src 'self' blob: {socket}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass
class Server:
    """A server for one page.

    Attributes:
        purpose: `webgpu`, `webnn` or `wasm`.
        files: what can be had besides the page's own assets: path behind the token -> file. May change any time.
    """

    purpose: str = "webgpu"
    files: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._channels: queue.SimpleQueue[Channel] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._used = False
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True, name="accel-page").start()

    @property
    def address(self) -> str:
        """What the browser has to open."""
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    def channel(self, timeout: float) -> Channel:
        """The page's socket, once it is open. Raises TimeoutError."""
        try:
            return self._channels.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("no page connected") from None

    def close(self) -> None:
        """Listens no longer. The page's socket stays."""
        with contextlib.suppress(OSError):
            # wakes the thread that waits in accept
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True, name="accel-page").start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            kept = self._serve(connection)
        except (OSError, ValueError, EOFError):
            kept = False
        if not kept:
            connection.close()

    def _serve(self, connection: socket.socket) -> bool:
        """Answers requests of one connection. Whether it became the page's socket."""
        from websockets.http11 import Request
        from websockets.server import ServerProtocol

        while True:
            # a protocol object reads one request; a connection may bring several, one after the other
            protocol = ServerProtocol(max_size=LARGEST)
            request: Request | None = None
            deadline = time.monotonic() + PATIENCE
            while request is None:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([connection], [], [], left)[0]:
                    return False
                data = connection.recv(65536)
                if not data:
                    return False
                protocol.receive_data(data)
                request = next((e for e in protocol.events_received() if isinstance(e, Request)), None)
                if protocol.handshake_exc is not None:
                    return False
            if self._is_socket(request):
                return self._upgrade(connection, protocol, request)
            self._respond(connection, request)

    def _host(self, request: Request) -> str | None:
        """The Host header, where it is a name of this machine."""
        hosts = request.headers.get_all("Host")
        if len(hosts) == 1 and hosts[0].rpartition(":")[0] in LOCAL and hosts[0].rpartition(":")[2].isdecimal():
            return str(hosts[0])
        return None

    def _is_socket(self, request: Request) -> bool:
        return request.path.partition("?")[0].endswith("/socket")

    def _allowed(self, path: str) -> bool:
        return secrets.compare_digest(path.split("/", 2)[1].encode(), self.token.encode()) if "/" in path else False

    def _upgrade(self, connection: socket.socket, protocol: ServerProtocol, request: Request) -> bool:
        host = self._host(request)
        with self._lock:
            allowed = host is not None and self._allowed(request.path) and not self._used
            if allowed:
                protocol.origins = [f"http://{host}"]  # type: ignore[list-item]
                response = protocol.accept(request)
                self._used = response.status_code == 101
            else:
                response = protocol.reject(403, "the token is wrong, or was used before\n")
        protocol.send_response(response)
        for data in protocol.data_to_send():
            connection.sendall(data)
        if response.status_code != 101:
            return False
        self._channels.put(Channel(connection, protocol))
        return True

    def _policy(self, host: str) -> str:
        evaluation = "'unsafe-eval'" if self.purpose == "webnn" else "'wasm-unsafe-eval'"
        return _POLICY.format(socket=f"ws://{host}", evaluation=evaluation)

    def _respond(self, connection: socket.socket, request: Request) -> None:
        host = self._host(request)
        if host is None or not self._allowed(request.path):
            _write(connection, 403, "text/plain", b"this address works for one page only\n")
            return
        name = request.path.partition("?")[0].split("/", 2)[-1] or "index.html"
        if name == "index.html" and self._used:
            _write(connection, 403, "text/plain", b"this address was used before: run the command again\n")
            return
        path = self.files.get(name) or (ASSETS / name if name in _assets() else None)
        if path is None:
            _write(connection, 404, "text/plain", b"there is no such file\n")
            return
        extra = {"Content-Security-Policy": self._policy(host)} if name.endswith(".html") else {}
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = _head(200, TYPES.get(path.suffix, "application/octet-stream"), size, extra)
            connection.sendall(head)
            connection.sendfile(file)


def _assets() -> tuple[str, ...]:
    return tuple(path.name for path in ASSETS.iterdir() if path.suffix in TYPES)


_REASONS = {200: "OK", 403: "Forbidden", 404: "Not Found"}


def _head(status: int, kind: str, size: int, extra: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Type: {kind}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in {**HEADERS, **extra}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _write(connection: socket.socket, status: int, kind: str, body: bytes) -> None:
    connection.sendall(_head(status, kind, len(body), {}) + body)
