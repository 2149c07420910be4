from __future__ import annotations

import asyncio

import pytest

from accel.core import registry
from accel.core.content.cid import of
from accel.core.errors import InputError, TransferError


async def everything(store: object) -> list[str]:
    return [cid async for cid in store.list_stored()]  # type: ignore[attr-defined]


def test_the_contract() -> None:
    store = registry.store("local")
    data = b"a block"
    cid = asyncio.run(store.store(data))
    assert cid == str(of(data))
    assert asyncio.run(store.retrieve(cid)) == data
    assert asyncio.run(everything(store)) == [cid]
    assert asyncio.run(store.store(data)) == cid
    assert asyncio.run(everything(store)) == [cid]


def test_many_at_once() -> None:
    store = registry.store("local")

    async def work() -> list[bytes]:
        cids = await asyncio.gather(*(store.store(b"%d" % n) for n in range(20)))
        return await asyncio.gather(*(store.retrieve(cid) for cid in cids))

    assert asyncio.run(work()) == [b"%d" % n for n in range(20)]
    assert len(asyncio.run(everything(store))) == 20


def test_what_is_not_there() -> None:
    store = registry.store("local")
    with pytest.raises(TransferError, match="not in the local store"):
        asyncio.run(store.retrieve(str(of(b"nothing"))))
    with pytest.raises(InputError):
        asyncio.run(store.retrieve("nonsense"))


def test_a_block_that_is_too_large() -> None:
    with pytest.raises(InputError, match="too large"):
        asyncio.run(registry.store("local").store(bytes(5 << 20)))
