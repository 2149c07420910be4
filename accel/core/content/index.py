"""Where each block is: the store's SQLite index.

A *container* is a file that holds blocks: a `pack` (a CAR file), a `file` (one whole file, its leaves at their own
offsets) or a `reference` (a file of the user, outside of the store). The index can be made again from the containers,
so a damaged one costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.core.content.cid import Cid
from accel.core.errors import TransferError

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('version', 1), ('tick', 1);
CREATE TABLE containers (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('pack', 'file', 'reference')),
    path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    root BLOB
);
CREATE INDEX containers_by_root ON containers (root);
CREATE TABLE blocks (
    digest BLOB NOT NULL,
    container INTEGER NOT NULL REFERENCES containers (id),
    codec INTEGER NOT NULL,
    place INTEGER NOT NULL,
    length INTEGER NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (digest, container)
) WITHOUT ROWID;
CREATE INDEX blocks_by_container ON blocks (container);
CREATE TABLE trees (
    name TEXT PRIMARY KEY,
    root BLOB NOT NULL,
    size INTEGER NOT NULL,
    stamp TEXT NOT NULL,
    used INTEGER NOT NULL
) WITHOUT ROWID;
"""
#: how long to wait for other processes
_PATIENCE_S = 60.0
#: SQLite takes at most this many parameters safely
_BATCH = 500
#: order in which copies of a block are tried: cheapest to trust first
_ORDER = "CASE kind WHEN 'file' THEN 0 WHEN 'pack' THEN 1 ELSE 2 END"


class IndexDamaged(TransferError):
    """The index file is not readable as what it should be; `accel.core.content.blockstore` makes it again."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the index of the content store is damaged: {reason}",
            "accel pin verify, which makes it again from the blocks",
        )


@dataclass(frozen=True, slots=True)
class Place:
    """One copy of a block.

    Attributes:
        path: of the container: relative to the store, absolute for references.
        offset: where the block starts.
    """

    container: int
    kind: str
    path: str
    offset: int
    length: int
    codec: int


@dataclass(frozen=True, slots=True)
class Row:
    """A block to be recorded in a container."""

    cid: Cid
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A container to be recorded.

    Attributes:
        path: as in `Place`.
        size: bytes that it takes in the store.
        root: digest of the root of the file that it is, for `file` and `reference`.
    """

    kind: str
    path: str
    size: int
    rows: Sequence[Row]
    root: bytes | None = None


class Index:
    """The open index. Safe to use from several threads and processes.

    Raises:
        IndexDamaged: from any method, when the file is damaged.
        TransferError: from any method, when it cannot be written.
    """

    def __init__(self, path: Path, *, check: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._guard():
            self._con = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
            # paths of the user's files are whatever bytes the file system allows
            self._con.text_factory = os.fsdecode
            self._execute("PRAGMA journal_mode=WAL")
            self._execute("PRAGMA synchronous=FULL")
            if not self._execute("SELECT name FROM sqlite_master WHERE name='meta'").fetchone():
                self._create()
            version = self._execute("SELECT value FROM meta WHERE key='version'").fetchone()
            if version is None:
                raise IndexDamaged("it has no version")
            if check:
                self.check()
            if version[0] != 1:
                raise TransferError(
                    f"{path} was written by a newer accel (version {version[0]})",
                    "update accel, or move the home folder",
                )

    def _execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Runs a statement that begins a transaction or is one.

        SQLite waits for others by itself, except while they open a database for the first time or close it as the last.
        """
        ends = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._con.execute(statement, values)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > ends:
                    raise
                time.sleep(0.01)

    def _create(self) -> None:
        self._execute("BEGIN IMMEDIATE")
        try:
            if not self._con.execute("SELECT name FROM sqlite_master WHERE name='meta'").fetchone():
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        self._con.execute(statement)
            self._con.execute("COMMIT")
        except BaseException:
            self._con.execute("ROLLBACK")
            raise

    def relax(self) -> None:
        """Lets commits of this connection reach the disk later; a loss of power may undo the last ones.

        Syncing makes ext4 write out all that was written before, such as half a gigabyte that was just fetched.
        """
        with self._guard():
            self._execute("PRAGMA synchronous=NORMAL")

    def check(self) -> None:
        """Reads the whole index.

        Raises:
            IndexDamaged: SQLite finds something wrong with it.
        """
        found = self.read("PRAGMA quick_check(1)")
        if found != [("ok",)]:
            raise IndexDamaged(str(found[0][0] if found else "nothing can be read"))
        for table in ("meta", "containers", "blocks", "trees"):
            self.read(f"SELECT 1 FROM {table} LIMIT 1")

    def close(self) -> None:
        """Closes the file."""
        self._con.close()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                text = str(error)
                if "malformed" in text or "not a database" in text or "no such" in text:
                    raise IndexDamaged(text) from error
                raise TransferError(
                    f"cannot write the content index {self.path}: {text}",
                    "free space there, or wait for other accel processes to end",
                ) from error
            except sqlite3.DatabaseError as error:
                raise IndexDamaged(str(error)) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction; nobody else writes meanwhile."""
        with self._guard():
            self._execute("BEGIN IMMEDIATE")
            try:
                yield self._con
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._con.execute("ROLLBACK")
                raise
            self._con.execute("COMMIT")

    def read(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """The rows that a query gives."""
        with self._guard():
            return self._execute(statement, values).fetchall()

    def next_tick(self) -> int:
        """A number greater than any given out before."""
        with self.writing() as con:
            con.execute("UPDATE meta SET value = value + 1 WHERE key = 'tick'")
            return _number(con.execute("SELECT value FROM meta WHERE key = 'tick'").fetchone())

    def places(self, digest: bytes) -> list[Place]:
        """Every copy of a block, cheapest first."""
        rows = self.read(
            "SELECT c.id, c.kind, c.path, b.place, b.length, b.codec FROM blocks b "
            f"JOIN containers c ON c.id = b.container WHERE b.digest = ? ORDER BY {_ORDER}",
            (digest,),
        )
        return [Place(*row) for row in rows]  # type: ignore[arg-type]

    def touch(self, digests: Iterable[bytes], tick: int, *, owned: bool = False) -> set[bytes]:
        """Marks blocks as used and returns those that are there.

        Args:
            owned: only count copies that the store itself holds, not the user's own files.
        """
        found: set[bytes] = set()
        wanted = list(digests)
        owner = " AND container IN (SELECT id FROM containers WHERE kind <> 'reference')" if owned else ""
        with self.writing() as con:
            for start in range(0, len(wanted), _BATCH):
                part = wanted[start : start + _BATCH]
                marks = ",".join("?" * len(part))
                rows = con.execute(
                    f"UPDATE blocks SET used = max(used, ?) WHERE digest IN ({marks}){owner} RETURNING digest",
                    (tick, *part),
                )
                found.update(row[0] for row in rows)
        return found

    def known(self, digests: Sequence[bytes], *, owned: bool = False) -> set[bytes]:
        """Those of the blocks that are there; says nothing about a moment later."""
        owner = " AND container IN (SELECT id FROM containers WHERE kind <> 'reference')" if owned else ""
        found: set[bytes] = set()
        for start in range(0, len(digests), _BATCH):
            part = digests[start : start + _BATCH]
            marks = ",".join("?" * len(part))
            rows = self.read(f"SELECT DISTINCT digest FROM blocks WHERE digest IN ({marks}){owner}", part)
            found.update(row[0] for row in rows)  # type: ignore[misc]
        return found

    def add(self, filled: Iterable[Filled], tick: int) -> None:
        """Records containers with their blocks, durably and all at once.

        A pack only grows; a reference that is recorded again loses what was known of it.
        """
        with self.writing() as con:
            for item in filled:
                _add(con, item, tick)

    def forget(self, places: Iterable[tuple[bytes, int]]) -> None:
        """Takes copies of blocks out of the index: pairs of digest and container."""
        with self.writing() as con:
            con.executemany("DELETE FROM blocks WHERE digest = ? AND container = ?", list(places))

    def lengths(self, digests: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
        """The length of each of the blocks that is there."""
        for start in range(0, len(digests), _BATCH):
            part = digests[start : start + _BATCH]
            marks = ",".join("?" * len(part))
            rows = self.read(f"SELECT digest, max(length) FROM blocks WHERE digest IN ({marks}) GROUP BY digest", part)
            yield from rows  # type: ignore[misc]

    def container_of(self, root: bytes, kind: str) -> str | None:
        """Path of a container of this kind that holds the whole file with this root."""
        rows = self.read("SELECT path FROM containers WHERE root = ? AND kind = ? ORDER BY id DESC", (root, kind))
        return str(rows[0][0]) if rows else None

    def cids(self) -> Iterator[Cid]:
        """Every block of the store, once each."""
        last = b""
        while True:
            rows = self.read(
                "SELECT digest, min(codec) FROM blocks WHERE digest > ? GROUP BY digest ORDER BY digest LIMIT 1000",
                (last,),
            )
            if not rows:
                return
            for digest, codec in rows:
                yield Cid(int(codec), bytes(digest))  # type: ignore[call-overload]
            last = bytes(rows[-1][0])  # type: ignore[call-overload]

    def held_bytes(self) -> int:
        """Bytes that the store's own containers and copied trees take."""
        rows = self.read("SELECT coalesce(sum(size), 0) FROM containers WHERE kind <> 'reference'")
        trees = self.read("SELECT coalesce(sum(size), 0) FROM trees")
        return _number(rows[0]) + _number(trees[0])


def _number(row: tuple[object, ...]) -> int:
    value = row[0]
    assert isinstance(value, int)
    return value


def _add(con: sqlite3.Connection, item: Filled, tick: int) -> None:
    con.execute(
        "INSERT INTO containers (kind, path, size, root) VALUES (?, CAST(? AS TEXT), ?, ?) "
        "ON CONFLICT (path) DO UPDATE SET kind = excluded.kind, size = excluded.size, root = excluded.root",
        (item.kind, os.fsencode(item.path), item.size, item.root),
    )
    row = con.execute("SELECT id FROM containers WHERE path = CAST(? AS TEXT)", (os.fsencode(item.path),)).fetchone()
    container = row[0]
    if item.kind == "reference":
        con.execute("DELETE FROM blocks WHERE container = ?", (container,))
    con.executemany(
        "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (digest, container) DO UPDATE SET "
        "place = excluded.place, length = excluded.length, used = max(used, excluded.used)",
        ((row.cid.digest, container, row.cid.codec, row.offset, row.length, tick) for row in item.rows),
    )
