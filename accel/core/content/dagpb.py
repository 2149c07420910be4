"""dag-pb: the nodes that tie blocks together, encoded as Kubo does and decoded strictly.

Format: https://ipld.io/specs/codecs/dag-pb/spec/. The canonical form has the links before the data, although the field
numbers say otherwise; links carry hash, name and cumulative size in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.core.content.cid import Cid, read, read_varint, varint
from accel.core.errors import TransferError


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a node.

    Attributes:
        name: raw bytes; empty in the nodes of a file.
        size: what the node claims the linked content to hold, with all it links to, in bytes. Nothing checks it.
    """

    cid: Cid
    name: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Node:
    """A decoded node: its links in order and its data."""

    links: tuple[Link, ...]
    data: bytes


def field(number: int, body: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes((number << 3 | 2,)) + varint(len(body)) + body


def encode_link(link: Link) -> bytes:
    """One link as it lies in a node."""
    return field(2, field(1, link.cid.link_bytes) + field(2, link.name) + b"\x18" + varint(link.size))


def encode(links: Sequence[Link], data: bytes) -> bytes:
    """The block of a node. The caller orders the links."""
    return b"".join(map(encode_link, links)) + field(1, data)


def damaged(what: str) -> TransferError:
    """The error for a node whose bytes match its CID but make no sense."""
    return TransferError(f"damaged content: {what}", "ask whoever published it; the bytes are as the CID says")


def decode(block: bytes | memoryview) -> Node:
    """Reads the block of a node.

    Raises:
        TransferError: not a dag-pb node.
        IncompatibleError: a link with a codec or hash function that is not supported.
    """
    links: list[Link] = []
    data: bytes | None = None
    offset = 0
    try:
        while offset < len(block):
            tag, offset = read_varint(block, offset)
            length, offset = read_varint(block, offset)
            end = offset + length
            if end > len(block):
                raise ValueError("a field runs past the end")
            if tag == 0x12:
                links.append(_link(block, offset, end))
            elif tag == 0x0A and data is None:
                data = bytes(block[offset:end])
            else:
                raise ValueError(f"a field that does not belong there (tag {tag})")
            offset = end
    except ValueError as error:
        raise damaged(f"a block is not a dag-pb node: {error}") from error
    return Node(tuple(links), data or b"")


def _link(block: bytes | memoryview, offset: int, end: int) -> Link:
    cid: Cid | None = None
    name = b""
    size = 0
    while offset < end:
        tag, offset = read_varint(block, offset, end)
        value, offset = read_varint(block, offset, end)
        if tag == 0x18:
            size = value
            continue
        if offset + value > end:
            raise ValueError("a field of a link runs past its end")
        if tag == 0x0A:
            cid, behind = read(block[offset : offset + value])
            if behind != value:
                raise ValueError("a link's CID has bytes too many")
        elif tag == 0x12:
            name = bytes(block[offset : offset + value])
        else:
            raise ValueError(f"a link has a field that does not belong there (tag {tag})")
        offset += value
    if cid is None:
        raise ValueError("a link without a CID")
    return Link(cid, name, size)
