"""The digest of a model: one hash over the names and contents of its files.

A file is read once. Afterwards its hash is remembered by size, inode and times of change, so that the digest of an
unchanged model costs one `stat` per file. A blob of the hub's cache is named by its SHA-256 already.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from accel.core import memory
from accel.core.errors import InputError

#: bytes read at a time
BLOCK = 4 << 20
#: A file system stamps a change with the time of its last clock tick (4 to 10 ms on Linux). A file is hashed only when
#: its stamp is older than this, so that a change after the hash always shows in the stamp.
TICK_NS = 50_000_000
SHA256 = r"[0-9a-f]{64}"

Stamp = tuple[int, int, int, int]


class Report(Protocol):
    """Receives the progress of work on bytes: what is done, how much of it, and the total if it is known."""

    def __call__(self, label: str, done: int, total: int | None, /) -> None: ...


def of_files(folder: Path, files: Iterable[str], progress: Report | None = None) -> str:
    """Hex SHA-256 over the sorted (relative path, SHA-256 of the content) of a model's files.

    Args:
        folder: what the paths are relative to.
        progress: told about hashed bytes, when there is something to hash.

    Raises:
        InputError: a file is missing, cannot be read, or changed while it was read.
    """
    hashes = file_hashes(folder, files, progress)
    whole = hashlib.sha256()
    for name in sorted(hashes):
        whole.update(f"{name}\0{hashes[name]}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def of_values(*values: Any) -> str:
    """Hex SHA-256 over JSON values, independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_hashes(folder: Path, files: Iterable[str], progress: Report | None = None) -> dict[str, str]:
    """Hex SHA-256 of the content of each file, by relative path. Errors as in `of_files`."""
    known = memory.recall("digests", str(folder)) or {}
    stamps = {name: stamp(folder / name) for name in files}
    hashes: dict[str, str] = {}
    for name, now in stamps.items():
        entry = known.get(name)
        if isinstance(entry, list) and tuple(entry[:4]) == now:
            hashes[name] = entry[4]
    missing = [name for name in stamps if name not in hashes]
    for name in list(missing):
        blob = hub_blob(folder / name)
        if blob is not None:
            hashes[name] = blob
            missing.remove(name)
    if missing:
        hashes.update(_read_all(folder, {name: stamps[name] for name in missing}, progress))
    fresh = {name: [*stamps[name], digest] for name, digest in hashes.items()}
    if any(known.get(name) != entry for name, entry in fresh.items()):
        memory.keep("digests", str(folder), {**known, **fresh})
    return hashes


def stamp(path: Path) -> Stamp:
    """What changes when a file changes: size, times of content and status (ns), inode. Errors as in `of_files`."""
    try:
        info = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", "check the model's files") from error
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


def hub_blob(path: Path) -> str | None:
    """The SHA-256 that the hub's cache gives a file by linking it to `models--*/blobs/<sha256>`, or None."""
    try:
        target = path.readlink()
    except OSError:
        return None
    if not re.fullmatch(SHA256, target.name):
        return None
    blobs = Path(os.path.normpath(path.parent / target.parent))
    return target.name if blobs.name == "blobs" and blobs.parent.name.startswith("models--") else None


def _read_all(folder: Path, stamps: Mapping[str, Stamp], progress: Report | None) -> dict[str, str]:
    newest = max(stamp[2] for stamp in stamps.values())
    wait = newest + TICK_NS - time.time_ns()
    if 0 < wait <= TICK_NS:
        time.sleep(wait / 1e9)
    meter = _Meter(f"hashing {folder.name}", sum(stamp[0] for stamp in stamps.values()), progress)
    names = sorted(stamps, key=lambda name: -stamps[name][0])
    if len(names) == 1:
        return {names[0]: _read_one(folder / names[0], stamps[names[0]], meter)}
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(len(names), 8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: _read_one(folder / name, stamps[name], meter), names)
        return dict(zip(names, found, strict=True))


def _read_one(path: Path, before: Stamp, meter: _Meter) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(min(BLOCK, before[0] + 1))
    view = memoryview(buffer)
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
                meter.add(count)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", "check the model's files") from error
    if stamp(path) != before:
        raise InputError(f"{path} changed while it was read", "wait until nothing writes to it, then run again")
    return digest.hexdigest()


class _Meter:
    """Adds up the bytes of several threads and reports them."""

    def __init__(self, label: str, total: int, report: Report | None) -> None:
        from threading import Lock

        self._label, self._total, self._report = label, total, report
        self._done = 0
        self._lock = Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._report is not None:
                self._report(self._label, self._done, self._total)
