"""Moves the blocks that are still needed out of containers that are mostly waste."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from accel.core import paths
from accel.core.content import car
from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid
from accel.core.content.index import Row
from accel.core.errors import AccelError


def compact(store: Store, worth_keeping: float) -> Iterator[Path]:
    """Writes containers anew of which less than this share is needed; yields those that nothing needs any more.

    A container stays as it is if it has a damaged block, if somebody is writing it, or if the disk has no room.
    """
    from accel.core.content.leases import living

    rows = store.index.read(
        "SELECT c.id, c.path, c.size, sum(b.length) FROM containers c JOIN blocks b ON b.container = c.id "
        "WHERE c.kind <> 'reference' GROUP BY c.id"
    )
    busy = living(store.leases)
    for container, path, size, needed in rows:
        assert isinstance(container, int) and isinstance(size, int) and isinstance(needed, int)
        name = str(path).rpartition("/")[2]
        if needed >= size * worth_keeping or any(name.startswith(f"{id}-") for id in busy):
            continue
        with contextlib.suppress(AccelError, OSError):
            _rewrite(store, container, store.root / str(path))
            yield store.root / str(path)


def _rewrite(store: Store, container: int, path: Path) -> None:
    blocks = store.index.read(
        "SELECT digest, codec, length, place, used FROM blocks WHERE container = ? ORDER BY place", (container,)
    )
    with store.lease() as lease:
        target = paths.ensure(store.packs) / f"{lease.id}-1.car"
        made: list[tuple[Row, int]] = []
        try:
            with path.open("rb") as source, target.open("xb") as out:
                at = out.write(car.header(()))
                for digest, codec, length, offset, used in blocks:
                    assert isinstance(digest, bytes) and isinstance(codec, int) and isinstance(length, int)
                    assert isinstance(offset, int) and isinstance(used, int)
                    source.seek(offset)
                    data = source.read(length)
                    cid = Cid(codec, digest)
                    if not cid.matches(data):
                        raise AccelError(f"{path} has a damaged block at byte {offset}", "accel pin verify --repair")
                    at += out.write(car.section_head(cid, length))
                    made.append((Row(cid, at, length), used))
                    at += out.write(data)
                out.flush()
                os.fsync(out.fileno())
            relative = store.relative(target)
            with store.index.writing() as con:
                con.execute("DELETE FROM blocks WHERE container = ?", (container,))
                con.execute("DELETE FROM containers WHERE id = ?", (container,))
                con.execute("INSERT INTO containers (kind, path, size) VALUES ('pack', ?, ?)", (relative, at))
                new = con.execute("SELECT id FROM containers WHERE path = ?", (relative,)).fetchone()[0]
                con.executemany(
                    "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)",
                    ((r.cid.digest, new, r.cid.codec, r.offset, r.length, used) for r, used in made),
                )
        except BaseException:
            target.unlink(missing_ok=True)
            raise
