"""Folders: one block while they are small, a tree of shards (HAMT) once they are not; building and reading both.

Rules of Kubo and IPIP-499: https://specs.ipfs.tech/unixfs/#hamt-directory and the `unixfs-v1-2025` profile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from accel.core.content.cid import Cid
from accel.core.content.dagpb import Link, Node, damaged, decode, encode_link
from accel.core.content.murmur3 import murmur3_64
from accel.core.content.unixfs import (
    FOLDER_DATA,
    MURMUR3,
    SHARD_ABOVE,
    T_HAMT,
    Emit,
    Entry,
    Info,
    Profile,
    node_entry,
    read_info,
    shard_data,
)

#: a folder this far below the root is refused, made by whomever
DEEPEST = 200
#: shards below shards: the hash has 64 bits and each level takes 8
_DEEPEST = 8


def build(entries: Mapping[bytes, Entry], profile: Profile, emit: Emit) -> Entry:
    """Makes the node or the shards of a folder.

    Args:
        entries: finished children by name.
        emit: takes every block made, children before parents.
    """
    size = sum(entry.size for entry in entries.values())
    links = [Link(entry.cid, name, entry.total) for name, entry in sorted(entries.items())]
    if _estimate(links, profile) <= SHARD_ABOVE:
        return node_entry(links, FOLDER_DATA, size, emit)
    return _shard([(murmur3_64(link.name), link) for link in links], 0, size, emit)


def _estimate(links: list[Link], profile: Profile) -> int:
    if profile.exact_size:
        return sum(len(encode_link(link)) for link in links) + 2 + len(FOLDER_DATA)
    return sum(len(link.name) + len(link.cid.v1_bytes) for link in links)


def _shard(items: list[tuple[int, Link]], level: int, size: int, emit: Emit) -> Entry:
    slots: dict[int, list[tuple[int, Link]]] = {}
    for hashed, link in items:
        slots.setdefault(_position(hashed, level), []).append((hashed, link))
    links: list[Link] = []
    bits = 0
    for position, inside in sorted(slots.items()):
        bits |= 1 << position
        prefix = b"%02X" % position
        if len(inside) == 1:
            link = inside[0][1]
            links.append(Link(link.cid, prefix + link.name, link.size))
        elif level + 1 == _DEEPEST:
            raise damaged("two names of a folder have the same 64-bit hash, and the format has no place for that")
        else:
            child = _shard(inside, level + 1, 0, emit)
            links.append(Link(child.cid, prefix, child.total))
    return node_entry(links, shard_data(bits), size, emit)


def _position(hashed: int, level: int) -> int:
    return hashed >> (56 - 8 * level) & 0xFF


def children(node: Node, info: Info, load: Callable[[Cid], bytes]) -> Iterator[Link]:
    """The entries of a folder with their own names, in the order of its blocks.

    Args:
        load: returns the verified block of a shard.

    Raises:
        TransferError: shards that contradict themselves.
    """
    if info.kind == T_HAMT:
        yield from _shard_children(node, info, load, 0)
    else:
        yield from node.links


def shards(node: Node, info: Info) -> Iterator[Link]:
    """The links of a shard that lead to further shards."""
    width = shard_prefix(info)
    return (link for link in node.links if len(link.name) == width)


def shard_prefix(info: Info) -> int:
    """Letters before each name in a shard.

    Raises:
        TransferError: a hash function or a fanout that the format does not have.
    """
    fanout = info.fanout
    if info.hash_type != MURMUR3:
        raise damaged(f"a sharded folder uses hash function {info.hash_type}, not murmur3")
    if not 8 <= fanout <= 1024 or fanout & (fanout - 1):
        raise damaged(f"a sharded folder has a fanout of {fanout}")
    return len(f"{fanout - 1:X}")


def _shard_children(node: Node, info: Info, load: Callable[[Cid], bytes], level: int) -> Iterator[Link]:
    width = shard_prefix(info)
    if level * (info.fanout.bit_length() - 1) >= 64:
        raise damaged("a sharded folder is deeper than its hash")
    if len(node.links) != int.from_bytes(info.data, "big").bit_count():
        raise damaged("a shard has other links than its bit field says")
    for link in node.links:
        if len(link.name) < width:
            raise damaged("a shard has a link without a position")
        if len(link.name) > width:
            yield Link(link.cid, link.name[width:], link.size)
            continue
        child = decode(load(link.cid))
        below = read_info(child)
        if below.kind != T_HAMT or below.fanout != info.fanout:
            raise damaged("a shard leads to something that is no shard of the same kind")
        yield from _shard_children(child, below, load, level + 1)
