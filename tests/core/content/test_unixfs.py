"""CIDs of files and folders: the published vectors, and whatever a real Kubo gives for the same."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from accel.core.content import dagpb, folders, importer, murmur3, unixfs
from accel.core.content.cid import Cid
from accel.core.content.hashing import hash_spans, spans_of
from accel.core.content.unixfs import LEGACY, MODERN, Profile
from accel.core.errors import InputError, TransferError
from tests.core.content.helpers import random_file
from tests.kubo import Node

VECTORS = [
    (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", None),
    (10, "bafkreieub662kk3up7lguix5t3gozylsy3cxxfitx5htmw2bbg2dux7lw4", None),
    (262144, "bafkreigxsnkzofoml4nfsllhkgnvwe4qgkit75xgoq6wim7wlmnyrwyiim", None),
    (
        262145,
        "bafybeielfg5erc3zar526fo5zul4oftoear7ldold2vf43hj35d5cemoii",
        "bafkreiayeqeodfic3prlpfr2qauzljdqyxb7mmy2d5omdzy6tmvrezspiy",
    ),
    (
        5_000_000,
        "bafybeietzyezsc52s3mlypharzltydi3bcjbikcs3mt6mqnz2poaoursme",
        "bafybeickfboc5hy3sb3wyw4engcd6zzozoiejkohp2mashs2vikw4bwhqe",
    ),
    (
        100_000_000,
        "bafybeig3lveuakr5oozhsmyedfchyyzat6syn2z4j234sxm3u45eoacdkq",
        "bafybeibym7ea63mo5dknjwwoxru2u7kz2ihhjyd2gqi2tvr4pc5wsdt4ou",
    ),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("kubo") / "repo")


@pytest.fixture(scope="module")
def legacy_node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("kubo-legacy") / "repo", profile="default")


def by_kubo(node: Node, legacy_node: Node, path: Path, profile: Profile) -> str:
    if profile is MODERN:
        return node.only_hash(path)
    return legacy_node.only_hash(path, "--cid-version=1")


def test_the_published_vectors(tmp_path: Path) -> None:
    generator = random.Random(42)
    for size, legacy, modern in VECTORS:
        path = tmp_path / str(size)
        path.write_bytes(generator.randbytes(size))
        assert str(importer.cid_of(path, LEGACY)) == legacy
        assert str(importer.cid_of(path, MODERN)) == (modern or legacy)


def test_profiles_have_names() -> None:
    assert unixfs.profile("kubo-legacy") is LEGACY
    with pytest.raises(InputError, match="unixfs-v2"):
        unixfs.profile("unixfs-v2")


@pytest.mark.parametrize("profile", [MODERN, LEGACY], ids=lambda p: p.name)
def test_files_at_every_boundary_as_kubo_does(tmp_path: Path, node: Node, legacy_node: Node, profile: Profile) -> None:
    chunk = profile.chunk
    for number, size in enumerate((0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk - 1)):
        path = random_file(tmp_path / f"file-{size}", size, number)
        assert str(importer.cid_of(path, profile)) == by_kubo(node, legacy_node, path, profile), size


@pytest.mark.parametrize("extra", [0, 1])
def test_a_second_row_of_nodes_as_kubo_does(tmp_path: Path, legacy_node: Node, node: Node, extra: int) -> None:
    path = random_file(tmp_path / "wide", LEGACY.width * LEGACY.chunk + extra)
    assert str(importer.cid_of(path, LEGACY)) == by_kubo(node, legacy_node, path, LEGACY)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [0, 1])
def test_a_second_row_of_nodes_of_the_modern_profile(tmp_path: Path, node: Node, extra: int) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as out:
        # a file of zeros takes no room on the disk and still has all its chunks
        out.truncate(MODERN.width * MODERN.chunk + extra)
        out.write(b"x")
    assert str(importer.cid_of(path, MODERN)) == node.only_hash(path)


@pytest.mark.parametrize("count", [174 * 174, 174 * 174 + 1, 174 * 2])
def test_three_rows_of_nodes_as_the_rule_says(count: int) -> None:
    """Against a second, plain implementation of the balanced layout: rows of nodes until one is left."""
    tree = unixfs.FileTree(174, lambda *_: None)
    row = [Cid(0x55, hashlib.sha256(b"%d" % n).digest()) for n in range(count)]
    entries = [unixfs.Entry(cid, 1, 1) for cid in row]
    for cid in row:
        tree.add(cid.digest, 1)
    while len(entries) > 1:
        groups = [entries[start : start + 174] for start in range(0, len(entries), 174)]
        entries = [
            unixfs.node_entry(
                [dagpb.Link(e.cid, b"", e.total) for e in group],
                unixfs.file_data([e.size for e in group]),
                sum(e.size for e in group),
                lambda *_: None,
            )
            for group in groups
        ]
    assert tree.finish() == entries[0]


@pytest.mark.parametrize("profile", [MODERN, LEGACY], ids=lambda p: p.name)
def test_a_folder_of_everything_as_kubo_does(tmp_path: Path, node: Node, legacy_node: Node, profile: Profile) -> None:
    folder = tmp_path / "everything"
    random_file(folder / "large", 3_000_001)
    random_file(folder / "a" / "b" / "c" / "deep", 10)
    (folder / "empty").mkdir()
    (folder / "a" / "empty too").mkdir()
    for name in ("ünïcødé 漢字 🎉", ".hidden", "-dash", "new\nline", "quo'te\"s", "back\\slash", " space ", "%41", "~"):
        (folder / name).write_text(name)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_text("no unicode")
    (folder / ("n" * 255)).write_text("long name")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("a/b")
    (folder / "dangling").symlink_to("../nowhere at all")
    (folder / "absolute").symlink_to("/etc/hostname")
    assert str(importer.cid_of(folder, profile)) == by_kubo(node, legacy_node, folder, profile)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    cid = importer.cid_of(tmp_path / "nothing")
    assert str(cid) == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"


def test_ten_thousand_files_in_one_folder_as_kubo_does(tmp_path: Path, node: Node, legacy_node: Node) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"file-{number}").write_bytes(b"%d" % number)
    for profile in (MODERN, LEGACY):
        assert str(importer.cid_of(folder, profile)) == by_kubo(node, legacy_node, folder, profile)


@pytest.mark.parametrize(
    ("count", "profile"),
    [(4519, MODERN), (4520, MODERN), (5242, LEGACY), (5243, LEGACY)],
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_the_size_at_which_folders_are_sharded(
    tmp_path: Path, node: Node, legacy_node: Node, count: int, profile: Profile
) -> None:
    folder = tmp_path / "edge"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:014d}").write_bytes(b"abc")
    made: list[bytes] = []
    one = unixfs.Entry(importer.cid_of(folder / f"{0:014d}"), 3, 3)
    folders.build({b"%014d" % n: one for n in range(count)}, profile, lambda cid, block: made.append(block))
    assert (len(made) > 1) == (count in (4520, 5243))
    assert str(importer.cid_of(folder, profile)) == by_kubo(node, legacy_node, folder, profile)


def test_murmur3_as_published() -> None:
    assert murmur3.murmur3_64(b"") == 0
    assert murmur3.murmur3_64(b"hello") == 0xCBD8A7B341BD9B02
    assert murmur3.murmur3_64(b"The quick brown fox jumps over the lazy dog") == 0xE34BBC7BBC071B6C


def test_a_special_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file"):
        importer.cid_of(tmp_path)


def test_a_file_that_grows_shorter_is_noticed(tmp_path: Path) -> None:
    path = random_file(tmp_path / "file", 1000)
    with path.open("rb") as opened, pytest.raises(TransferError, match="shorter"):
        hash_spans(opened.fileno(), spans_of(2000, 500))


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 10_000_001])
def test_spans_are_hashed_in_order_on_many_threads(tmp_path: Path, size: int) -> None:
    path = random_file(tmp_path / "file", size)
    data = path.read_bytes()
    seen: dict[int, bytes] = {}
    spans = spans_of(size, 300_000)
    with path.open("rb") as opened:
        digests = hash_spans(opened.fileno(), spans, lambda n, part, _: seen.__setitem__(n, bytes(part)))
    assert b"".join(seen[n] for n in range(len(spans))) == data
    assert digests == [hashlib.sha256(data[o : o + n]).digest() for o, n in spans]


def test_an_error_on_one_thread_ends_all(tmp_path: Path) -> None:
    path = random_file(tmp_path / "file", 8 << 20)

    def act(number: int, *_: object) -> None:
        if number == 3:
            raise TransferError("the disk is full")

    with path.open("rb") as opened, pytest.raises(TransferError, match="disk is full"):
        hash_spans(opened.fileno(), spans_of(8 << 20, 1 << 20), act)


@pytest.mark.parametrize(
    "block",
    [
        b"\x12\x05\x0a\x03abc",
        b"\x0a\xff",
        b"\x12\x00",
        b"\x1a\x00",
        b"\x0a\x00\x0a\x00",
        b"\xff" * 20,
        b"\x12\x02\x12\x7f",
        b"\x12\x04\x0a\x02\x12\x20",
    ],
)
def test_damaged_nodes_are_refused(block: bytes) -> None:
    with pytest.raises(TransferError, match="damaged content"):
        dagpb.decode(block)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x08\x09", b"\x08\x02\x18\x05", b"\x08\x02\x20\x05", b"\x08\x01\x12\x7f", b"\x99\x01\x00", b"\x08"],
)
def test_damaged_unixfs_is_refused(data: bytes) -> None:
    with pytest.raises(TransferError, match="damaged content"):
        unixfs.read_info(dagpb.Node((), data))


def test_packed_sizes_are_read() -> None:
    """Some writers pack the sizes of a file's parts into one field."""
    leaf = dagpb.Link(Cid(0x55, bytes(32)), b"", 5)
    packed = unixfs.read_info(dagpb.Node((leaf, leaf), b"\x08\x02\x18\x0a\x22\x02\x05\x05"))
    assert packed.sizes == (5, 5)
