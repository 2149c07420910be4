"""Content that means harm: every one gets a clear refusal before anything is written outside, or at all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from accel.core.content import car, getting, pinning, unixfs
from accel.core.content.cid import DAG_PB, RAW, Cid, of
from accel.core.content.dagpb import Link, encode
from accel.core.content.unixfs import FOLDER_DATA, file_data, shard_data, symlink_block
from accel.core.content.walk import Content, Walk, matches, resolve
from accel.core.errors import AccelError, IncompatibleError, InputError, TransferError
from tests.core.content.helpers import OFFLINE


class Blocks(dict[Cid, bytes]):
    """Blocks made by hand."""

    def raw(self, data: bytes) -> Link:
        cid = of(data)
        self[cid] = data
        return Link(cid, b"", len(data))

    def node(self, links: Sequence[Link], data: bytes) -> Link:
        block = encode(links, data)
        cid = of(block, DAG_PB)
        self[cid] = block
        return Link(cid, b"", len(block) + sum(link.size for link in links))

    def folder(self, **entries: Link) -> Link:
        return self.folder_of({name.encode(): link for name, link in entries.items()})

    def folder_of(self, entries: dict[bytes, Link]) -> Link:
        return self.node([Link(link.cid, name, link.size) for name, link in sorted(entries.items())], FOLDER_DATA)

    def link(self, target: bytes) -> Link:
        block = symlink_block(target)
        cid = of(block, DAG_PB)
        self[cid] = block
        return Link(cid, b"", len(block))

    def load(self, cids: Sequence[Cid]) -> Iterator[tuple[Cid, bytes]]:
        for cid in cids:
            yield cid, self[cid]

    def walk(self, root: Link, **settings: object) -> Content:
        return Walk(self.load, **settings).run(root.cid)  # type: ignore[arg-type]

    def car(self, root: Link, path: Path) -> Path:
        with path.open("wb") as out:
            car.write(self.items(), [root.cid], out.write)
        return path


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.mark.parametrize(
    "name", [b"..", b".", b"", b"/etc/passwd", b"a/b", b"../x", b"nul\0l", b"n" * 256, b"a/../../x", b"/"]
)
def test_names_that_lead_away(blocks: Blocks, name: bytes, tmp_path: Path) -> None:
    root = blocks.folder_of({name: blocks.raw(b"payload"), b"config.json": blocks.raw(b"{}")})
    with pytest.raises(TransferError, match=r"lead out of its folder|a name of"):
        blocks.walk(root)
    with pytest.raises(TransferError):
        pinning.import_car(blocks.car(root, tmp_path / "bad.car"), OFFLINE)
    assert pinning.listing() == []


@pytest.mark.parametrize("name", [b"..", b"a/b"])
def test_such_names_in_shards(blocks: Blocks, name: bytes) -> None:
    leaf = blocks.raw(b"payload")
    root = blocks.node([Link(leaf.cid, b"05" + name, leaf.size)], shard_data(1 << 5))
    with pytest.raises(TransferError, match="lead out"):
        blocks.walk(root)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("link", b"/etc/passwd"),
        ("link", b"../outside"),
        ("link", b"sub/../../outside"),
        ("sub/link", b"../../outside"),
        ("link", b""),
        ("link", b"a\0b"),
    ],
)
def test_links_that_lead_out(blocks: Blocks, path: str, target: bytes, tmp_path: Path) -> None:
    link = blocks.link(target)
    root = blocks.folder(sub=blocks.folder(link=link)) if "/" in path else blocks.folder(link=link)
    with pytest.raises(TransferError, match="leads out"):
        blocks.walk(root)
    with pytest.raises(TransferError, match="leads out"):
        pinning.import_car(blocks.car(root, tmp_path / "bad.car"), OFFLINE)


def test_links_that_lead_out_through_one_another(blocks: Blocks) -> None:
    # `a` is the root itself, seen from `sub`; `b` goes one further up, through it
    root = blocks.folder(sub=blocks.folder(a=blocks.link(b"..")), b=blocks.link(b"sub/a/../outside"))
    with pytest.raises(TransferError, match="leads out"):
        blocks.walk(root)


def test_links_in_circles(blocks: Blocks) -> None:
    with pytest.raises(TransferError, match="leads out"):
        blocks.walk(blocks.folder(a=blocks.link(b"b"), b=blocks.link(b"a")))


def test_links_that_stay_inside(blocks: Blocks) -> None:
    root = blocks.folder(
        file=blocks.raw(b"x"),
        sub=blocks.folder(up=blocks.link(b"../file"), here=blocks.link(b"./up")),
        dangling=blocks.link(b"no"),
    )
    assert len(blocks.walk(root).links) == 3


def test_a_root_that_is_a_link(blocks: Blocks) -> None:
    with pytest.raises(TransferError, match="root is a symbolic link"):
        blocks.walk(blocks.link(b"/etc/passwd"))


def test_two_entries_of_one_name(blocks: Blocks) -> None:
    one, other = blocks.raw(b"1"), blocks.raw(b"2")
    root = blocks.node([Link(one.cid, b"x", 1), Link(other.cid, b"x", 1)], FOLDER_DATA)
    with pytest.raises(TransferError, match="two entries 'x'"):
        blocks.walk(root)


def test_a_file_that_claims_to_be_huge(blocks: Blocks, tmp_path: Path) -> None:
    """A few blocks that claim to be an exabyte: the same nodes again and again."""
    leaf = blocks.raw(b"x" * 1000)
    size, link = 1000, leaf
    for _ in range(5):
        link = blocks.node([Link(link.cid, b"", link.size)] * 1000, file_data([size] * 1000))
        size *= 1000
    assert sum(map(len, blocks.values())) < 400_000
    started = time.monotonic()
    with pytest.raises(IncompatibleError, match="larger than"):
        blocks.walk(link, limit=(10**12, "the free space of the disk"))
    with pytest.raises(AccelError):
        pinning.import_car(blocks.car(blocks.folder(bomb=link), tmp_path / "bomb.car"), OFFLINE)
    assert time.monotonic() - started < 20


def test_folders_that_claim_to_be_endless(blocks: Blocks) -> None:
    link = blocks.raw(b"x")
    for _ in range(12):
        folder = blocks.folder_of({b"%04d" % n: Link(link.cid, b"", 1) for n in range(1000)})
        link = Link(folder.cid, b"", 1)
    started = time.monotonic()
    with pytest.raises(TransferError, match="more than 1,000,000 entries"):
        blocks.walk(link)
    assert time.monotonic() - started < 30


def test_files_of_endless_empty_parts(blocks: Blocks) -> None:
    link = blocks.raw(b"")
    for _ in range(10):
        link = blocks.node([Link(link.cid, b"", 0)] * 1000, file_data([0] * 1000))
    with pytest.raises(TransferError, match="is empty"):
        blocks.walk(link)


def test_files_of_endless_tiny_parts(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.core.content.walk._MOST_LEAVES", 400_000)
    size, link = 1, blocks.raw(b"x")
    for _ in range(3):
        link = blocks.node([Link(link.cid, b"", link.size)] * 1000, file_data([size] * 1000))
        size *= 1000
    with pytest.raises(TransferError, match="more than 400,000 blocks"):
        blocks.walk(link)


def test_folders_nested_too_deep(blocks: Blocks) -> None:
    link = blocks.raw(b"x")
    for _ in range(250):
        link = blocks.folder(d=link)
    with pytest.raises(TransferError, match="nested more than"):
        blocks.walk(link)


def test_parts_that_contradict_each_other(blocks: Blocks) -> None:
    leaf = blocks.raw(b"x" * 10)
    with pytest.raises(TransferError, match="tells the size of 2"):
        blocks.walk(blocks.node([leaf], file_data([10, 5])))
    inner = blocks.node([leaf, leaf], file_data([10, 10]))
    with pytest.raises(TransferError, match="claims 15 bytes and has 20"):
        blocks.walk(blocks.node([inner], file_data([15])))
    with pytest.raises(TransferError, match="claims 99 bytes"):
        blocks.walk(blocks.node([leaf], b"\x08\x02\x18\x63\x20\x0a"))


def test_a_leaf_of_another_length_than_claimed(blocks: Blocks, tmp_path: Path) -> None:
    leaf = blocks.raw(b"x" * 10)
    root = blocks.folder(weights=blocks.node([leaf, leaf], file_data([10, 500])))
    path = blocks.car(root, tmp_path / "bad.car")
    with pytest.raises(TransferError, match="claims 500 bytes and has 10"):
        pinning.import_car(path, OFFLINE)
    with pytest.raises(TransferError, match="claims 500 bytes and has 10"):
        getting.fetch(getting.Wish(str(root.cid)), OFFLINE)
    assert pinning.listing() == []


def test_a_part_of_a_file_that_is_a_folder(blocks: Blocks) -> None:
    with pytest.raises(TransferError, match="no part of a file"):
        blocks.walk(blocks.node([blocks.folder(x=blocks.raw(b"x"))], file_data([1])))


def test_a_shard_that_contradicts_itself(blocks: Blocks) -> None:
    leaf = blocks.raw(b"x")
    entry = Link(leaf.cid, b"05name", 1)
    for data, word in (
        (shard_data(0b11 << 5), "bit field"),
        (shard_data(1 << 5, fanout=100), "fanout"),
        (shard_data(1 << 5, fanout=1 << 20), "fanout"),
        (shard_data(1 << 5).replace(b"\x28\x22", b"\x28\x23"), "hash function"),
    ):
        with pytest.raises(TransferError, match=word):
            blocks.walk(blocks.node([entry], data))
    folder = blocks.folder(x=leaf)
    with pytest.raises(TransferError, match="is none"):
        blocks.walk(blocks.node([Link(folder.cid, b"05", folder.size)], shard_data(1 << 5)))


def test_shards_without_end(blocks: Blocks) -> None:
    leaf = blocks.raw(b"x")
    link = blocks.node([Link(leaf.cid, b"05name", 1)], shard_data(1 << 5))
    for _ in range(20):
        link = blocks.node([Link(link.cid, b"05", link.size)], shard_data(1 << 5))
    with pytest.raises(TransferError, match="deeper than their hash"):
        blocks.walk(link)


def test_a_cyclic_claim(blocks: Blocks, tmp_path: Path) -> None:
    """A CAR whose blocks name each other, which real hashes cannot do: the names do not match."""
    first, second = Cid(DAG_PB, b"1" * 32), Cid(DAG_PB, b"2" * 32)
    path = tmp_path / "cycle.car"
    with path.open("wb") as out:
        made = [
            (first, encode([Link(second, b"d", 10)], FOLDER_DATA)),
            (second, encode([Link(first, b"d", 10)], FOLDER_DATA)),
        ]
        car.write(made, [first], out.write)
    with pytest.raises(TransferError, match="does not match its name"):
        pinning.import_car(path, OFFLINE)


def test_other_hash_functions_and_codecs_below_the_root(blocks: Blocks) -> None:
    foreign = b"\x01\x55\xa0\xe4\x02\x20" + bytes(32)
    block = b"\x12" + bytes([len(foreign) + 8]) + b"\x0a" + bytes([len(foreign)]) + foreign + b"\x12\x02ab\x18\x05"
    block += b"\x0a\x02\x08\x01"
    cid = of(block, DAG_PB)
    blocks[cid] = block
    with pytest.raises(IncompatibleError, match="blake2b"):
        Walk(blocks.load).run(cid)


def test_a_node_that_is_no_unixfs(blocks: Blocks) -> None:
    with pytest.raises(TransferError, match="UnixFS"):
        blocks.walk(blocks.node([], b"hello"))
    with pytest.raises(TransferError, match="neither file"):
        blocks.walk(blocks.node([], b"\x08\x03"))


def test_files_with_their_data_in_nodes(blocks: Blocks, tmp_path: Path) -> None:
    """Content of CIDv0 days: leaves are nodes with data inside."""
    leaves = [blocks.node([], b"\x08\x02\x12\x03abc\x18\x03"), blocks.node([], b"\x08\x02\x12\x02de\x18\x02")]
    root = blocks.folder(old=blocks.node(leaves, file_data([3, 2])), small=leaves[0])
    pinning.import_car(blocks.car(root, tmp_path / "old.car"), OFFLINE)
    path = getting.fetch(getting.Wish(str(root.cid)), OFFLINE).path
    assert (path / "old").read_bytes() == b"abcde"
    assert (path / "small").read_bytes() == b"abc"


def test_the_limit_in_the_users_words(blocks: Blocks) -> None:
    root = blocks.folder(a=blocks.raw(b"x" * 600), b=blocks.raw(b"y" * 600))
    assert blocks.walk(root, limit=(1200, "--max-size allows")).size == 1200
    with pytest.raises(IncompatibleError, match="--max-size"):
        blocks.walk(root, limit=(1199, "--max-size allows"))


def test_parts_of_content(blocks: Blocks) -> None:
    root = blocks.folder_of(
        {
            b"config.json": blocks.raw(b"{}"),
            b"model.bin": blocks.raw(b"b"),
            b"onnx": blocks.folder(config=blocks.raw(b"c")),
        }
    )
    chosen = blocks.walk(root, only=["*.json"])
    assert [file.path for file in chosen.files] == [(b"config.json",)]
    assert chosen.folders == []
    assert chosen.skipped == 2
    with pytest.raises(InputError, match="nothing in"):
        blocks.walk(root, only=["*.safetensors"])


@pytest.mark.parametrize(
    ("path", "pattern", "found"),
    [
        ("config.json", "config.json", True),
        ("sub/config.json", "config.json", True),
        ("sub/config.json", "/config.json", False),
        ("sub/config.json", "sub/*", True),
        ("a.SAFETENSORS", "*.safetensors", False),
        ("x", "[", False),
    ],
)
def test_patterns(path: str, pattern: str, found: bool) -> None:
    assert matches(tuple(path.encode().split(b"/")), [pattern]) is found


def test_paths_below_a_root(blocks: Blocks) -> None:
    leaf = blocks.raw(b"deep")
    root = blocks.folder(a=blocks.folder(b=leaf))
    assert resolve(root.cid, ("a", "b"), blocks.load) == leaf.cid
    for names in (("x",), ("a", "b", "c"), ("a", "x")):
        with pytest.raises(InputError):
            resolve(root.cid, names, blocks.load)


def test_a_path_through_shards(blocks: Blocks) -> None:
    from accel.core.content import folders

    made: dict[Cid, bytes] = {}
    leaf = blocks.raw(b"x")
    entry = unixfs.Entry(leaf.cid, 1, 1)
    root = folders.build({b"%020d" % n: entry for n in range(6000)}, unixfs.MODERN, made.__setitem__)
    blocks.update(made)
    assert len(made) > 100
    assert resolve(root.cid, (f"{4321:020d}",), blocks.load) == leaf.cid
    assert len(Walk(blocks.load).run(root.cid).files) == 6000


def test_a_raw_root(blocks: Blocks) -> None:
    leaf = blocks.raw(b"just bytes")
    content = blocks.walk(leaf)
    assert content.files[0].leaves[0].cid == leaf.cid
    assert leaf.cid.codec == RAW
