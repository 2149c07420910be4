from __future__ import annotations

import asyncio
import random

import pytest

from accel.core import registry
from accel.core.content.cid import of
from accel.core.errors import InputError, TransferError, UnavailableError
from tests.gateway import Gateway

DATA = b"a block of bytes" * 1000


def test_the_contract() -> None:
    with Gateway([(of(DATA), DATA)]) as gateway:
        store = registry.store("gateway", url=gateway.url)
        assert asyncio.run(store.retrieve(str(of(DATA)))) == DATA
        with pytest.raises(UnavailableError, match="takes no content"):
            asyncio.run(store.store(DATA))

        async def listed() -> list[str]:
            return [cid async for cid in store.list_stored()]

        assert asyncio.run(listed()) == []


@pytest.mark.parametrize(
    "behaviour", ["lie", "truncate", "html", "missing", "busy", "close", "redirect", "huge", "stall"]
)
def test_whatever_goes_wrong_is_one_kind_of_error(behaviour: str) -> None:
    with Gateway([(of(DATA), DATA)], behaviour) as gateway:
        store = registry.store("gateway", url=gateway.url, timeout_s=0.5)
        with pytest.raises(TransferError) as caught:
            asyncio.run(store.retrieve(str(of(DATA))))
        assert gateway.url in caught.value.message


def test_every_flipped_bit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(4)

    class Flipping(Gateway):
        def _raw(self, handler: object, data: bytes, behaviour: str) -> None:
            changed = bytearray(data)
            changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            super()._raw(handler, bytes(changed), behaviour)

    with Flipping([(of(DATA), DATA)]) as gateway:
        store = registry.store("gateway", url=gateway.url)
        for _ in range(200):
            with pytest.raises(TransferError, match="wrong bytes"):
                asyncio.run(store.retrieve(str(of(DATA))))


@pytest.mark.parametrize("url", ["http://example.org", "ftp://example.org", "example.org", "http://10.0.0.1", ""])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        registry.store("gateway", url=url)


@pytest.mark.parametrize(
    "url", ["https://example.org/", "http://localhost:8080", "http://127.0.0.1:1", "http://[::1]:8080"]
)
def test_urls_that_are_taken(url: str) -> None:
    registry.store("gateway", url=url)
