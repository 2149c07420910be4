"""The client of trustless gateways: blocks and CAR streams over HTTP, through one pool of connections.

Protocol: https://specs.ipfs.tech/http-gateways/trustless-gateway/. Nothing that a gateway says is believed: a block
counts once its bytes match its CID.
"""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urljoin, urlsplit

from accel.core.content import car
from accel.core.content.cid import Cid
from accel.core.content.http import Answer, Client, HttpError
from accel.core.content.sources import Data, SourceError
from accel.core.errors import InputError, TransferError

_RAW = "application/vnd.ipld.raw"
_CAR = "application/vnd.ipld.car"
_PIECE = 256 << 10
#: bytes per second of the slowest link that is not taken for a stalled one
_SLOWEST = 8000
_MOST_REDIRECTS = 3
#: the CID of nothing, which carries its content in its name
_EMPTY = "bafkqaaa"
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
        level, name: as in `Source`; the name is the URL by default.
        cached_only: ask for what the gateway's own node holds, without it asking its network.

    Raises:
        InputError: another kind of URL.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 30.0,
        *,
        level: str = "gateway",
        name: str | None = None,
        cached_only: bool = False,
    ) -> None:
        self.url = checked(url)
        self._cached_only = cached_only
        self.name = name or self.url
        self.level = level
        # small enough that a slow link shows that it moves before its time is up
        self._piece = max(16 << 10, min(_PIECE, int(timeout_s * _SLOWEST)))
        self._client = Client(timeout_s)
        self._own = threading.local()
        self._no_raw = False

    @contextlib.contextmanager
    def _open(self, cid: Cid, query: str, accept: str) -> Iterator[Answer]:
        url = f"{self.url}/ipfs/{cid}?{query}"
        headers = {"Accept": accept, "User-Agent": "ipfs-accel"}
        if self._cached_only:
            headers["Cache-Control"] = "only-if-cached"
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                with self._client.get(url, headers) as answer:
                    location = answer.header("Location")
                    if answer.status not in (301, 302, 303, 307, 308) or not location:
                        self._judge(answer, accept)
                        yield answer
                        return
                    url = urljoin(url, location)
                if urlsplit(url).scheme != "https" and not (is_loopback(url) and is_loopback(self.url)):
                    raise SourceError("unsupported", f"it leads on to {url}, which is not HTTPS")
            raise SourceError("unsupported", "it leads in circles")
        except HttpError as error:
            raise SourceError("broken", str(error)) from error

    def _judge(self, answer: Answer, accept: str) -> None:
        status = answer.status
        if status == 200:
            kind = answer.header("Content-Type").partition(";")[0].strip().lower()
            if kind != accept.partition(";")[0]:
                raise SourceError("unsupported", f"it answered with {kind or 'no content type'}, not {accept}")
            return
        if status in _MISSING:
            raise SourceError("missing", f"HTTP {status}")
        if status in _BUSY:
            raise SourceError("busy", f"HTTP {status}", _retry_after(answer.header("Retry-After")))
        if status in _UNSUPPORTED:
            raise SourceError("unsupported", f"HTTP {status}, so it serves no single blocks")
        text = answer.read(500).decode("utf-8", "replace") if status == 500 else ""
        if "not found" in text or "could not find" in text:
            raise SourceError("missing", text.strip().splitlines()[0])
        raise SourceError("broken", f"HTTP {status}")

    def get(self, cid: Cid, tell: Callable[[int], None]) -> Data:
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

    def _raw(self, cid: Cid, tell: Callable[[int], None]) -> memoryview:
        with self._open(cid, "format=raw", _RAW) as answer:
            length = answer.length
            if length is not None and length > car.LARGEST_BLOCK:
                raise SourceError("lied", f"it sends {length:,} bytes for one block")
            # one byte more than a block may have shows an answer that tells no length and does not end
            view = self._buffer(length if length is not None else car.LARGEST_BLOCK + 1)
            got = 0
            while got < len(view):
                count = answer.read_into(view[got : got + self._piece])
                if count == 0:
                    break
                got += count
                tell(count)
            if got > car.LARGEST_BLOCK:
                raise SourceError("lied", "it sends more than a block may have")
            return view[:got]

    def _buffer(self, size: int) -> memoryview:
        """This thread's buffer; its content is good until the thread asks again."""
        buffer = self._own.__dict__.get("buffer")
        if buffer is None or len(buffer) < size:
            buffer = self._own.__dict__["buffer"] = memoryview(bytearray(max(size, 1 << 20)))
        return buffer[:size]

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

    def serves_blocks(self) -> bool:
        """Whether anything at the URL answers as a gateway does: it serves the empty block, which needs no store."""
        try:
            with self._client.get(f"{self.url}/ipfs/{_EMPTY}?format=raw", {"Accept": _RAW}) as answer:
                return answer.status == 200 and answer.read(1) == b""
        except HttpError:
            return False

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()


class _Buffered:
    """An answer that can be read in small and in large pieces."""

    def __init__(self, answer: Answer, tell: Callable[[int], None]) -> None:
        self._answer, self._tell = answer, tell
        self._buffer = memoryview(bytearray(_PIECE))
        self._at = self._end = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        if self._at == self._end:
            self._at, self._end = 0, self._answer.read_into(self._buffer)
            self._tell(self._end)
        part = bytes(self._buffer[self._at : min(self._at + size, self._end)])
        self._at += len(part)
        return part


def _retry_after(text: str) -> float:
    return float(text) if text.strip().isdigit() else 0.0


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
