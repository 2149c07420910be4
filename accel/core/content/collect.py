"""Collects what nothing pins, keeps the store within its size, and never takes what is pinned or in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from accel.core import locks
from accel.core.content import leases, trees
from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid, parse
from accel.core.content.compact import compact
from accel.core.content.dagpb import decode
from accel.core.content.pins import Pins
from accel.core.errors import AccelError

#: a container of which less than this share is still needed is written anew
_WORTH_KEEPING = 0.5
#: the same where space is short
_WORTH_KEEPING_SHORT = 0.9


@dataclass
class Collected:
    """What was, or with a dry run would be, collected.

    Attributes:
        bytes: freed on the disk. blocks: taken out. trees: folders of files removed.
        problems: pins whose blocks are not all there. Nothing is collected then: what they still need is unknown.
    """

    bytes: int = 0
    blocks: int = 0
    trees: int = 0
    kept_blocks: int = 0
    problems: list[str] = field(default_factory=list)


def reachable(store: Store, roots: Iterable[Cid], problems: list[str] | None = None) -> set[bytes]:
    """Digests of all blocks below roots; nodes that are missing or damaged are reported and not followed."""
    found: set[bytes] = set()
    todo = list(roots)
    while todo:
        cid = todo.pop()
        if cid.digest in found:
            continue
        found.add(cid.digest)
        if cid.is_raw:
            continue
        block = store.get(cid)
        try:
            if block is None:
                raise AccelError(f"the node {cid} is missing or damaged")
            todo.extend(link.cid for link in decode(block).links)
        except AccelError as error:
            if problems is not None:
                problems.append(error.message)
    return found


def collect(store: Store, *, dry_run: bool = False, limit: int | None = None) -> Collected:
    """Takes out everything that is neither pinned nor in use; with a limit, only as much as has to go.

    Args:
        limit: bytes that the store may hold; the least recently used goes first. None collects everything.
    """
    with locks.holding(store.root / "gc.lock"):
        return _Collector(store, dry_run, limit).run()


def keep_within(store: Store, limit: int | None) -> Collected | None:
    """Evicts down to the limit where the store is above it."""
    if limit is None or store.index.held_bytes() <= limit:
        return None
    return collect(store, limit=limit)


class _Collector:
    def __init__(self, store: Store, dry_run: bool, limit: int | None) -> None:
        self.store, self._dry, self._limit = store, dry_run, limit
        self._index = store.index
        self.result = Collected()
        #: inodes of removed containers that trees still link to
        self._linked: set[int] = set()

    def run(self) -> Collected:
        """See `collect`."""
        # in this order: work that starts later gets a later tick, work that ended earlier has its pin on the disk
        first_tick = self._index.next_tick()
        oldest = min([*leases.living(self.store.leases).values(), first_tick])
        roots = [parse(pin.cid) for pin in Pins(self.store.root / "pins").all()]
        pinned = reachable(self.store, roots, self.result.problems)
        if self.result.problems:
            return self.result
        victims, doomed = self._choose(pinned, {root.digest for root in roots}, oldest)
        self.result.blocks, self.result.trees = len(victims), len(doomed)
        if self._dry:
            self.result.bytes = self._would_free(victims, doomed)
            return self.result
        with self._index.writing() as con:
            # once more by the tick: somebody may have come to need one of them since they were listed
            con.executemany("DELETE FROM blocks WHERE digest = ? AND used < ?", [(d, oldest) for d in victims])
        self._remove_trees(doomed, oldest)
        self._remove_empty()
        short = self._limit is not None
        for path in compact(self.store, _WORTH_KEEPING_SHORT if short else _WORTH_KEEPING):
            self._unlink(path)
        self._remove_linked({root.digest for root in roots}, oldest)
        self._remove_leftovers()
        return self.result

    def _choose(self, pinned: set[bytes], roots: set[bytes], oldest: int) -> tuple[set[bytes], list[str]]:
        """Blocks and trees that go: the longest unused first, until the store is within its limit."""
        over = None if self._limit is None else self._index.held_bytes() - self._limit
        items: list[tuple[int, int, bytes | str]] = []
        for digest, length, used in self._index.read(
            "SELECT b.digest, sum(CASE c.kind WHEN 'reference' THEN 0 ELSE b.length END), max(b.used) FROM blocks b "
            "JOIN containers c ON c.id = b.container GROUP BY b.digest ORDER BY max(b.used), b.container, b.place"
        ):
            assert isinstance(digest, bytes) and isinstance(length, int) and isinstance(used, int)
            if digest not in pinned and used < oldest:
                items.append((used, length, digest))
            else:
                self.result.kept_blocks += 1
        for name, root, size, used in self._index.read("SELECT name, root, size, used FROM trees"):
            assert isinstance(name, str) and isinstance(size, int) and isinstance(used, int)
            if root not in roots and used < oldest:
                items.append((used, size, name))
        items.sort(key=lambda item: item[0])
        victims: set[bytes] = set()
        doomed: list[str] = []
        for _, size, what in items:
            if over is not None:
                if over <= 0:
                    break
                over -= size
            if isinstance(what, bytes):
                victims.add(what)
            else:
                doomed.append(what)
        self.result.kept_blocks += sum(isinstance(what, bytes) for _, _, what in items) - len(victims)
        return victims, doomed

    def _would_free(self, victims: set[bytes], doomed: list[str]) -> int:
        freed = 0
        needed: dict[int, list[int]] = {}
        for digest, container, size in self._index.read(
            "SELECT b.digest, c.id, c.size FROM blocks b JOIN containers c ON c.id = b.container "
            "WHERE c.kind <> 'reference'"
        ):
            assert isinstance(container, int) and isinstance(size, int)
            entry = needed.setdefault(container, [size, 0])
            entry[1] += digest not in victims
        freed += sum(size for size, kept in needed.values() if not kept)
        for name, size in self._index.read("SELECT name, size FROM trees"):
            assert isinstance(size, int)
            freed += size if name in doomed else 0
        return freed

    def _remove_trees(self, names: Iterable[str], oldest: int) -> None:
        for name in names:
            with self._index.writing() as con:
                row = con.execute("SELECT size FROM trees WHERE name = ? AND used < ?", (name, oldest)).fetchone()
                if row is None:
                    continue
                con.execute("DELETE FROM trees WHERE name = ?", (name,))
            trees.remove(self.store.trees / name)
            self.result.bytes += row[0]

    def _remove_empty(self) -> None:
        """Removes containers that hold nothing any more."""
        living = set(leases.living(self.store.leases))
        with self._index.writing() as con:
            empty = con.execute(
                "SELECT id, path, kind FROM containers WHERE id NOT IN (SELECT container FROM blocks)"
            ).fetchall()
            gone = [(number, str(path), str(kind)) for number, path, kind in empty if not _in_work(str(path), living)]
            con.executemany("DELETE FROM containers WHERE id = ?", [(number,) for number, _, _ in gone])
        for _, path, kind in gone:
            if kind != "reference":
                self._unlink(self.store.root / path)

    def _unlink(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if path.name.startswith("part-"):
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        return
                info = os.fstat(handle)
                path.unlink()
                self.result.bytes += info.st_blocks * 512
                if info.st_nlink > 1:
                    self._linked.add(info.st_ino)
            finally:
                os.close(handle)

    def _remove_linked(self, roots: set[bytes], oldest: int) -> None:
        """Removes trees that keep removed containers on the disk."""
        if not self._linked:
            return
        doomed: list[str] = []
        for name, root, used in self._index.read("SELECT name, root, used FROM trees"):
            assert isinstance(name, str) and isinstance(used, int)
            if root in roots or used >= oldest:
                continue
            folder = self.store.trees / name
            if any(path.lstat().st_ino in self._linked for path in folder.rglob("*")):
                doomed.append(name)
        self.result.trees += len(doomed)
        self._remove_trees(doomed, oldest)

    def _remove_leftovers(self) -> None:
        """Removes what killed processes left; whatever a living one makes bears the id of its lease."""
        for folder in (self.store.packs, self.store.files, self.store.trees):
            # listed before leases and records are read: a leftover is a file whose maker is gone without a record
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            living = set(leases.living(self.store.leases))
            recorded = {str(row[0]) for row in self._index.read("SELECT path FROM containers")}
            recorded |= {f"trees/{row[0]}" for row in self._index.read("SELECT name FROM trees")}
            for name in names:
                path = folder / name
                unfinished = name.startswith("part-") and self._limit is not None
                if self.store.relative(path) in recorded or _in_work(name, living) or unfinished:
                    continue
                if path.is_dir() and not path.is_symlink():
                    trees.remove(path)
                else:
                    self._unlink(path)


def _in_work(path: str, living: set[str]) -> bool:
    name = path.rpartition("/")[2].lstrip(".")
    return any(name.startswith(f"{id}-") or name == id for id in living)
