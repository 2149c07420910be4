"""200 flipped bits in each kind of place: each one is found, named, and repaired from a gateway that has the content.

That a single one is found is proven in test_store.py; here several at a time are, in blocks of their own, which costs
one check for all.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from accel.core import paths
from accel.core.content import pinning, transfer, verify
from accel.core.content.blockstore import Store
from accel.core.content.cid import parse
from accel.core.content.getting import Wish
from accel.core.content.getting import fetch as get
from accel.core.content.index import Place
from accel.core.content.unixfs import Profile
from accel.core.errors import AccelError, TransferError
from tests.core.content.helpers import OFFLINE, all_blocks, fetch, flip, model, near, pinned, random_file, tree
from tests.gateway import Gateway

#: many blocks in little content
SMALL = Profile("small", 8192, 16, True)
ROUNDS, FLIPS = 10, 20


def places() -> list[Place]:
    """Every copy of a block that has bytes, one for each block."""
    with Store() as store:
        found = {cid: store.index.places(cid.digest) for cid in store.index.cids()}
    return [copies[0] for copies in found.values() if copies and copies[0].length]


def damage(generator: random.Random, count: int) -> set[str]:
    """Flips one bit in each of so many blocks and returns where the blocks are."""
    root = paths.home() / "content"
    chosen = generator.sample(places(), count)
    for place in chosen:
        flip(root / place.path, place.offset + generator.randrange(place.length), generator.randrange(8))
    return {f"{root / place.path} at byte {place.offset}" for place in chosen}


@pytest.mark.parametrize("reference", [False, True], ids=["blocks", "files by reference"])
def test_of_what_is_kept(tmp_path: Path, reference: bool) -> None:
    generator = random.Random(15)
    repaired = 0
    for number in range(ROUNDS):
        # a new file each time: what was repaired lies in the store afterwards, also where the bytes were by reference
        source = model(tmp_path / f"source-{number}", weights=500_000, seed=100 + number)
        good = tree(source)
        root, blocks = all_blocks(source, SMALL)
        pinned(source, SMALL, reference=reference)
        expected = damage(generator, FLIPS)
        found = verify.verify(OFFLINE)
        assert not found.sound
        assert {where for fault in found.faults for where in fault.where.split("; ") if where} == expected
        with Gateway(blocks) as gateway:
            found = verify.verify(near(gateway), repair=True)
            assert found.sound, [vars(fault) for fault in found.faults if not fault.repaired]
            assert {fault.by for fault in found.faults} == {gateway.url}
            assert sum(fault.kind == "damaged" for fault in found.faults) == FLIPS
            repaired += FLIPS
        assert verify.verify(OFFLINE).sound
        assert tree(get(Wish(str(root)), OFFLINE).path) == good
        pinning.unpin(str(root))
        pinning.collect_garbage()
    assert repaired == 200


def test_of_a_car_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The good blocks of the file are taken and the damaged one is fetched; only a header cannot be had elsewhere."""
    source = model(tmp_path / "model", weights=120_000)
    root, blocks = all_blocks(source, SMALL)
    cid = pinned(source, SMALL)
    assert cid == root
    file = tmp_path / "model.car"
    size = transfer.write_car(Store(), [cid], file)
    header = len(transfer.car.header([cid]))
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "other home"))
    generator = random.Random(3)
    flip(file, size - 5)
    with pytest.raises(TransferError, match=r"model\.car: .* at byte \d+; no source|not in the local store"):
        pinning.import_car(file, OFFLINE)
    # the good blocks are here now, and would complete the next one
    pinning.collect_garbage()
    flip(file, size - 5)
    repaired = 0
    with Gateway(blocks) as gateway:
        for _ in range(200):
            position, bit = generator.randrange(size), generator.randrange(8)
            flip(file, position, bit)
            if position < header:
                with pytest.raises(AccelError):
                    pinning.import_car(file, near(gateway))
            else:
                done = pinning.import_car(file, near(gateway))
                assert [parse(pin.cid) for pin in done.pins] == [root]
                assert done.level == "gateway"
                assert any(re.search(r"model\.car: .* at byte \d+$", damage) for damage in done.damaged)
                repaired += 1
                pinning.unpin(str(root))
                pinning.collect_garbage()
            flip(file, position, bit)
    assert repaired > 190
    assert pinning.import_car(file, OFFLINE).damaged == []


def test_of_answers_of_gateways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that flips one bit of one answer and of nothing else, beside one that is right."""
    source = random_file(tmp_path / "weights", 100_000)
    root, blocks = all_blocks(source, SMALL)
    generator = random.Random(8)

    class Flipping(Gateway):
        flipped = ""

        def _raw(self, handler: object, data: bytes, behaviour: str) -> None:
            if data and not self.flipped and self.requests > self.after:
                changed = bytearray(data)
                changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
                data, self.flipped = bytes(changed), "yes"
            super()._raw(handler, data, behaviour)

    found = 0
    number = 0
    with Gateway(blocks) as right:
        while found < 200:
            number += 1
            monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / f"home-{number}"))
            with Flipping(blocks, after=number % 4) as wrong:
                done = fetch(root, wrong, right)
                assert done.path.read_bytes() == source.read_bytes()
                if wrong.flipped:
                    assert [(d["name"], "wrong bytes" in d["reason"]) for d in done.dropped] == [(wrong.url, True)]
                    found += 1
            assert number < 400
