"""Where accel keeps things, and how a file is written so that a reader never sees half of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from accel.core.errors import TransferError


def home() -> Path:
    """`IPFS_ACCELERATE_HOME`, else `~/.ipfs_accelerate`. Works without HOME (cron) through the user database."""
    chosen = os.environ.get("IPFS_ACCELERATE_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    try:
        return Path.home() / ".ipfs_accelerate"
    except RuntimeError:
        import tempfile

        return Path(tempfile.gettempdir()) / f"ipfs_accelerate-{os.getuid()}"


def ensure(folder: Path) -> Path:
    """Makes the folder (0700 for the home folder itself) and returns it.

    Raises:
        TransferError: it cannot be made: read-only, full, or a file in its place.
    """
    try:
        if folder == home():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransferError(
            f"cannot make the folder {folder}: {error.strerror or error}",
            "free space or rights there, or point IPFS_ACCELERATE_HOME at a folder you can write",
        ) from error
    return folder


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replaces a file's content whole: temporary file beside it, fsync if durable, rename.

    Raises:
        TransferError: the folder is read-only or full.
    """
    # imported late: it takes milliseconds that a run which only reads need not pay
    import tempfile

    ensure(path.parent)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise TransferError(f"cannot write {path}: {error.strerror or error}", "free space or rights there") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise TransferError(f"cannot write {path}: {error.strerror or error}", "free space or rights there") from error
