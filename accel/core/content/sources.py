"""What the fetcher asks of a place that has blocks, and how such a place may fail.

The built-in stores offer this beside the asynchronous contract of `StoragePlugin`, because many threads that each wait
for one block move more bytes than one event loop does. A store of a third party that has the contract alone is asked
through `AsyncSource`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, Protocol

from accel.core.content.cid import Cid
from accel.core.errors import AccelError

if TYPE_CHECKING:
    from accel.core.contracts import StoragePlugin

#: the levels in the order in which they are asked
LEVELS = ("local", "kubo", "store", "gateway", "provider")

#: bytes of a block
Data = bytes | memoryview
Trouble = Literal["missing", "busy", "broken", "lied", "unsupported"]


class SourceError(Exception):
    """A source did not give a block.

    Attributes:
        kind: `missing` (it has none), `busy` (later perhaps), `broken` (no or half an answer), `lied` (other bytes than
            asked for), `unsupported` (it does not speak this).
        wait_s: for `busy`: how long to leave it alone.
    """

    def __init__(self, kind: Trouble, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.kind: Trouble = kind
        self.reason = reason
        self.wait_s = wait_s


class Source(Protocol):
    """A place that has blocks. All methods may be called from several threads at once.

    Attributes:
        name: shown to the user and remembered between runs.
        level: one of `LEVELS`.
    """

    name: str
    level: str

    def get(self, cid: Cid, tell: Callable[[int], None]) -> Data:
        """The bytes it gives for a CID, unchecked, good until the calling thread asks again.

        Args:
            tell: told of bytes as they come, so that a source that stalls can be told from one that is slow.

        Raises:
            SourceError: it did not give them.
        """
        ...

    def stream(self, cid: Cid) -> AbstractContextManager[Iterator[tuple[Cid, bytes]]] | None:
        """All blocks below a CID in one answer, each one checked; None where the source has no such way.

        Raises:
            SourceError: on entering. TransferError: while iterating, when the stream is damaged or cut short.
        """
        ...

    def close(self) -> None:
        """Lets go of connections."""
        ...


class AsyncSource:
    """A store that only has the asynchronous contract, as a source."""

    level = "store"

    def __init__(self, plugin: StoragePlugin) -> None:
        self.name = plugin.name
        self._plugin = plugin

    def get(self, cid: Cid, tell: Callable[[int], None]) -> bytes:
        """See `Source.get`."""
        import asyncio

        try:
            data = asyncio.run(self._plugin.retrieve(str(cid)))
        except AccelError as error:
            raise SourceError("missing", error.message) from error
        except Exception as error:
            # what somebody else's plugin raises is that plugin's matter; the next source is asked
            raise SourceError("broken", f"{type(error).__name__}: {error}") from error
        tell(len(data))
        return data

    def stream(self, cid: Cid) -> None:
        """There is no such way."""
        return

    def close(self) -> None:
        """Nothing is held open."""


def source_of(plugin: StoragePlugin) -> Source:
    """A store as a source."""
    maker = getattr(plugin, "source", None)
    return maker() if callable(maker) else AsyncSource(plugin)
