"""Fetches that stopped go on, and what is damaged is repaired from farther away."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.core import paths
from accel.core.content import verify
from accel.core.content.cid import Cid
from accel.core.errors import TransferError
from tests.core.content.helpers import OFFLINE, Blocks, all_blocks, fetch, flip, near, pinned, random_file, tree
from tests.gateway import Gateway

MIB = 1 << 20


class TestResume:
    def test_no_verified_block_is_fetched_again(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        with Gateway(blocks) as first:
            first.behaviour, first.after = "close", 5
            with pytest.raises(TransferError):
                fetch(root, first)
            assert len(first.served) == 5
        with Gateway(blocks) as second:
            done = fetch(root, second)
            assert tree(done.path) == tree(source)
            assert not set(second.asked) & first.served

    def test_to_an_output_as_well(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        source, root, blocks = content
        out = tmp_path / "out"
        with Gateway(blocks) as first:
            first.behaviour, first.after = "close", 7
            with pytest.raises(TransferError):
                fetch(root, first, output=out)
            assert not out.exists()
            assert len(first.served) == 7
        with Gateway(blocks) as second:
            assert fetch(root, second, output=out).path == out
            assert tree(out) == tree(source)
            assert not set(second.asked) & first.served
        assert [path.name for path in tmp_path.glob(".*")] == []

    def test_a_damaged_remainder_is_not_believed(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        with Gateway(blocks) as first:
            first.behaviour, first.after = "close", 8
            with pytest.raises(TransferError):
                fetch(root, first)
        (part,) = (paths.home() / "content" / "files").glob("part-*")
        for offset in (10, MIB + 5, 2 * MIB + 7):
            flip(part, offset)
        with Gateway(blocks) as second:
            assert tree(fetch(root, second).path) == tree(source)


class TestRepair:
    def test_a_damaged_block_comes_from_the_network(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        pinned(source)
        (file,) = (paths.home() / "content" / "files").iterdir()
        flip(file, 3 * MIB + 99)
        assert not verify.verify(OFFLINE).sound
        with Gateway(blocks) as gateway:
            done = fetch(root, gateway)
            assert gateway.requests <= 3
        assert done.repaired == [f"{file} at byte {3 * MIB}"]
        assert tree(done.path) == tree(source)
        assert verify.verify(OFFLINE).sound

    def test_a_damaged_node_comes_from_the_network(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        pinned(source)
        for pack in (paths.home() / "content" / "packs").iterdir():
            for offset in range(100, pack.stat().st_size, 40):
                flip(pack, offset)
        with Gateway(blocks) as gateway:
            assert tree(fetch(root, gateway).path) == tree(source)
        assert verify.verify(OFFLINE).sound

    def test_verify_repairs(self, content: tuple[Path, Cid, Blocks]) -> None:
        source, root, blocks = content
        pinned(source)
        for path in (paths.home() / "content" / "files").iterdir():
            path.chmod(0o644)
            path.write_bytes(b"")
        for pack in (paths.home() / "content" / "packs").iterdir():
            pack.unlink()
        with Gateway(blocks) as gateway:
            found = verify.verify(near(gateway), repair=True)
        assert found.sound, found.notes
        assert {fault.by for fault in found.faults} == {gateway.url}
        assert verify.verify(OFFLINE).sound
        assert tree(fetch(root).path) == tree(source)

    def test_a_reference_that_changed(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "weights", 5 * MIB)
        data = source.read_bytes()
        root, blocks = all_blocks(source)
        pinned(source, reference=True)
        flip(source, 2 * MIB)
        with Gateway(blocks) as gateway:
            assert fetch(root, gateway).path.read_bytes() == data
            assert gateway.requests == 1
