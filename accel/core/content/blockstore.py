"""The local content store: blocks by CID under the home folder, each one hashed whenever it is read.

content/
  index.sqlite   where each block is; can be made again from the rest
  packs/         CAR files: nodes, small files, the new blocks of a revision
  files/         whole large files
  pins/          one JSON file per pin: what is kept, and why
  trees/         content as folders of files, for programs that want a path
  leases/        who is at work right now
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from accel.core import paths
from accel.core.content import car, leases
from accel.core.content.cid import Cid
from accel.core.content.disk import failed, sync_folder
from accel.core.content.index import Index, IndexDamaged, Place
from accel.core.content.writing import Writer

#: nodes are read again and again while content is walked
_MEMORY_BYTES = 16 << 20
_OPEN_FILES = 128


class Store:
    """The open store.

    Attributes:
        damaged: copies of blocks that did not match when they were read, by digest.
        repaired: those of them that a good copy has replaced since.
        notes: what happened that a user should know.
    """

    def __init__(self, root: Path | None = None, index: Index | None = None) -> None:
        self.root = root or paths.home() / "content"
        paths.ensure(paths.home() if root is None else self.root)
        paths.ensure(self.root)
        self.packs = self.root / "packs"
        self.files = self.root / "files"
        self.trees = self.root / "trees"
        self.leases = self.root / "leases"
        self.damaged: dict[bytes, list[Place]] = {}
        self.repaired: dict[bytes, list[Place]] = {}
        self.notes: list[str] = []
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        self._memory_bytes = 0
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()
        self.index = index or self._open_index()

    def _open_index(self) -> Index:
        from accel.core.content import rebuild

        path = self.root / "index.sqlite"
        try:
            if not rebuild.lost(self.root):
                return Index(path)
        except IndexDamaged:
            pass
        self.notes.extend(rebuild.rebuild(self.root))
        return Index(path)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        self.index.close()

    def relative(self, path: Path) -> str:
        """A path of the store as the index writes it."""
        return path.relative_to(self.root).as_posix()

    def lease(self) -> leases.Lease:
        """Starts a piece of work; see `accel.core.content.leases`."""
        return leases.Lease(self.leases, self.index.next_tick())

    @contextlib.contextmanager
    def writer(self, *, durable: bool = True) -> Iterator[Writer]:
        """Starts a piece of work that adds blocks.

        Args:
            durable: what it commits has to survive a loss of power. What is only fetched can be had again, and every
                use of it is checked.
        """
        if not durable:
            self.index.relax()
        with self.lease() as lease, Writer(self, lease, durable=durable) as writer:
            yield writer

    def get(self, cid: Cid) -> bytes | None:
        """The block, checked against its CID; None if there is no good copy. Bad copies are noted in `damaged`."""
        with self._lock:
            data = self._memory.get(cid.digest)
            if data is not None:
                self._memory.move_to_end(cid.digest)
                return data
        found = self._first_good(cid, lambda place: self._read(place))
        if found is not None and not cid.is_raw:
            self._remember(cid.digest, found)
        return found

    def _first_good(self, cid: Cid, load: Callable[[Place], bytes | None]) -> bytes | None:
        for attempt in (1, 2):
            vanished = False
            for place in self.index.places(cid.digest):
                try:
                    data = load(place)
                except FileNotFoundError:
                    # the collector may have moved its blocks to another container a moment ago
                    vanished = True
                    if attempt == 2 or place.kind == "reference":
                        self._note_damage(cid, place)
                    continue
                if data is not None and cid.matches(data):
                    return data
                self._note_damage(cid, place)
            if not vanished:
                break
        return None

    def _note_damage(self, cid: Cid, place: Place) -> None:
        with self._lock:
            noted = self.damaged.setdefault(cid.digest, [])
            if place not in noted:
                noted.append(place)

    def _remember(self, digest: bytes, data: bytes) -> None:
        with self._lock:
            self._memory[digest] = data
            self._memory_bytes += len(data)
            while self._memory_bytes > _MEMORY_BYTES:
                self._memory_bytes -= len(self._memory.popitem(last=False)[1])

    def _read(self, place: Place) -> bytes | None:
        if place.length > car.LARGEST_BLOCK:
            return None
        handle, keep = self._handle(place.path)
        try:
            data = os.pread(handle, place.length, place.offset)
        except OSError:
            return None
        finally:
            if not keep:
                os.close(handle)
        return data if len(data) == place.length else None

    def _handle(self, path: str) -> tuple[int, bool]:
        with self._lock:
            handle = self._handles.get(path)
            if handle is not None:
                return handle, True
            try:
                handle = os.open(self.root / path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise failed("read", self.root / path, error) from error
            keep = len(self._handles) < _OPEN_FILES
            if keep:
                self._handles[path] = handle
            return handle, keep

    def require(self, cid: Cid) -> bytes:
        """The block, checked against its CID.

        Raises:
            TransferError: it is not here, or every copy is damaged.
        """
        data = self.get(cid)
        if data is None:
            raise missing(self, cid)
        return data

    def make_durable(self, digests: Iterable[bytes]) -> None:
        """Makes the containers of these blocks survive a loss of power: those that were fetched were not synced yet.

        Raises:
            TransferError: the disk is full or fails.
        """
        containers: set[str] = set()
        for digest in digests:
            containers.update(place.path for place in self.index.places(digest) if place.kind != "reference")
        for path in sorted(containers):
            try:
                handle = os.open(self.root / path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            except OSError as error:
                raise failed("write", self.root / path, error) from error
        for folder in {(self.root / path).parent for path in containers}:
            sync_folder(folder)
        # a durable commit takes all earlier ones with it
        self.index.next_tick()

    def has(self, cids: Iterable[Cid]) -> bool:
        """Whether the store records all of the blocks; does not read them."""
        digests = {cid.digest for cid in cids}
        return len(self.index.known(list(digests))) == len(digests)

    def where(self, place: Place) -> str:
        """A copy of a block in words."""
        return f"{self.root / place.path} at byte {place.offset}"


def missing(store: Store, cid: Cid) -> Exception:
    """The error for a block without a good copy."""
    from accel.core.errors import TransferError

    places = store.damaged.get(cid.digest)
    if places:
        spots = "; ".join(store.where(place) for place in places)
        return TransferError(
            f"the block {cid} is damaged: {spots}",
            f"accel fetch {cid} with a network, or accel pin verify --repair",
            {"cid": str(cid), "places": [store.where(place) for place in places]},
        )
    return TransferError(f"the block {cid} is not in the local store", "fetch it without --offline", {"cid": str(cid)})
