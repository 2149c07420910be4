"""Makes the index again from the containers, when it is lost or damaged."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accel.core import locks
from accel.core.content import car
from accel.core.content.cid import Cid, parse
from accel.core.content.index import Filled, Index, IndexDamaged, Row
from accel.core.errors import AccelError

if TYPE_CHECKING:
    from accel.core.content.blockstore import Store

_NAMES = ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm")


def lost(root: Path) -> bool:
    """Whether there are containers and no index of them, or an empty one."""
    for name in _NAMES[:2]:
        with contextlib.suppress(FileNotFoundError):
            if (root / name).stat().st_size:
                return False
    return any(next((root / folder).glob("*"), None) is not None for folder in ("packs", "files"))


def rebuild(root: Path, *, sound: bool = False) -> list[str]:
    """Puts a new index in place of one that is lost or damaged and returns what a user should know.

    Args:
        sound: even in place of one that can be read, which does not know every container.

    Every block is hashed; damaged ones are left out, so that they count as missing. Files of the user that were pinned
    by reference are found through the record in their pin. The old index stays beside the new one.
    """
    with locks.holding(root / "gc.lock"):
        if not sound and not lost(root):
            with contextlib.suppress(IndexDamaged):
                # somebody else may have done it while this process waited
                Index(root / "index.sqlite", check=True).close()
                return []
        new = root / "index.sqlite.new"
        for name in _NAMES:
            (root / name.replace("index.sqlite", new.name)).unlink(missing_ok=True)
        problems = _fill(root, new)
        for name in _NAMES:
            with contextlib.suppress(FileNotFoundError):
                (root / name).rename(root / f"{name}.damaged-{int(time.time())}")
        new.rename(root / "index.sqlite")
    return [
        "the index of the content store was damaged or lost; it was made again from the blocks",
        *problems,
    ]


def _fill(root: Path, new: Path) -> list[str]:
    from accel.core.content.blockstore import Store
    from accel.core.content.pins import Pins

    problems: list[str] = []
    with Store(root, Index(new)) as store:
        for pack in sorted(path for path in store.packs.glob("*.car") if path.is_file()):
            found = list(_rows(pack, problems))
            store.index.add([Filled("pack", store.relative(pack), pack.stat().st_size, found)], 1)
        for file in sorted(path for path in store.files.glob("*-*-*-*") if path.is_file()):
            with contextlib.suppress(AccelError):
                cid = parse(file.name.rpartition("-")[2])
                rows = _leaves(store, file, cid)
                store.index.add([Filled("file", store.relative(file), file.stat().st_size, rows, cid.digest)], 1)
        for pin in Pins(root / "pins").all():
            for where, name in pin.references:
                with contextlib.suppress(AccelError):
                    cid = parse(name)
                    rows = _leaves(store, Path(where), cid)
                    store.index.add([Filled("reference", where, 0, rows, cid.digest)], 1)
        # numbers given out before must not come again: names of files bear them
        names = [path.name for folder in (store.packs, store.files) for path in folder.glob("[0-9]*-*")]
        highest = max((int(n.partition("-")[0]) for n in names if n.partition("-")[0].isdigit()), default=0)
        with store.index.writing() as con:
            con.execute("UPDATE meta SET value = ? WHERE key = 'tick'", (highest + 1000,))
            con.execute("UPDATE blocks SET used = ?", (highest + 1,))
    return problems


def adopt(store: Store) -> None:
    """Takes in blocks of packs whose writer was killed before it recorded them, so that they need not come again."""
    if _unrecorded(store):
        with locks.holding(store.root / "gc.lock"):
            for path, size in _unrecorded(store):
                store.index.add([Filled("pack", store.relative(path), size, list(_rows(path, [])))], 1)


def incomplete(store: Store) -> bool:
    """Whether there are containers that the index does not know, though nobody is at work on them."""
    from accel.core.content.leases import living

    found = [*store.packs.glob("*.car"), *store.files.glob("*-*-*-*")]
    busy = living(store.leases)
    recorded = {row[0] for row in store.index.read("SELECT path FROM containers")}
    return any(
        store.relative(path) not in recorded and not any(path.name.startswith(f"{id}-") for id in busy)
        for path in found
        if path.is_file()
    )


def _unrecorded(store: Store) -> list[tuple[Path, int]]:
    from accel.core.content.leases import living

    sizes = [(path, path.stat().st_size) for path in store.packs.glob("*.car")]
    busy = living(store.leases)
    recorded = {str(path): size for path, size in store.index.read("SELECT path, size FROM containers")}
    return [
        (path, size)
        for path, size in sizes
        if size != recorded.get(store.relative(path)) and not any(path.name.startswith(f"{id}-") for id in busy)
    ]


def _rows(pack: Path, problems: list[str]) -> Iterator[Row]:
    try:
        with pack.open("rb") as stream:
            reader = car.Reader(stream, str(pack))
            for cid, data, good in reader.unchecked():
                if cid is not None and good:
                    yield Row(cid, reader.offset, len(data))
                else:
                    problems.append(reader.trouble.message)
    except AccelError as error:
        # the end of a pack that was being written when its process was killed
        problems.append(error.message)
    except OSError as error:
        problems.append(f"{pack} cannot be read: {error.strerror or error}")


def _leaves(store: Store, file: Path, cid: Cid) -> Sequence[Row]:
    """The good leaves of a whole file, whose nodes are in the store."""
    from accel.core.content.hashing import hash_spans
    from accel.core.content.trees import check_file
    from accel.core.content.walk import Walk

    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if cid.is_raw:
                good = hash_spans(opened.fileno(), [(0, size)])[0] == cid.digest
                return [Row(cid, 0, size)] if good else []
            content = Walk(lambda cids: ((c, store.require(c)) for c in cids)).run(cid)
            whole = content.files[0]
            bad = {leaf.offset for leaf in check_file(opened.fileno(), whole)}
            return [Row(leaf.cid, leaf.offset, leaf.length) for leaf in whole.leaves if leaf.offset not in bad]
    except OSError:
        return []
