"""A durable queue of JSON records on disk that many processes append to and one empties.

A record is one line: its CRC-32 in eight hexadecimal digits, a space, the JSON text. All processes append to
`incoming.jsonl` under a lock; whoever empties the spool renames that file to a segment under the same lock and then
has the segment to itself. A segment is only deleted once its records are safe elsewhere, so one that is found
later is read again: whoever takes the records must know them by their id.
"""

from __future__ import annotations

import binascii
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core import logs
from accel.core.errors import TransferError
from accel.core.locks import acquire
from accel.core.paths import ensure

INCOMING = "incoming.jsonl"
#: a holder of the lock that takes longer is stopped or stuck, and is not waited for
LOCK_WAIT_S = 2.0


@dataclass(frozen=True)
class Line:
    """One line of a segment: its record, or None and why it has none."""

    raw: bytes
    record: dict[str, Any] | None
    reason: str = ""


def encode(record: dict[str, Any]) -> bytes:
    """The line of a record.

    Raises:
        ValueError: NaN, infinity or something that JSON has no word for.
    """
    text = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (binascii.crc32(text), text)


def decode(raw: bytes) -> Line:
    """The record of a line, or the reason why it has none."""
    checksum, _, text = raw.rstrip(b"\r\n").partition(b" ")
    if checksum != b"%08x" % binascii.crc32(text):
        return Line(raw, None, "incomplete or damaged")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Line(raw, None, f"not JSON: {error}")
    return Line(raw, record) if isinstance(record, dict) else Line(raw, None, "not a record")


class Spool:
    """The spool in a folder; the folder is made by the first record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Appends records, all or none, and returns when they are on disk.

        Raises:
            TransferError: the disk is full, read-only or failing, or the folder cannot be made.
            ValueError: a record that JSON cannot carry.
        """
        data = b"".join(encode(record) for record in records)
        if not data:
            return
        ensure(self.folder)
        try:
            handle = self._open_locked()
            if handle is None:
                self._append_apart(data)
                return
            try:
                self._write(handle, data)
            finally:
                os.close(handle)
        except OSError as error:
            raise TransferError(
                f"cannot keep the result in {self.folder}: {error.strerror or error}",
                "free space or rights there, or point IPFS_ACCELERATE_HOME at a folder you can write",
            ) from error

    def _open_locked(self) -> int | None:
        """The file that is appended to, locked; None when its lock is not to be had in time."""
        path = self.folder / INCOMING
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            kept = False
            try:
                if not acquire(handle, max(0.0, deadline - time.monotonic())):
                    return None
                # whoever emptied the spool meanwhile renamed the file that was opened
                kept = _same(handle, path)
                if kept:
                    return handle
            finally:
                if not kept:
                    os.close(handle)

    def _write(self, handle: int, data: bytes) -> None:
        start = os.fstat(handle).st_size
        if start and os.pread(handle, 1, start - 1) != b"\n":
            data = b"\n" + data  # a writer was killed in the middle of its line
        try:
            _write_all(handle, data)
        except BaseException:
            os.ftruncate(handle, start)
            raise
        # others need not wait for the disk; a merge that reads the line before it is there puts it into the database
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.fsync(handle)
        if start == 0:
            _sync_folder(self.folder)

    def _append_apart(self, data: bytes) -> None:
        """Appends as a segment of its own: needs no lock."""
        name = _segment_name()
        temporary = self.folder / f".{name}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                _write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            temporary.rename(self.folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(self.folder)

    def size(self) -> int:
        """Bytes that wait in the spool."""
        try:
            return sum(entry.stat().st_size for entry in os.scandir(self.folder) if _counts(entry.name))
        except OSError:
            return 0

    def waiting(self) -> list[Path]:
        """All segments, oldest first, and the file that is appended to, without taking them from anybody."""
        try:
            found = [(e.stat().st_mtime_ns, e.path) for e in os.scandir(self.folder) if _counts(e.name)]
        except OSError:
            return []
        return [Path(path) for _, path in sorted(found, key=lambda item: (item[1].endswith(INCOMING), item))]

    def take(self) -> list[Path]:
        """Closes the file that is appended to and returns all segments, oldest first. One process at a time.

        Raises:
            TransferError: the folder is read-only.
        """
        path = self.folder / INCOMING
        try:
            if path.exists() and path.stat().st_size:
                handle = self._open_locked()
                if handle is None:
                    logs.warning(f"{path} stays locked by another process; its results are merged later")
                else:
                    try:
                        path.rename(self.folder / _segment_name())
                        _sync_folder(self.folder)
                    finally:
                        os.close(handle)
            found = [self.folder / e.name for e in os.scandir(self.folder) if _counts(e.name) and e.name != INCOMING]
            return sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TransferError(
                f"cannot empty {self.folder}: {error.strerror or error}", "see to the rights of that folder"
            ) from error

    def read(self, segment: Path) -> Iterator[Line]:
        """The lines of a segment, in order."""
        with segment.open("rb") as file:
            for raw in file:
                if raw.strip():
                    yield decode(raw)

    def finish(self, segment: Path, damaged: Sequence[Line]) -> None:
        """Deletes a segment whose records are safe; its damaged lines are set aside and reported.

        May be repeated: lines set aside earlier for the same segment are written again, not twice.

        Raises:
            TransferError: the folder is full or read-only; the segment is kept.
        """
        try:
            if damaged:
                self._set_aside(segment, damaged)
            segment.unlink(missing_ok=True)
            _sync_folder(self.folder)
        except OSError as error:
            raise TransferError(
                f"cannot empty {self.folder}: {error.strerror or error}", "free space or rights there"
            ) from error

    def _set_aside(self, segment: Path, damaged: Sequence[Line]) -> None:
        aside = ensure(self.folder / "damaged")
        temporary = aside / f".{segment.name}"
        with temporary.open("wb") as file:
            file.writelines(line.raw.rstrip(b"\r\n") + b"\n" for line in damaged)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(aside / segment.name)
        _sync_folder(aside)
        count = f"{len(damaged)} damaged line{'' if len(damaged) == 1 else 's'}"
        logs.warning(f"{count} of the results' spool set aside in {aside / segment.name}: {damaged[0].reason}")


def _counts(name: str) -> bool:
    return name.endswith(".jsonl") and not name.startswith(".")


def _segment_name() -> str:
    return f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(4).hex()}.jsonl"


def _same(handle: int, path: Path) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(handle)
    return (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
