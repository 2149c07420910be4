"""Locks on files between processes, which the system releases when their holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from accel.core.errors import TransferError
from accel.core.paths import ensure


def acquire(handle: int, wait_s: float, *, shared: bool = False) -> bool:
    """Tries for up to `wait_s` seconds to lock an open file; whether it got the lock.

    Raises:
        OSError: the file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait_s == math.inf:
        fcntl.flock(handle, kind)
        return True
    kind |= fcntl.LOCK_NB
    deadline = time.monotonic() + wait_s
    pause = 0.0005
    while True:
        try:
            fcntl.flock(handle, kind)
            return True
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.02)


@contextlib.contextmanager
def holding(path: Path, wait_s: float = math.inf, *, shared: bool = False) -> Iterator[bool]:
    """Holds a lock on a file (made if absent) for the duration; yields whether it got it in time.

    Raises:
        TransferError: the lock file cannot be made: a read-only or full disk.
    """
    ensure(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TransferError(
            f"cannot lock {path}: {error.strerror or error}",
            "free space or rights there, or point IPFS_ACCELERATE_HOME at a folder you can write",
        ) from error
    try:
        try:
            held = acquire(handle, wait_s, shared=shared)
        except OSError as error:
            raise TransferError(
                f"cannot lock {path}: {error.strerror or error}",
                "point IPFS_ACCELERATE_HOME at a folder on a local disk",
            ) from error
        yield held
    finally:
        os.close(handle)
