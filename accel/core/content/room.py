"""Whether there is room: on the disk, and within what the user allows."""

from __future__ import annotations

import os
from pathlib import Path

from accel.core.content.blockstore import Store
from accel.core.content.walk import Content, File
from accel.core.errors import IncompatibleError


def check_room(store: Store, content: Content, folder: Path, *, copied: bool) -> None:
    """Refuses content that the disk of a folder has no room for, before anything is fetched.

    Args:
        copied: every file is going to be written there; otherwise those that the store has whole are not.

    Raises:
        IncompatibleError: there is no room.
    """
    needed = sum(file.size for file in content.files if copied or not _whole(store, file))
    held = sum(
        path.stat().st_blocks * 512 for file in content.files if (path := store.files / f"part-{file.cid}").exists()
    )
    free = _free_bytes(folder)
    if needed - held > free:
        raise IncompatibleError(
            f"it needs {needed - held:,} bytes and the free space of the disk is {free:,}",
            "free space (accel pin gc), take a part with --only, or name another disk with --output",
            {"needed_bytes": needed - held, "free_bytes": free},
        )


def _whole(store: Store, file: File) -> bool:
    index = store.index
    if len(file.leaves) == 1:
        return bool(index.known([file.cid.digest]))
    return any(index.container_of(file.cid.digest, kind) is not None for kind in ("file", "reference"))


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    info = os.statvfs(folder)
    return info.f_bavail * info.f_frsize


def check_limit(content: Content, max_size: int | None) -> None:
    """Refuses content whose true size is above the limit.

    Raises:
        IncompatibleError: it is.
    """
    if max_size is not None and content.size > max_size:
        raise IncompatibleError(
            f"the content has {content.size:,} bytes and --max-size allows {max_size:,}",
            "take a part of it with --only, or raise --max-size",
        )
