"""Content as CAR files, out and in, and to a Kubo node."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core import paths
from accel.core.content import car
from accel.core.content.blockstore import Store, missing
from accel.core.content.cid import Cid
from accel.core.content.dagpb import decode
from accel.core.content.disk import failed
from accel.core.content.walk import Content
from accel.core.content.wants import Want
from accel.core.content.writing import Writer
from accel.core.errors import InputError, TransferError

Supply = Callable[[Sequence[Want]], None]
Advance = Callable[[float], None]


def blocks_of(store: Store, roots: Sequence[Cid], supply: Supply | None = None) -> Iterator[tuple[Cid, bytes]]:
    """Every block below the roots once, each parent before its children, in the order of the links.

    Raises:
        TransferError: a block is missing or damaged, and `supply` cannot get it.
    """
    seen: set[bytes] = set()
    todo = list(reversed(roots))
    while todo:
        cid = todo.pop()
        if cid.digest in seen:
            continue
        seen.add(cid.digest)
        block = store.get(cid)
        if block is None:
            block = _get(store, cid, supply)
        yield cid, block
        if not cid.is_raw:
            todo.extend(link.cid for link in reversed(decode(block).links))


def _get(store: Store, cid: Cid, supply: Supply | None) -> bytes:
    got: list[bytes] = []
    if supply is not None:
        supply([Want(cid, lambda block: got.append(bytes(block)))])
    if not got:
        raise missing(store, cid)
    return got[0]


def write_car(
    store: Store,
    roots: Sequence[Cid],
    target: Path | None,
    supply: Supply | None = None,
    *,
    partial: Content | None = None,
    advance: Advance | None = None,
) -> int:
    """Writes a CAR v1 file, which appears when it is whole, and returns its bytes.

    Args:
        target: None writes to standard output.
        partial: only the blocks of this part of the content.

    Raises:
        TransferError: a block is missing or damaged, or the disk is full.
    """
    blocks = blocks_of(store, roots, supply)
    if partial is not None:
        cids = dict.fromkeys(partial.blocks())
        blocks = ((cid, store.get(cid) or _get(store, cid, supply)) for cid in cids)

    def counted() -> Iterator[tuple[Cid, bytes]]:
        for cid, data in blocks:
            yield cid, data
            if advance is not None:
                advance(float(len(data)))

    if target is None:
        total = car.write(counted(), roots, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return total
    paths.ensure(target.parent)
    temporary = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        with temporary.open("xb") as out:
            total = car.write(counted(), roots, out.write)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(target)
    except OSError as error:
        raise failed("write", target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return total


@dataclass
class CarContent:
    """What a CAR held.

    Attributes:
        roots: those that it claims.
        damaged: its damaged blocks, and where it could not be read further.
    """

    roots: tuple[Cid, ...]
    damaged: list[str] = field(default_factory=list)


def read_car(writer: Writer, stream: Any, source: str, advance: Advance | None = None) -> CarContent:
    """Puts the good blocks of a CAR into the store, each one checked; damaged ones are named and left out.

    Raises:
        TransferError: its header is damaged. InputError: it claims no roots.
    """
    reader = car.Reader(stream, source)
    if not reader.roots:
        raise InputError(
            f"{source} names no roots, so nothing in it could be pinned", "write one with accel pin export"
        )
    found = CarContent(reader.roots)
    group: list[tuple[Cid, bytes]] = []
    held = 0
    try:
        for cid, data, good in reader.unchecked():
            if cid is not None and good:
                group.append((cid, data))
                held += len(data)
            else:
                found.damaged.append(reader.trouble.message)
            if advance is not None:
                advance(float(len(data)))
            if held > 16 << 20:
                writer.put_new(group)
                group, held = [], 0
    except TransferError as error:
        # what follows a damaged length cannot be told apart
        found.damaged.append(error.message)
    writer.put_new(group)
    return found


def give_to_node(store: Store, node: Any, root: Cid, advance: Advance | None = None) -> list[str]:
    """Gives content to a Kubo node, which pins it, and has it announced; returns what a user should know.

    Raises:
        TransferError: the node refuses, or a block here is damaged. UnavailableError: no node answers.
    """

    def pieces() -> Iterator[bytes]:
        yield car.header([root])
        for cid, data in blocks_of(store, [root]):
            yield car.section_head(cid, len(data))
            yield data
            if advance is not None:
                advance(float(len(data)))

    node.import_car(pieces())
    try:
        node.announce(root)
    except TransferError as error:
        return [f"the node has it, and could not announce it: {error.message}"]
    return []
