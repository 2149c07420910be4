"""The client of trustless gateways: blocks and CAR streams over HTTP, through one pool of connections.

Protocol: https://specs.ipfs.tech/http-gateways/trustless-gateway/. Nothing that a gateway says is believed: a block
counts once its bytes match its CID.
"""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from accel.core.content import car
from accel.core.content.cid import Cid
from accel.core.content.sources import SourceError
from accel.core.errors import InputError, TransferError

if TYPE_CHECKING:
    import urllib3

_RAW = "application/vnd.ipld.raw"
_CAR = "application/vnd.ipld.car"
_PIECE = 256 << 10
_MOST_REDIRECTS = 3
#: statuses that say "not now": too many requests, bad gateway, unavailable, gateway timeout
_BUSY = (429, 502, 503, 504)
#: 412 answers `only-if-cached`
_MISSING = (404, 410, 412, 451)
_UNSUPPORTED = (400, 405, 406, 415, 501)


def is_loopback(url: str) -> bool:
    """Whether a URL is on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked(url: str) -> str:
    """The URL of a gateway, without a slash at its end.

    Raises:
        InputError: it is none, or not HTTPS although it is elsewhere.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r} is not the URL of a gateway", "give one such as https://trustless-gateway.link")
    if parts.scheme == "http" and not is_loopback(url):
        raise InputError(f"the gateway {url} is not on this machine and does not speak HTTPS", "give its https URL")
    return url.rstrip("/")


class Trustless:
    """One trustless gateway, as a source of blocks.

    Args:
        url: of the gateway, without `/ipfs`; HTTPS unless it is on this machine.
        timeout_s: how long it may stay silent.
        connections: kept open at once.
        level, name: as in `Source`; the name is the URL by default.
        cached_only: ask for what the gateway's own node holds, without it asking its network.

    Raises:
        InputError: another kind of URL.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 30.0,
        connections: int = 8,
        *,
        level: str = "gateway",
        name: str | None = None,
        cached_only: bool = False,
    ) -> None:
        self.url = checked(url)
        self._cached_only = cached_only
        self.name = name or self.url
        self.level = level
        self._timeout, self._connections = timeout_s, connections
        self._client: urllib3.PoolManager | urllib3.ProxyManager | None = None
        self._lock = threading.Lock()
        self._no_raw = False

    def _pool(self) -> urllib3.PoolManager:
        with self._lock:
            if self._client is None:
                self._client = _client(self.url, self._timeout, self._connections)
            return self._client

    @contextlib.contextmanager
    def _open(self, cid: Cid, query: str, accept: str) -> Iterator[urllib3.BaseHTTPResponse]:
        import urllib3

        url = f"{self.url}/ipfs/{cid}?{query}"
        headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "ipfs-accel"}
        if self._cached_only:
            headers["Cache-Control"] = "only-if-cached"
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                response = self._pool().request(
                    "GET", url, headers=headers, redirect=False, retries=False, preload_content=False
                )
            except urllib3.exceptions.HTTPError as error:
                raise SourceError("broken", _plain(error)) from error
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                break
            response.close()
            url = urljoin(url, location)
            if urlsplit(url).scheme != "https" and not (is_loopback(url) and is_loopback(self.url)):
                raise SourceError("unsupported", f"it leads on to {url}, which is not HTTPS")
        else:
            raise SourceError("unsupported", "it leads in circles")
        whole = False
        try:
            self._judge(response, accept)
            yield response
            whole = True
        except urllib3.exceptions.HTTPError as error:
            raise SourceError("broken", _plain(error)) from error
        finally:
            if whole:
                response.release_conn()
            else:
                response.close()

    def _judge(self, response: urllib3.BaseHTTPResponse, accept: str) -> None:
        status = response.status
        if status == 200:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind != accept.partition(";")[0]:
                raise SourceError("unsupported", f"it answered with {kind or 'no content type'}, not {accept}")
            return
        if status in _MISSING:
            raise SourceError("missing", f"HTTP {status}")
        if status in _BUSY:
            raise SourceError("busy", f"HTTP {status}", _retry_after(response.headers.get("Retry-After", "")))
        if status in _UNSUPPORTED:
            raise SourceError("unsupported", f"HTTP {status}, so it serves no single blocks")
        text = response.read(500).decode("utf-8", "replace") if status == 500 else ""
        if "not found" in text or "could not find" in text:
            raise SourceError("missing", text.strip().splitlines()[0])
        raise SourceError("broken", f"HTTP {status}")

    def get(self, cid: Cid, tell: Callable[[int], None]) -> bytes:
        """See `Source.get`."""
        if not self._no_raw:
            try:
                return self._raw(cid, tell)
            except SourceError as error:
                if error.kind != "unsupported":
                    raise
                # some gateways speak CAR alone
                data = self._block_car(cid, tell, error)
                self._no_raw = True
                return data
        return self._block_car(cid, tell, None)

    def _raw(self, cid: Cid, tell: Callable[[int], None]) -> bytes:
        with self._open(cid, "format=raw", _RAW) as response:
            length = int(response.headers.get("Content-Length") or 0)
            if length > car.LARGEST_BLOCK:
                raise SourceError("lied", f"it sends {length:,} bytes for one block")
            pieces: list[bytes] = []
            got = 0
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                got += len(piece)
                tell(len(piece))
                if got > car.LARGEST_BLOCK:
                    raise SourceError("lied", "it sends more than a block may have")
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _block_car(self, cid: Cid, tell: Callable[[int], None], first: SourceError | None) -> bytes:
        try:
            with self._open(cid, "format=car&dag-scope=block", _CAR) as response:
                for found, data in car.Reader(_Buffered(response, tell), self.name):
                    if found.digest == cid.digest:
                        return data
        except SourceError as error:
            if first is not None and error.kind == "unsupported":
                raise first from error
            raise
        except TransferError as error:
            raise SourceError("broken", error.message) from error
        raise SourceError("missing", "its answer does not have the block")

    @contextlib.contextmanager
    def stream(self, cid: Cid) -> Iterator[Iterator[tuple[Cid, bytes]]]:
        """See `Source.stream`."""
        with self._open(cid, "format=car&dag-scope=all&car-order=dfs&car-dups=n", _CAR) as response:
            try:
                yield iter(car.Reader(_Buffered(response, lambda _: None), self.name))
            except TransferError as error:
                raise SourceError("broken", error.message) from error

    def close(self) -> None:
        """Closes all connections."""
        with self._lock:
            if self._client is not None:
                self._client.clear()
                self._client = None


class _Buffered:
    """A response that can be read in small and in large pieces."""

    def __init__(self, response: Any, tell: Callable[[int], None]) -> None:
        self._response, self._tell = response, tell
        self._buffer = b""
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        if self._at == len(self._buffer):
            self._buffer, self._at = self._response.read1(_PIECE), 0
            self._tell(len(self._buffer))
        part = self._buffer[self._at : self._at + size]
        self._at += len(part)
        return part


def _client(url: str, timeout_s: float, connections: int) -> urllib3.PoolManager:
    import urllib.request

    import urllib3

    settings: dict[str, Any] = {
        "maxsize": connections,
        "timeout": urllib3.Timeout(connect=min(timeout_s, 15.0), read=timeout_s),
    }
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not is_loopback(url) and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, **settings)
    return urllib3.PoolManager(**settings)


def _retry_after(text: str) -> float:
    return float(text) if text.strip().isdigit() else 0.0


def _plain(error: Exception) -> str:
    """An error of the HTTP client in few words."""
    import urllib3

    cause = getattr(error, "reason", None) or error
    if isinstance(cause, urllib3.exceptions.SSLError):
        return f"its certificate or TLS is not right: {cause}"
    # in urllib3 a refused connection is a kind of timeout, so it has to be looked for first
    if isinstance(cause, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.NameResolutionError)):
        return "it cannot be reached"
    if isinstance(cause, urllib3.exceptions.TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        return "its answer was cut short"
    return f"{type(cause).__name__}: {cause}"


def http_url(multiaddr: str) -> str | None:
    """The URL of a multiaddr that speaks HTTP, such as `/dns/example.org/tcp/443/https`; None for any other.

    An address that is not public gives None too: a stranger's record must not send requests into the user's network.
    """
    parts = multiaddr.strip("/").split("/")
    if len(parts) < 5 or parts[0] not in ("ip4", "ip6", "dns", "dns4", "dns6") or parts[2] != "tcp":
        return None
    secure = "https" in parts[4:] or ("tls" in parts[4:] and "http" in parts[4:])
    if not secure and "http" not in parts[4:]:
        return None
    host = parts[1]
    if parts[0].startswith("ip"):
        try:
            if not ipaddress.ip_address(host).is_global:
                return None
        except ValueError:
            return None
        host = f"[{host}]" if parts[0] == "ip6" else host
    elif "." not in host or is_loopback(f"http://{host}"):
        return None
    return f"{'https' if secure else 'http'}://{host}:{parts[3]}"
