"""Content by its hash: models as CIDs, kept in a local store and fetched from the nearest level that has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def materialise(cid: str, *, offline: bool = False, advance: Callable[[float], None] | None = None) -> Path:
    """The content of a CID as a folder or a file, verified, fetched if it is not here.

    Args:
        cid: in any base.
        offline: ask the local store alone.
        advance: told of bytes that are had or checked.

    Raises:
        InputError: not a CID. TransferError: not to be had, damaged, or the disk is full.
        IncompatibleError: a codec or hash function that is not supported, or larger than the free disk.
    """
    from accel.core.content.getting import materialise as _materialise

    return _materialise(cid, offline=offline, advance=advance)
