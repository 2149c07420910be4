"""A Kubo node as a store, through its RPC.

`ipfshttpclient` is used without its check of the node's version, which refuses every current node; commands that it
does not know (`routing/findprovs`) go through its own request. Bulk reads go through the node's own gateway where it
has one that can be reached, because the RPC sends every block in 32 KiB pieces; the RPC serves where it has not.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from accel.core.content import car
from accel.core.content.cid import Cid, parse
from accel.core.content.sources import Source, SourceError
from accel.core.content.trustless import Trustless, is_loopback
from accel.core.contracts import StoragePlugin
from accel.core.errors import TransferError, UnavailableError


@dataclass(frozen=True)
class Provider:
    """A peer that says it has some content: its peer id and its addresses."""

    id: str
    addresses: tuple[str, ...]


class Rpc:
    """The RPC of one node. Safe to use from several threads: each has a session of its own.

    Args:
        address: multiaddr or URL of the RPC.
        timeout_s: how long the node may stay silent.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._own = threading.local()
        self._open: list[Any] = []

    def _client(self) -> Any:
        client = getattr(self._own, "client", None)
        if client is None:
            # it passes an argument that urllib3 2 has no use for and warns about with every request
            warnings.filterwarnings("ignore", "The 'strict' parameter", FutureWarning)
            import ipfshttpclient

            client = ipfshttpclient.Client(_multiaddr(self.address), session=True, timeout=self.timeout_s)
            self._own.client = client
            self._open.append(client)
        return client

    def call(self, path: str, *args: str, **settings: Any) -> Any:
        """One command. Settings are those of ipfshttpclient's request: `opts`, `decoder`, `stream`, `data`, `headers`.

        Raises:
            UnavailableError: no node answers. TransferError: the node refuses, or its answer breaks off.
        """
        client = self._client()
        import ipfshttpclient.exceptions as errors

        try:
            return client._client.request(path, args, **settings)
        except errors.ErrorResponse as error:
            raise TransferError(f"the Kubo node at {self.address}: {error}", "see the node's own log") from error
        except errors.StatusError as error:
            raise TransferError(
                f"the Kubo node at {self.address} refuses {path}: {_first_line(error)}",
                "set ipfs.local_node to the RPC address of a Kubo node of 2022 or later",
            ) from error
        except errors.Error as error:
            raise UnavailableError(
                f"no Kubo node answers at {self.address}: {_first_line(error)}",
                "start one (ipfs daemon), or set ipfs.local_node",
            ) from error

    def close(self) -> None:
        """Closes all sessions."""
        for client in self._open:
            with contextlib.suppress(Exception):
                client.close()
        self._open.clear()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _multiaddr(address: str) -> str:
    if address.startswith("/"):
        return address
    parts = urlsplit(address)
    host = parts.hostname or "127.0.0.1"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    kind = "ip6" if ":" in host else "ip4" if host.replace(".", "").isdigit() else "dns"
    return f"/{kind}/{host}/tcp/{port}/{parts.scheme}"


def _url(multiaddr: str) -> str | None:
    """The URL of a TCP multiaddr, or None."""
    parts = multiaddr.strip("/").split("/")
    if len(parts) < 4 or parts[0] not in ("ip4", "ip6", "dns", "dns4", "dns6") or parts[2] != "tcp":
        return None
    host = f"[{parts[1]}]" if parts[0] == "ip6" else parts[1]
    return f"{'https' if 'https' in parts or 'tls' in parts else 'http'}://{host}:{parts[3]}"


class RpcSource:
    """Blocks through the RPC.

    Args:
        offline: only what the node itself holds; otherwise the node asks its network, which proves peers by their ids.
    """

    def __init__(self, rpc: Rpc, *, offline: bool, level: str, name: str) -> None:
        self._rpc, self._offline = rpc, offline
        self.level, self.name = level, name

    def get(self, cid: Cid, tell: Callable[[int], None]) -> bytes:
        """See `Source.get`."""
        try:
            with self._rpc.call("/block/get", str(cid), stream=True, opts=self._options()) as stream:
                pieces: list[bytes] = []
                got = 0
                for piece in stream:
                    pieces.append(piece)
                    got += len(piece)
                    tell(len(piece))
                    if got > car.LARGEST_BLOCK:
                        raise SourceError("lied", "it sends more than a block may have")
                return b"".join(pieces)
        except TransferError as error:
            raise SourceError("missing", error.message) from error
        except UnavailableError as error:
            raise SourceError("broken", error.message) from error
        except Exception as error:
            raise _broken_stream(error) from error

    def _options(self) -> dict[str, str]:
        return {"offline": "true"} if self._offline else {"timeout": f"{self._rpc.timeout_s:g}s"}

    @contextlib.contextmanager
    def stream(self, cid: Cid) -> Iterator[Iterator[tuple[Cid, bytes]]]:
        """See `Source.stream`."""
        try:
            stream = self._rpc.call("/dag/export", str(cid), stream=True, opts={**self._options(), "progress": "false"})
        except (TransferError, UnavailableError) as error:
            raise SourceError("missing", error.message) from error
        with stream:
            yield iter(car.Reader(_Pieces(stream), self.name))

    def close(self) -> None:
        """Closes the sessions."""
        self._rpc.close()


def _broken_stream(error: Exception) -> Exception:
    """What a stream of requests or ipfshttpclient raises when it breaks off; anything else stays as it is."""
    import ipfshttpclient.exceptions
    import requests
    import urllib3

    known = (ipfshttpclient.exceptions.Error, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
    return SourceError("broken", "its answer was cut short") if isinstance(error, known) else error


class _Pieces:
    """An iterator over bytes, read like a file."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        while self._at == len(self._buffer):
            try:
                self._buffer, self._at = next(self._stream), 0
            except StopIteration:
                return b""
            except Exception as error:
                broken = _broken_stream(error)
                if isinstance(broken, SourceError):
                    raise TransferError(f"the node's answer broke off: {error}", "try again") from error
                raise
        part = self._buffer[self._at : self._at + size]
        self._at += len(part)
        return part


class Kubo(StoragePlugin):
    """One Kubo node.

    Args:
        address: multiaddr or URL of its RPC.
        timeout_s: how long it may stay silent.
    """

    name = "kubo"

    def __init__(self, address: str = "/ip4/127.0.0.1/tcp/5001", timeout_s: float = 30.0) -> None:
        self.address = address
        self.rpc = Rpc(address, timeout_s)

    def version(self) -> str:
        """The node's version, whatever it is.

        Raises:
            UnavailableError: no node answers. TransferError: something else answers.
        """
        answer = self.rpc.call("/version", decoder="json")
        try:
            return str(answer[0]["Version"])
        except (LookupError, TypeError) as error:
            raise TransferError(
                f"what answers at {self.address} is no Kubo node", "set ipfs.local_node to the RPC address of one"
            ) from error

    def source(self) -> Source:
        """The node's own blocks; it asks nobody else for them."""
        name = f"kubo {self.address}"
        gateway = self._gateway()
        if gateway is not None:
            return Trustless(gateway, self.rpc.timeout_s, level="kubo", name=name, cached_only=True)
        return RpcSource(self.rpc, offline=True, level="kubo", name=name)

    def network(self) -> Source:
        """Blocks that the node gets from its peers."""
        return RpcSource(self.rpc, offline=False, level="provider", name=f"peers of kubo {self.address}")

    def _gateway(self) -> str | None:
        """URL of the node's own gateway, if both are on this machine and it serves blocks."""
        rpc = _url(self.address) if self.address.startswith("/") else self.address
        if rpc is None or not is_loopback(rpc):
            return None
        try:
            value = self.rpc.call("/config", "Addresses.Gateway", decoder="json")[0]["Value"]
        except (TransferError, UnavailableError, LookupError, TypeError):
            return None
        for address in [value] if isinstance(value, str) else value or ():
            url = _url(str(address).replace("/0.0.0.0/", "/127.0.0.1/"))
            if url is None or url.endswith(":0") or not is_loopback(url):
                continue
            if Trustless(url, min(2.0, self.rpc.timeout_s)).serves_blocks():
                return url
        return None

    def find_providers(self, cid: Cid, most: int = 8) -> list[Provider]:
        """Peers that say they have the content, as the node's routing knows.

        Raises:
            UnavailableError, TransferError: as `Rpc.call`.
        """
        found: dict[str, Provider] = {}
        options = {"num-providers": str(most), "timeout": f"{self.rpc.timeout_s:g}s"}
        with self.rpc.call("/routing/findprovs", str(cid), decoder="json", stream=True, opts=options) as answers:
            for answer in answers:
                if answer.get("Type") == 4:
                    for peer in answer.get("Responses") or ():
                        found[peer["ID"]] = Provider(peer["ID"], tuple(peer.get("Addrs") or ()))
        return list(found.values())[:most]

    def kept(self) -> tuple[int, int]:
        """Blocks and bytes that the node keeps.

        Raises:
            UnavailableError, TransferError: as `Rpc.call`.
        """
        answer = self.rpc.call("/repo/stat", decoder="json")[0]
        return int(answer["NumObjects"]), int(answer["RepoSize"])

    def connect(self, provider: Provider) -> bool:
        """Has the node connect to a peer; the node checks that the peer is who its id says."""
        for address in provider.addresses:
            with contextlib.suppress(TransferError, UnavailableError):
                self.rpc.call("/swarm/connect", f"{address}/p2p/{provider.id}", decoder="json")
                return True
        return False

    def import_car(self, blocks: Iterator[bytes]) -> None:
        """Gives the node a CAR; it pins the roots that the header names.

        Raises:
            UnavailableError, TransferError: as `Rpc.call`.
        """
        body, headers = _upload(blocks, "content.car")
        answers = self.rpc.call(
            "/dag/import", decoder="json", data=body, headers=headers, opts={"pin-roots": "true", "stats": "false"}
        )
        for answer in answers:
            problem = (answer.get("Root") or {}).get("PinErrorMsg")
            if problem:
                raise TransferError(f"the Kubo node at {self.address} could not pin it: {problem}", "see its own log")

    def announce(self, cid: Cid) -> None:
        """Has the node tell its network that it has the content.

        Raises:
            TransferError: it has no network. UnavailableError: no node answers.
        """
        self.rpc.call("/routing/provide", str(cid), decoder="json")

    async def store(self, data: bytes) -> str:
        """Puts one raw block into the node, pinned, and returns its CID.

        Raises:
            UnavailableError, TransferError: as `Rpc.call`.
        """
        return await asyncio.to_thread(self._store, data)

    def _store(self, data: bytes) -> str:
        body, headers = _upload(iter([data]), "block")
        options = {"cid-codec": "raw", "mhtype": "sha2-256", "pin": "true"}
        answer = self.rpc.call("/block/put", decoder="json", data=body, headers=headers, opts=options)
        return str(parse(answer[0]["Key"]))

    async def retrieve(self, id: str) -> bytes:
        """The block with this CID from the node itself, checked.

        Raises:
            UnavailableError: no node answers. TransferError: the node has not got it, or gave something else.
        """
        return await asyncio.to_thread(self._retrieve, parse(id))

    def _retrieve(self, cid: Cid) -> bytes:
        data = self.rpc.call("/block/get", str(cid), opts={"offline": "true"})
        if not cid.matches(data):
            raise TransferError(f"the Kubo node at {self.address} sent wrong bytes for {cid}", "check its disk")
        return bytes(data)

    async def list_stored(self) -> AsyncIterator[str]:
        """CIDs of all blocks of the node. It keeps blocks without their codec, so each is named as raw."""
        for cid in await asyncio.to_thread(self._list):
            yield cid

    def _list(self) -> list[str]:
        with self.rpc.call("/refs/local", decoder="json", stream=True) as answers:
            return [str(parse(answer["Ref"])) for answer in answers if answer.get("Ref")]

    def close(self) -> None:
        """Closes all sessions."""
        self.rpc.close()


def _upload(data: Iterator[bytes], name: str) -> tuple[Iterator[bytes], dict[str, str]]:
    """A form with one file, streamed."""
    import secrets

    mark = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        yield (
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        yield from data
        yield f"\r\n--{mark}--\r\n".encode()

    return body(), {"Content-Type": f"multipart/form-data; boundary={mark}"}


PLUGIN = Kubo
