"""UnixFS: files, folders and symbolic links as nodes.

Format: https://specs.ipfs.tech/unixfs/. The profiles are those of IPIP-499 (https://specs.ipfs.tech/ipips/ipip-0499/):
the same bytes under the same profile give the same CID in every implementation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from accel.core.content.cid import DAG_PB, RAW, Cid, read_varint, varint
from accel.core.content.dagpb import Link, Node, damaged, encode
from accel.core.errors import InputError

#: kinds of node, as numbered in the format
T_RAW, T_DIRECTORY, T_FILE, T_METADATA, T_SYMLINK, T_HAMT = range(6)
MURMUR3 = 0x22

#: hands a finished block on: its CID and its bytes
Emit = Callable[[Cid, bytes], None]


@dataclass(frozen=True)
class Profile:
    """The choices that decide a CID.

    Attributes:
        chunk: bytes per leaf.
        width: links per node of a file.
        exact_size: whether a folder is sharded once its whole block exceeds 256 KiB (IPIP-499 `block-bytes`), or once
            names and CIDs alone do (`links-bytes`, as Kubo does by default).
    """

    name: str
    chunk: int
    width: int
    exact_size: bool


MODERN = Profile("unixfs-v1-2025", 1 << 20, 1024, True)
LEGACY = Profile("kubo-legacy", 1 << 18, 174, False)
PROFILES = {p.name: p for p in (MODERN, LEGACY)}

#: a folder above this many bytes is sharded, in both profiles
SHARD_ABOVE = 256 * 1024
#: children per shard, in both profiles
FANOUT = 256


def profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PROFILES:
        raise InputError(f"there is no profile {name!r}", f"known: {', '.join(PROFILES)}")
    return PROFILES[name]


@dataclass(frozen=True, slots=True)
class Info:
    """The UnixFS part of a node.

    Attributes:
        data: content of a small file, target of a symbolic link, bit field of a shard.
        size: bytes of the file as claimed.
        sizes: bytes under each link of a file.
        mode: permission bits, or None.
    """

    kind: int
    data: bytes = b""
    size: int | None = None
    sizes: tuple[int, ...] = ()
    hash_type: int = 0
    fanout: int = 0
    mode: int | None = None


def read_info(node: Node) -> Info:
    """Decodes the UnixFS part of a node.

    Raises:
        TransferError: it is none, or contradicts itself.
    """
    block = node.data
    kind, data, size, hash_type, fanout, mode = -1, b"", None, 0, 0, None
    sizes: list[int] = []
    offset = 0
    try:
        while offset < len(block):
            tag, offset = read_varint(block, offset)
            value, offset = read_varint(block, offset)
            if tag in (0x12, 0x22, 0x42):
                if offset + value > len(block):
                    raise ValueError("a field runs past the end")
                body, start, offset = block[offset : offset + value], offset, offset + value
                if tag == 0x12:
                    data = body
                elif tag == 0x22:
                    position = start
                    while position < offset:
                        item, position = read_varint(block, position, offset)
                        sizes.append(item)
            elif tag == 0x08:
                kind = value
            elif tag == 0x18:
                size = value
            elif tag == 0x20:
                sizes.append(value)
            elif tag == 0x28:
                hash_type = value
            elif tag == 0x30:
                fanout = value
            elif tag == 0x38:
                mode = value
            else:
                raise ValueError(f"a field that does not belong there (tag {tag})")
    except ValueError as error:
        raise damaged(f"a node is not UnixFS: {error}") from error
    if not T_RAW <= kind <= T_HAMT:
        raise damaged(f"a node has no UnixFS kind that exists ({kind})")
    info = Info(kind, data, size, tuple(sizes), hash_type, fanout, mode)
    if kind in (T_FILE, T_RAW):
        _check_file(node, info)
    return info


def _check_file(node: Node, info: Info) -> None:
    if len(info.sizes) != len(node.links):
        raise damaged(f"a file has {len(node.links)} links and tells the size of {len(info.sizes)}")
    total = len(info.data) + sum(info.sizes)
    if info.size is not None and info.size != total:
        raise damaged(f"a file claims {info.size} bytes and its parts have {total}")


def _info_bytes(kind: int, *rest: bytes) -> bytes:
    return b"\x08" + bytes((kind,)) + b"".join(rest)


def file_data(sizes: Sequence[int]) -> bytes:
    """The UnixFS part of a node of a file with these parts."""
    return _info_bytes(T_FILE, b"\x18", varint(sum(sizes)), *(b"\x20" + varint(size) for size in sizes))


def symlink_block(target: bytes) -> bytes:
    """The block of a symbolic link."""
    return encode((), _info_bytes(T_SYMLINK, b"\x12", varint(len(target)), target))


def shard_data(bits: int, fanout: int = FANOUT) -> bytes:
    """The UnixFS part of a shard with children at these positions (bit i for position i)."""
    body = bits.to_bytes((bits.bit_length() + 7) // 8, "big")
    return _info_bytes(T_HAMT, b"\x12", varint(len(body)), body, b"\x28", varint(MURMUR3), b"\x30", varint(fanout))


FOLDER_DATA = _info_bytes(T_DIRECTORY)


@dataclass(frozen=True, slots=True)
class Entry:
    """Finished content: what a parent needs to link to it.

    Attributes:
        total: bytes of its blocks with all they link to (the `Tsize` of the link).
        size: bytes of the file or of all files in the folder.
    """

    cid: Cid
    total: int
    size: int


def node_entry(links: Sequence[Link], data: bytes, size: int, emit: Emit) -> Entry:
    """Makes a node, hands its block on and returns what a parent needs."""
    block = encode(links, data)
    cid = Cid(DAG_PB, hashlib.sha256(block).digest())
    emit(cid, block)
    return Entry(cid, len(block) + sum(link.size for link in links), size)


@dataclass
class FileTree:
    """Builds the balanced tree over the leaves of one file.

    The leaves come in order through `add`; memory is one node per level.
    """

    width: int
    emit: Emit
    _levels: list[list[Entry]] = field(default_factory=list)

    def add(self, digest: bytes, length: int) -> None:
        """The next leaf: its SHA-256 and its bytes."""
        self._push(0, Entry(Cid(RAW, digest), length, length))

    def _push(self, level: int, entry: Entry) -> None:
        if level == len(self._levels):
            self._levels.append([])
        row = self._levels[level]
        if len(row) == self.width:
            # a row is closed only when more follows, so that a full file keeps its single root
            self._levels[level] = [entry]
            self._push(level + 1, self._close(row))
        else:
            row.append(entry)

    def _close(self, row: Sequence[Entry]) -> Entry:
        links = [Link(e.cid, b"", e.total) for e in row]
        sizes = [e.size for e in row]
        return node_entry(links, file_data(sizes), sum(sizes), self.emit)

    def finish(self) -> Entry:
        """The root of the file. An empty file must have had one empty leaf."""
        level = 0
        while True:
            row = self._levels[level]
            if level == len(self._levels) - 1 and len(row) == 1:
                return row[0]
            closed = self._close(row)
            self._levels[level] = []
            self._push(level + 1, closed)
            level += 1
