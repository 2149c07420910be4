"""A small trustless gateway on loopback that can also lie, stall, cut short, answer with HTML or half of a CAR."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from accel.core.content import car
from accel.core.content.cid import Cid, parse
from accel.core.content.dagpb import decode

RAW = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car"


class Gateway:
    """Serves blocks.

    Args:
        blocks: the blocks it has, by CID.
        behaviour: `good`, or what it does wrong: `lie`, `stall`, `drip`, `truncate`, `html`, `half-car`, `missing`,
            `busy`, `close`, `redirect`, `huge`, `car-only`, `no-car`, `strangers`.
        after: behaves well for so many answers first.
        delay: seconds before each answer.
        tls: speak HTTPS.
    """

    def __init__(
        self,
        blocks: Iterable[tuple[Cid, bytes]],
        behaviour: str = "good",
        after: int = 0,
        delay: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.blocks = {cid.digest: (cid, data) for cid, data in blocks}
        self.behaviour, self.after, self.delay = behaviour, after, delay
        self.asked: Counter[str] = Counter()
        self.requests = 0
        self.served: set[str] = set()
        self._lock = threading.Lock()
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Nothing is logged."""

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                kind = parse_qs(url.query).get("format", ["raw"])[0]
                try:
                    gateway._answer(self, url.path.removeprefix("/ipfs/"), kind, parse_qs(url.query))
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

        return Handler

    def _answer(self, handler: Any, name: str, kind: str, query: dict[str, list[str]]) -> None:
        with self._lock:
            self.requests += 1
            number = self.requests
        time.sleep(self.delay)
        behaviour = self.behaviour if number > self.after else "good"
        cid = parse(name)
        if behaviour == "good":
            self.served.add(str(cid))
        self.asked[str(cid)] += 1
        if behaviour == "busy":
            return self._send(handler, 429, b"later", "text/plain", {"Retry-After": "1"})
        if behaviour == "close":
            handler.close_connection = True
            return None
        if behaviour == "redirect":
            return self._send(handler, 302, b"", "text/plain", {"Location": f"http://example.org/ipfs/{name}"})
        if behaviour == "html":
            return self._send(handler, 200, b"<html>hello</html>", "text/html")
        if behaviour == "missing" or cid.digest not in self.blocks:
            return self._send(handler, 404, b"not here", "text/plain")
        if kind == "car":
            return self._car(handler, cid, behaviour, query)
        if behaviour == "car-only":
            return self._send(handler, 406, b"only CAR", "text/plain")
        return self._raw(handler, self.blocks[cid.digest][1], behaviour)

    def _raw(self, handler: Any, data: bytes, behaviour: str) -> None:
        if behaviour == "lie":
            data = bytes([data[0] ^ 1]) + data[1:] if data else b"x"
        elif behaviour == "huge":
            data = bytes(32 << 20)
        if behaviour in ("stall", "drip", "truncate"):
            handler.send_response(200)
            handler.send_header("Content-Type", RAW)
            handler.send_header("Content-Length", str(len(data) or 1))
            handler.end_headers()
            handler.wfile.write(data[: len(data) // 2])
            handler.wfile.flush()
            handler.close_connection = True
            for byte in data[len(data) // 2 :] if behaviour == "drip" else b"":
                handler.wfile.write(bytes([byte]))
                if self.released.wait(0.2):
                    break
            if behaviour == "stall":
                self.released.wait(60)
            return
        self._send(handler, 200, data, RAW)

    def _car(self, handler: Any, cid: Cid, behaviour: str, query: dict[str, list[str]]) -> None:
        if behaviour == "no-car":
            return self._send(handler, 406, b"no CAR", "text/plain")
        order = [self.blocks[cid.digest]]
        if query.get("dag-scope") != ["block"]:
            order = list(self._below(cid))
        parts: list[bytes] = []
        if behaviour == "strangers":
            stranger = b"nobody asked for this"
            from accel.core.content.cid import of

            order.insert(1, (of(stranger), stranger))
        car.write(order, [cid], parts.append)
        body = b"".join(parts)
        if behaviour == "lie":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if behaviour in ("half-car", "truncate"):
            # a chunked answer that ends properly in the middle of a block, as a gateway's does that gives up
            body = body[: len(body) // 2]
        handler.send_response(200)
        handler.send_header("Content-Type", CAR + "; version=1")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(body), 50_000):
            piece = body[start : start + 50_000]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")
        return None

    def _below(self, cid: Cid) -> Iterable[tuple[Cid, bytes]]:
        seen: set[bytes] = set()
        todo = [cid]
        while todo:
            at = todo.pop()
            if at.digest in seen or at.digest not in self.blocks:
                continue
            seen.add(at.digest)
            yield at, self.blocks[at.digest][1]
            if not at.is_raw:
                todo.extend(link.cid for link in reversed(decode(self.blocks[at.digest][1]).links))

    def _send(self, handler: Any, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
