"""Who is at work in the store right now, so that collecting garbage never takes what somebody is using.

A lease is a file that its holder keeps locked; the system lets go of the lock when the process ends, however it ends.
Each lease has a *tick*, a number that only grows. Blocks that a holder touches carry its tick, and the collector leaves
alone whatever carries the tick of the oldest living lease or a later one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from accel.core import paths
from accel.core.errors import TransferError


class Lease:
    """One piece of work in the store. Closing it, or the end of the process, gives it up.

    Attributes:
        id: prefix of the names of all files that this work makes in the store.
        tick: see the module.
    """

    def __init__(self, folder: Path, tick: int) -> None:
        self.tick = tick
        self.id = f"{tick}-{os.urandom(4).hex()}"
        paths.ensure(folder)
        self._path = folder / self.id
        self._handle = _locked_file(folder, self._path)

    def close(self) -> None:
        """Gives the lease up."""
        if self._handle >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked_file(folder: Path, final: Path) -> int:
    # locked under another name first: a lease that can be seen is always locked, unless its holder is gone
    early = folder / f".{final.name}"
    try:
        handle = os.open(early, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        early.rename(final)
    except OSError as error:
        raise TransferError(
            f"cannot write {final}: {error.strerror or error}", "free space or rights there, or move the home folder"
        ) from error
    return handle


def living(folder: Path) -> dict[str, int]:
    """The leases that somebody holds: their ticks by id. Removes those of processes that are gone."""
    found: dict[str, int] = {}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return found
    for name in names:
        path = folder / name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not name.startswith("."):
                found[name] = int(name.partition("-")[0])
        else:
            # a name with a dot may be a lease in the making; only an old one is left over
            if not name.startswith(".") or time.time() - os.fstat(handle).st_mtime > 3600:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
        finally:
            os.close(handle)
    return found
