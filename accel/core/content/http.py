"""A small pooled HTTP client for many threads, which reads into buffers that are used again.

Measured on loopback, a general client spends more on allocating memory for each block than on receiving it.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    import ssl

_CONNECT_S = 15.0
#: an answer that nobody has read to its end up to this many bytes is read, so that its connection can be used again
_DRAIN = 64 << 10


class HttpError(Exception):
    """No answer, or one that broke off; the text says which."""


class Answer:
    """The answer to one request."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status

    def header(self, name: str) -> str:
        """A header, or an empty text."""
        return self._response.getheader(name) or ""

    @property
    def length(self) -> int | None:
        """Bytes that are still to come, where the answer tells."""
        return self._response.length

    def read_into(self, view: memoryview) -> int:
        """Reads up to as many bytes as the buffer holds; 0 at the end.

        Raises:
            HttpError: the answer broke off.
        """
        expected = self._response.length
        try:
            count = self._response.readinto(view)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HttpError(plain(error)) from error
        if count == 0 and expected and len(view):
            raise HttpError("its answer was cut short")
        return count

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end. Errors are those of `read_into`."""
        try:
            return self._response.read(size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HttpError(plain(error)) from error


class Client:
    """Connections to any number of hosts, kept open between requests. Safe to use from several threads.

    Args:
        timeout_s: how long a host may stay silent.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout = timeout_s
        self._lock = threading.Lock()
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._tls: ssl.SSLContext | None = None

    @contextlib.contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[Answer]:
        """Sends a GET request; redirects are the caller's matter.

        Raises:
            HttpError: no answer.
        """
        parts = urlsplit(url)
        key = f"{parts.scheme}://{parts.netloc}"
        connection, response = self._request(key, parts, headers)
        whole = False
        try:
            yield Answer(response)
            whole = self._finish(response)
        finally:
            response.close()
            if whole:
                with self._lock:
                    self._idle.setdefault(key, []).append(connection)
            else:
                connection.close()

    def _request(
        self, key: str, parts: SplitResult, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        while True:
            with self._lock:
                idle = self._idle.get(key)
                connection = idle.pop() if idle else None
            kept = connection is not None
            try:
                if connection is None:
                    connection = self._connect(parts)
                connection.request("GET", target, headers=headers)
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException, ValueError) as error:
                if connection is not None:
                    connection.close()
                # a host may close a connection that was idle; that is no answer to this request
                if kept and isinstance(error, (ConnectionError, http.client.BadStatusLine)):
                    continue
                raise HttpError(plain(error)) from error

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        host, port = parts.hostname or "", parts.port
        limit = min(self._timeout, _CONNECT_S)
        proxy = _proxy(parts)
        near, near_port = (proxy.hostname or "", proxy.port) if proxy is not None else (host, port)
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(near, near_port, timeout=limit, context=self._context())
        else:
            connection = http.client.HTTPConnection(near, near_port, timeout=limit)
        if proxy is not None:
            connection.set_tunnel(host, port or 443)
        connection.connect()
        connection.sock.settimeout(self._timeout)
        return connection

    def _context(self) -> ssl.SSLContext:
        import ssl

        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls

    def _finish(self, response: http.client.HTTPResponse) -> bool:
        """Whether the connection can be used again: the answer is read to its end, or nearly."""
        if response.will_close:
            return False
        if response.isclosed():
            return True
        if response.length is not None and response.length > _DRAIN:
            return False
        try:
            return len(response.read(_DRAIN)) < _DRAIN
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def close(self) -> None:
        """Closes all connections that are not in use."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()


def _proxy(parts: SplitResult) -> SplitResult | None:
    """The proxy for a host elsewhere, from the environment; only HTTPS leaves this machine."""
    if parts.scheme != "https":
        return None
    import urllib.request

    found = urllib.request.getproxies().get("https")
    if not found or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urlsplit(found if "://" in found else f"http://{found}")


def plain(error: Exception) -> str:
    """An error of the connection in few words."""
    if type(error).__name__ in ("SSLCertVerificationError", "SSLError"):
        return f"its certificate or TLS is not right: {error}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
        return "its answer was cut short"
    if isinstance(error, OSError):
        return f"it cannot be reached: {error.strerror or error}"
    if isinstance(error, (http.client.IncompleteRead, http.client.BadStatusLine)):
        return "its answer was cut short"
    return f"its answer makes no sense ({type(error).__name__})"
