"""Puts blocks into the store: many in one pack, a large file in a container of its own, all recorded at once.

Nothing counts before `Writer.commit`: files that a killed process leaves behind are in no index and get collected.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from accel.core import paths
from accel.core.content import car
from accel.core.content.cid import DAG_PB, RAW, Cid
from accel.core.content.disk import FileWriter, Pusher, failed, sync_folder, write_at
from accel.core.content.index import Filled, Row

if TYPE_CHECKING:
    from accel.core.content.blockstore import Store
    from accel.core.content.leases import Lease

#: a pack is closed at this size, so that collecting garbage never has to move much at once
_LARGEST_PACK = 256 << 20


class _Pack:
    """A pack that is being written."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self.durable = durable
        self.rows: list[Row] = []
        paths.ensure(path.parent)
        try:
            self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            head = car.header(())
            write_at(self.handle, [head], 0)
        except OSError as error:
            raise failed("write", path, error) from error
        self.size = len(head)
        self._pusher = Pusher(self.handle)

    def append(self, cid: Cid, data: bytes | memoryview) -> Row:
        """Writes a block at the end; the caller holds the writer's lock."""
        head = car.section_head(cid, len(data))
        try:
            write_at(self.handle, [head, data], self.size)
        except OSError as error:
            raise failed("write", self.path, error) from error
        row = Row(cid, self.size + len(head), len(data))
        self.size += len(head) + len(data)
        self.rows.append(row)
        if self.durable:
            self._pusher.wrote(len(data))
        return row

    def sync(self) -> None:
        """Makes the content durable."""
        self._pusher.wait()
        try:
            os.fsync(self.handle)
        except OSError as error:
            raise failed("write", self.path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._pusher.wait()
        os.close(self.handle)


class Writer:
    """One piece of work that adds to the store. Leaving it by an error forgets all that was not committed."""

    def __init__(self, store: Store, lease: Lease, *, durable: bool = True) -> None:
        self.store = store
        self.lease = lease
        self._durable = durable
        #: bytes of block data written so far
        self.written = 0
        self._lock = threading.Lock()
        self._packs: list[_Pack] = []
        self._files: list[Filled] = []
        self._finished: list[FileWriter] = []
        self._made: list[Path] = []
        self._placed: dict[bytes, tuple[int, Row]] = {}
        self._count = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pack in self._packs:
            pack.close()
        for writer in self._finished:
            writer.close()
        if kind is not None:
            for path in self._made:
                with contextlib.suppress(OSError):
                    path.unlink()
        self._packs = []

    def name(self) -> str:
        """A new name that belongs to this work."""
        self._count += 1
        return f"{self.lease.id}-{self._count}"

    def put(self, cid: Cid, data: bytes | memoryview) -> None:
        """Writes a block, unless this work has written it already. The caller has checked it against its CID."""
        with self._lock:
            if cid.digest in self._placed:
                return
            if not self._packs or self._packs[-1].size >= _LARGEST_PACK:
                pack = _Pack(self.store.packs / f"{self.name()}.car", durable=self._durable)
                self._packs.append(pack)
                self._made.append(pack.path)
            pack = self._packs[-1]
            self._placed[cid.digest] = (pack.handle, pack.append(cid, data))
            self.written += len(data)

    def read(self, cid: Cid) -> bytes | None:
        """A block that this work has put into a pack and perhaps not committed yet; None if it has not."""
        with self._lock:
            handle, row = self._placed.get(cid.digest, (-1, None))
            return os.pread(handle, row.length, row.offset) if row is not None else None

    def put_new(self, blocks: Iterable[tuple[Cid, bytes]]) -> None:
        """Writes those of the blocks that the store does not hold yet, and keeps the others from being collected."""
        blocks = list(blocks)
        known = self.store.index.touch({cid.digest for cid, _ in blocks}, self.lease.tick, owned=True)
        for cid, data in blocks:
            if cid.digest not in known or cid.digest in self.store.damaged:
                self.put(cid, data)

    def new_file(self, size: int) -> FileWriter:
        """Starts a container for one whole file."""
        writer = FileWriter(paths.ensure(self.store.files) / self.name(), size, durable=True)
        self._made.append(writer.path)
        return writer

    def resumed_file(self, root: Cid, size: int) -> FileWriter | None:
        """The container of a file that is being fetched, with what an earlier attempt left; None if it is there now."""
        while True:
            if self.store.index.container_of(root.digest, "file") is not None:
                return None
            writer = FileWriter(paths.ensure(self.store.files) / f"part-{root}", size)
            if writer.lock():
                return writer
            writer.close()

    def add_file(self, writer: FileWriter, root: Cid, rows: Sequence[Row]) -> None:
        """Takes a finished file into the store under a name that tells its root."""
        writer.sync()
        target = self.store.files / f"{self.name()}-{root}"
        try:
            writer.path.chmod(0o444)
            writer.path.rename(target)
        except OSError as error:
            raise failed("rename", writer.path, error) from error
        self._made = [path for path in self._made if path != writer.path] + [target]
        writer.path = target
        # open until it is recorded: its lock keeps others from fetching it a second time
        self._finished.append(writer)
        self._files.append(Filled("file", self.store.relative(target), writer.size, rows, root.digest))
        self.written += writer.size

    def add_reference(self, path: Path, root: Cid, rows: Sequence[Row]) -> None:
        """Records a file of the user as holding these blocks."""
        self._files.append(Filled("reference", str(path), 0, rows, root.digest))

    def references(self) -> tuple[tuple[str, str], ...]:
        """The files of the user that this work records and has not committed yet: path and CID of each."""
        return tuple(
            (item.path, str(Cid(_codec(item), item.root)))
            for item in self._files
            if item.kind == "reference" and item.root is not None
        )

    def commit(self) -> None:
        """Records everything, durably where this work is durable; the work may go on afterwards."""
        with self._lock:
            filled, self._files = self._files, []
            packs = [(pack, pack.rows, pack.size) for pack in self._packs if pack.rows]
            for pack, _, _ in packs:
                pack.rows = []
        folders = {self.store.files} if any(item.kind == "file" for item in filled) else set()
        for pack, rows, size in packs:
            if self._durable:
                pack.sync()
            filled.append(Filled("pack", self.store.relative(pack.path), size, rows))
            folders.add(pack.path.parent)
        for folder in folders if self._durable else ():
            sync_folder(folder)
        if filled:
            self.store.index.add(filled, self.lease.tick)
            self._made = []
            self._repair(filled)
        for writer in self._finished:
            writer.close()
        self._finished = []

    def _repair(self, filled: Sequence[Filled]) -> None:
        # a good copy now stands beside a damaged one, which is no longer to be looked at
        damaged = self.store.damaged
        fresh = {row.cid.digest for item in filled for row in item.rows} & set(damaged)
        if fresh:
            self.store.index.forget((digest, place.container) for digest in fresh for place in damaged[digest])
            for digest in fresh:
                self.store.repaired[digest] = damaged.pop(digest)


def _codec(item: Filled) -> int:
    whole = len(item.rows) == 1 and item.rows[0].cid.digest == item.root
    return RAW if whole else DAG_PB
