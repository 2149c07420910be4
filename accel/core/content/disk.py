"""Files on their way to the disk: from several threads, durable where they have to be, shared where they can be."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from accel.core.errors import TransferError

#: the disk is kept busy while a file is still being hashed: written bytes are pushed out in steps of this size
_PUSH_EVERY = 32 << 20
#: from this size on a durable file goes past the page cache
_WORTH_DIRECT = 16 << 20
#: what offsets and lengths have to be multiples of there
_PAGE = 4096
_FICLONE = 0x40049409


def failed(what: str, path: Path, error: OSError) -> TransferError:
    """The error for a file that cannot be written or read."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransferError(
            f"the disk is full: cannot {what} {path}",
            "free space (accel pin gc), or move the store with IPFS_ACCELERATE_HOME",
            {"path": str(path)},
        )
    return TransferError(
        f"cannot {what} {path}: {error.strerror or error}",
        "check that the folder is there and yours",
        {"path": str(path)},
    )


def write_at(handle: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
    """Writes all parts one after the other at an offset of a file."""
    total = sum(len(part) for part in parts)
    done = os.pwritev(handle, parts, offset)
    if done < total:
        rest = memoryview(b"".join(parts))
        while done < total:
            done += os.pwrite(handle, rest[done:], offset + done)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Pusher:
    """Sends a file to the disk in the background while it is being written."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._written = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wrote(self, count: int) -> None:
        """Told after each write; starts a push when enough has come together."""
        with self._lock:
            self._written += count
            if self._written < _PUSH_EVERY or (self._thread is not None and self._thread.is_alive()):
                return
            self._written = 0
            self._thread = threading.Thread(target=self._push, daemon=True)
            self._thread.start()

    def _push(self) -> None:
        # an error of the disk shows in the final fsync, where it is reported
        with contextlib.suppress(OSError):
            os.fdatasync(self._handle)

    def wait(self) -> None:
        """Returns when no push is under way."""
        if self._thread is not None:
            self._thread.join()


class FileWriter:
    """A whole file on its way into the store, or into the user's folder. Chunks may come from several threads.

    Args:
        durable: it has to survive a loss of power. What is only fetched need not: it can be had again, and every use
            checks it.
    """

    def __init__(self, path: Path, size: int, *, durable: bool = False) -> None:
        self.path = path
        self.size = size
        self._durable = durable
        try:
            self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise failed("write", path, error) from error
        self._pusher = Pusher(self.handle)
        self._direct = -1

    def lock(self) -> bool:
        """Waits until nobody else writes this file; False if it was finished or removed meanwhile."""
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        try:
            return os.path.samestat(os.fstat(self.handle), self.path.stat())
        except FileNotFoundError:
            return False

    def clone(self, source: int) -> bool:
        """Shares the bytes of another file, where the file system can; nothing has to be written then."""
        try:
            fcntl.ioctl(self.handle, _FICLONE, source)
        except OSError:
            return False
        return os.fstat(self.handle).st_size == self.size

    def reserve(self) -> None:
        """Takes the room on the disk at once, and opens a way past the page cache.

        A large file that has to be on the disk in the end is there sooner without a copy of it in memory, which the
        kernel would have to write back. Where the file system knows no such way, writes go through the cache.

        Raises:
            TransferError: the disk is full.
        """
        if not self._durable or self.size < _WORTH_DIRECT or not hasattr(os, "O_DIRECT"):
            return
        try:
            self._direct = os.open(self.path, os.O_WRONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            os.posix_fallocate(self.handle, 0, self.size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise failed("write", self.path, error) from error

    def write(self, view: memoryview | bytes, offset: int) -> None:
        """Writes a chunk at its place. Past the page cache it goes from memory that starts at a page."""
        try:
            done = self._write_direct(view, offset) if self._direct >= 0 and offset % _PAGE == 0 else 0
            if done < len(view):
                write_at(self.handle, [view[done:]], offset + done)
                if self._durable and not done:
                    self._pusher.wrote(len(view))
        except OSError as error:
            raise failed("write", self.path, error) from error

    def _write_direct(self, view: memoryview | bytes, offset: int) -> int:
        whole = len(view) - len(view) % _PAGE
        try:
            return os.pwrite(self._direct, memoryview(view)[:whole], offset) if whole else 0
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0

    def sync(self) -> None:
        """Makes the content durable, where it has to be."""
        if not self._durable:
            return
        self._pusher.wait()
        try:
            os.fsync(self.handle)
        except OSError as error:
            raise failed("write", self.path, error) from error

    def close(self) -> None:
        """Closes the file."""
        if self.handle >= 0:
            self._pusher.wait()
            os.close(self.handle)
            self.handle = -1
        if self._direct >= 0:
            os.close(self._direct)
            self._direct = -1

    def discard(self) -> None:
        """Closes and removes the file."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
