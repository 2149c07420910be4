"""The embedded store under the home folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from accel.core.content.blockstore import Store
from accel.core.content.cid import of, parse
from accel.core.contracts import StoragePlugin


class Local(StoragePlugin):
    """Blocks in the local content store.

    Args:
        root: folder of the store, by default the one under the home folder.
    """

    name = "local"

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    async def store(self, data: bytes) -> str:
        """Keeps one raw block, durably, and returns its CID; unpinned blocks may be evicted later.

        Raises:
            InputError: more than a block may have. TransferError: the disk is full or read-only.
        """
        return await asyncio.to_thread(self._store, data)

    def _store(self, data: bytes) -> str:
        from accel.core.content.car import LARGEST_BLOCK
        from accel.core.errors import InputError

        if len(data) > LARGEST_BLOCK:
            raise InputError(
                f"a block of {len(data):,} bytes is too large", f"at most {LARGEST_BLOCK:,}; pin a file instead"
            )
        cid = of(data)
        with Store(self._root) as store, store.writer() as writer:
            writer.put_new([(cid, data)])
            writer.commit()
        return str(cid)

    async def retrieve(self, id: str) -> bytes:
        """The block with this CID, checked.

        Raises:
            TransferError: it is not here, or damaged.
        """
        return await asyncio.to_thread(self._retrieve, id)

    def _retrieve(self, id: str) -> bytes:
        with Store(self._root) as store:
            return store.require(parse(id))

    async def list_stored(self) -> AsyncIterator[str]:
        """CIDs of all blocks, pinned or not."""
        found = await asyncio.to_thread(self._list)
        for cid in found:
            yield cid

    def _list(self) -> list[str]:
        with Store(self._root) as store:
            return [str(cid) for cid in store.index.cids()]


PLUGIN = Local
