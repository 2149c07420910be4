"""DuckDB files: opened while others may have them, and what goes wrong with them in words that a user can act on."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from accel.core.errors import TransferError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: nothing is ever downloaded; one configuration for all, since DuckDB refuses a second one within a process
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"autoinstall_known_extensions": "false"}


class DatabaseError(TransferError):
    """A database that cannot be used; `state` says why in one word."""

    state = "unreadable"


class Busy(DatabaseError):
    """Somebody else has the database open."""

    state = "locked"


class Newer(DatabaseError):
    """A newer accel or a newer DuckDB wrote the database."""

    state = "newer"


class Damaged(DatabaseError):
    """The file is cut short or its content is not what was written."""

    state = "damaged"


@contextlib.contextmanager
def connected(
    path: Path | None, *, read_only: bool, deadline: float, called: str | None = None
) -> Iterator[DuckDBPyConnection]:
    """A connection, closed at the end; None is a database in memory. Waits while another process has the file.

    Args:
        deadline: until when, by the monotonic clock.
        called: what errors call the file; `the database` and its path by default.

    Raises:
        TransferError: it stays locked, or cannot be opened.
    """
    import duckdb

    pause = 0.005
    while True:
        try:
            con = duckdb.connect(str(path) if path else ":memory:", read_only=read_only, config=_CONFIG)
            break
        except duckdb.Error as error:
            found = problem(error, path, called)
            if not isinstance(found, Busy) or time.monotonic() + pause > deadline:
                raise found from error
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    try:
        # it goes to standard output, which is the result's
        con.execute("SET enable_progress_bar = false")
        yield con
    finally:
        con.close()


@contextlib.contextmanager
def understood(path: Path | None, called: str | None = None) -> Iterator[None]:
    """Turns what DuckDB says about its file into an error that a user can act on; other errors stay as they are."""
    import duckdb

    try:
        yield
    except (duckdb.IOException, duckdb.FatalException, duckdb.InternalException) as error:
        raise problem(error, path, called) from error
    except duckdb.Error as error:
        # of other classes when they come up inside of a commit
        if not re.search(r"corrupt|could not (read|write|fsync|truncate)", str(error), re.IGNORECASE):
            raise
        raise problem(error, path, called) from error


def busy(path: Path | None, who: str, called: str | None = None) -> Busy:
    """The error for a file that somebody else has open."""
    return Busy(
        f"{called or f'the database {path}'} is locked: {who}",
        "try again when it has ended; new results are kept in the spool meanwhile",
    )


def problem(error: Exception, path: Path | None, called: str | None = None) -> DatabaseError:
    """What an exception of DuckDB means for its file."""
    text = str(error)
    low = text.lower()
    where = called or f"the database {path}"
    if "could not set lock" in low or "different configuration" in low:
        holder = re.search(r"held in (.+?)\. ", text + " ")
        return busy(path, holder[1] if holder else "this process has it open", called)
    if "newer" in low or "version number" in low:
        return Newer(f"{where} was written by a newer DuckDB: {text}", "upgrade the package duckdb")
    if "no space left" in low or "disk quota" in low or "file too large" in low:
        return DatabaseError(
            f"there is no space to write {where}: {text}", "free space there; the results wait in the spool"
        )
    if "permission denied" in low or "read-only" in low or "not permitted" in low:
        return DatabaseError(
            f"{where} cannot be written or read: {text}", "see to its rights; the results wait in the spool"
        )
    return Damaged(
        f"{where} is damaged: {text}",
        f"move it away (mv {path} {path}.damaged) and restore a copy if there is one; the spool is kept",
    )
