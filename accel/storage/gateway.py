"""Trustless gateways as a store: blocks by CID over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from accel.core.content.cid import Cid, parse
from accel.core.content.sources import SourceError
from accel.core.content.trustless import Trustless
from accel.core.contracts import StoragePlugin
from accel.core.errors import TransferError, UnavailableError


class Gateway(StoragePlugin):
    """One trustless gateway. Arguments and errors are those of `Trustless`."""

    name = "gateway"

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        self._client = Trustless(url, timeout_s)

    def source(self) -> Trustless:
        """The gateway for the fetcher, which asks it from threads."""
        return self._client

    async def store(self, data: bytes) -> str:
        """A gateway only reads.

        Raises:
            UnavailableError: always.
        """
        raise UnavailableError(
            f"the gateway {self._client.url} takes no content", "pin it in the local store or at a Kubo node"
        )

    async def retrieve(self, id: str) -> bytes:
        """The block with this CID, checked.

        Raises:
            TransferError: it could not be had, or does not match.
        """
        cid = parse(id)
        try:
            data = await asyncio.to_thread(self._get, cid)
        except SourceError as error:
            raise TransferError(
                f"{self._client.name} did not give the block {id}: {error.reason}", "try another gateway"
            ) from error
        if not cid.matches(data):
            raise TransferError(f"{self._client.name} sent wrong bytes for the block {id}", "try another gateway")
        return data

    def _get(self, cid: Cid) -> bytes:
        return bytes(self._client.get(cid, lambda _: None))

    async def list_stored(self) -> AsyncIterator[str]:
        """A gateway does not tell what it keeps: nothing."""
        nothing: tuple[str, ...] = ()
        for item in nothing:
            yield item


PLUGIN = Gateway
