"""What a sweep has measured so far, line by line on disk, so that nothing is lost or measured again.

bench/<sweep>/journal.jsonl     one JSON object a line; a line that is cut off was never written
bench/<sweep>/lock              held while the sweep runs
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from accel.core.bench.measured import Outcome
from accel.core.errors import InputError, TransferError
from accel.core.locks import holding
from accel.core.paths import ensure, home

#: seconds after which an interrupted sweep that nobody resumed is forgotten
FORGOTTEN_S = 30 * 86400.0


def root() -> Path:
    """The folder of the sweeps that run or were interrupted."""
    return home() / "bench"


@dataclass
class Found:
    """What a journal holds.

    Attributes:
        request: as it was given to `Journal.begin`.
        run: id of the sweep's results.
        partial: cells with some of their visits, by key. done: finished cells, by key.
    """

    request: dict[str, Any]
    run: str
    partial: dict[str, Outcome] = field(default_factory=dict)
    done: dict[str, Outcome] = field(default_factory=dict)


class Journal:
    """The journal of one sweep, open for appending."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "journal.jsonl"

    def begin(self, request: dict[str, Any], run: str) -> None:
        """Starts it anew.

        Raises:
            TransferError: it cannot be written.
        """
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._append({"kind": "sweep", "request": request, "run": run, "when": time.time()})

    def visited(self, outcome: Outcome) -> None:
        """Keeps a cell that is not finished yet."""
        self._append({"kind": "visit", "outcome": outcome.as_json()})

    def finished(self, outcome: Outcome) -> None:
        """Keeps a finished cell: it is on disk when this returns."""
        self._append({"kind": "cell", "outcome": outcome.as_json()})

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            if self._file is None:
                ensure(self.folder)
                self._file = self.path.open("ab")
                if self._file.tell() and not _ends_line(self.path):
                    line = b"\n" + line  # the last line was cut off when the sweep was killed
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TransferError(
                f"cannot keep what was measured in {self.path}: {error.strerror or error}",
                "free space there, then go on with accel bench --resume",
            ) from error

    def read(self) -> Found | None:
        """What it holds, or None where there is nothing to go on from."""
        found: Found | None = None
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError:
            return None
        for line in lines:
            try:
                entry = json.loads(line)
                if entry["kind"] == "sweep":
                    found = Found(entry["request"], entry["run"])
                elif found is not None:
                    outcome = Outcome.from_json(entry["outcome"])
                    target = found.done if entry["kind"] == "cell" else found.partial
                    target[outcome.cell.key] = outcome
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut off, or an older accel's: that cell is measured again
        if found is not None:
            found.partial = {key: value for key, value in found.partial.items() if key not in found.done}
        return found

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Removes the journal of a sweep whose results are stored."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@contextlib.contextmanager
def opened(sweep: str) -> Iterator[Journal]:
    """The journal of a sweep, for this process alone.

    Raises:
        TransferError: another process measures the same sweep, or the folder cannot be made.
    """
    _forget()
    folder = root() / sweep
    with holding(root() / f"{sweep}.lock", 0.0) as held:
        if not held:
            raise TransferError(
                "another process is measuring this very matrix", "wait for it, or change the matrix", {"sweep": sweep}
            )
        journal = Journal(folder)
        try:
            yield journal
        finally:
            journal.close()


def latest() -> str:
    """The sweep that was interrupted last.

    Raises:
        InputError: there is none.
    """
    files = sorted(root().glob("*/journal.jsonl"), key=lambda p: p.stat().st_mtime)
    if not files:
        raise InputError("there is no interrupted sweep to go on with", "leave --resume out")
    return files[-1].parent.name


def _forget() -> None:
    """Removes what is older than anybody resumes: journals, and the lock files of sweeps long ended."""
    for path in [*root().glob("*/journal.jsonl"), *root().glob("*.lock")]:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > FORGOTTEN_S:
                if path.suffix == ".lock":
                    path.unlink()
                else:
                    shutil.rmtree(path.parent, ignore_errors=True)
