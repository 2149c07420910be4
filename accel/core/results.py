"""Measurements that last: a spool that every command appends to, and the DuckDB file they are merged into.

While one process writes, DuckDB refuses all others, readers too. So writers never open the database: `append` puts a
record, durably, into a spool beside it. `merge` moves the spool into the database under a lock; a record is known by
its id, so a merge that was killed at any moment is repeated without losing or doubling anything. Readers merge first
when they can do so at once, then read under a shared lock.

    results.duckdb          the database
    results.lock            held alone by who writes it, shared by who reads it
    results.gate            the queue for that lock
    results.spool/          records that wait (see `accel.core.spool`)
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core import logs, schema
from accel.core.database import Busy, busy, connected, understood
from accel.core.errors import AccelError, TransferError
from accel.core.locks import holding
from accel.core.merging import Merged, merge_into, overlay
from accel.core.paths import ensure, home
from accel.core.records import complete
from accel.core.spool import Spool

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: spool size in bytes from which `merge_behind` starts a merge: some hundred runs
SPOOL_BOUND = 512 * 1024
#: seconds between two merges in the background, so that one that cannot succeed is not tried by every command
RETRY_S = 600.0


def database() -> Path:
    """The results database."""
    return home() / "results.duckdb"


def spool() -> Spool:
    """The spool beside the database."""
    return Spool(home() / "results.spool")


def append(record: Mapping[str, Any]) -> str:
    """Keeps a result and returns its id: on disk when this returns, in the database after the next merge.

    Takes a few milliseconds, does not open the database, and is safe with any number of processes at once. See
    `accel.core.records.complete` for what a record holds.

    Raises:
        TransferError: it cannot be written (full or read-only disk). The caller decides what that is worth.
        ValueError: not a record.
    """
    return append_all([record])[0]


def append_all(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """`append` for several results at once: one lock, one wait for the disk."""
    done = [complete(record) for record in records]
    spool().append(done)
    return [record["id"] for record in done]


def load_library() -> None:
    """Imports what `merge` is going to need: for a caller that waits for something else anyway."""
    importlib.import_module("duckdb")


def spool_size() -> int:
    """Bytes that wait in the spool."""
    return spool().size()


def merge(wait_s: float = 10.0) -> Merged:
    """Moves what waits in the spool into the database.

    Args:
        wait_s: how long to wait for other processes to close the database.

    Raises:
        TransferError: the database is locked, read-only, damaged or newer than this accel; the spool is kept.
    """
    if not _waiting():
        return Merged()
    with _writing(wait_s) as (_con, merged):
        return merged


@contextlib.contextmanager
def open_writer(wait_s: float = 10.0) -> Iterator[DuckDBPyConnection]:
    """The database, merged and of the newest schema, for this process alone. Open late, close early.

    Raises:
        TransferError: as `merge`.
    """
    with _writing(wait_s) as (con, _merged):
        yield con


@contextlib.contextmanager
def open_reader(wait_s: float = 10.0) -> Iterator[DuckDBPyConnection]:
    """The database for reading, with all that waits in the spool: merged if that can be done at once, else read there.

    Never keeps a writer from appending. Without a database its tables are there, empty. Several readers may be open
    at once; close early, since nothing is merged meanwhile.

    Raises:
        TransferError: the database is locked for longer than `wait_s`, damaged or newer than this accel.
    """
    deadline = time.monotonic() + wait_s
    _merge_if_free(deadline)
    with contextlib.ExitStack() as stack:
        if database().exists():
            con = _open_for_reading(stack, deadline)
        else:
            con = stack.enter_context(connected(None, read_only=False, deadline=deadline, called=_called()))
            schema.migrate(con)
        with understood(database(), _called()):
            if spool_size():
                overlay(con, spool())
            yield con


@contextlib.contextmanager
def open_as_it_is(wait_s: float = 10.0) -> Iterator[DuckDBPyConnection]:
    """The existing database for reading, of whatever schema, without merging, migrating or making anything.

    Raises:
        TransferError: it is locked for longer than `wait_s`, or damaged.
    """
    deadline = time.monotonic() + wait_s
    with contextlib.ExitStack() as stack:
        yield _held_for_reading(stack, deadline)


@contextlib.contextmanager
def open_spool() -> Iterator[DuckDBPyConnection]:
    """Only what waits in the spool, as a database in memory: for when the real one cannot be opened."""
    with connected(None, read_only=False, deadline=time.monotonic()) as con:
        schema.migrate(con)
        overlay(con, spool())
        yield con


def merge_quietly() -> None:
    """`merge` for a process that nobody watches: gives way to others, and logs what goes wrong."""
    with contextlib.suppress(OSError):
        os.nice(10)
    try:
        merge(wait_s=60.0)
    except AccelError as error:
        logs.error(f"the results could not be merged: {error.message}")


def merge_behind(bound: int = SPOOL_BOUND) -> bool:
    """Starts a merge in a process of its own when the spool has grown past `bound` bytes; whether it did.

    Costs nothing below the bound. What goes wrong is logged there, and tried again after `RETRY_S` at the earliest.
    """
    if spool_size() <= bound:
        return False
    mark = spool().folder / ".merge-started"
    try:
        # a clock that was set back must not keep merges away
        if abs(time.time() - mark.stat().st_mtime) < RETRY_S:
            return False
    except FileNotFoundError:
        pass
    except OSError:
        return False
    import subprocess

    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from accel.core import results; results.merge_quietly()"
    try:
        mark.touch()
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        logs.warning(f"cannot start a merge of the results: {error.strerror or error}")
        return False
    return True


def _called() -> str:
    return f"the results database {database()}"


def _busy(who: str) -> Busy:
    return busy(database(), who, _called())


def _wal() -> Path:
    return database().with_name(database().name + ".wal")


def _lock() -> Path:
    return home() / "results.lock"


@contextlib.contextmanager
def _locked(wait_s: float, *, shared: bool = False) -> Iterator[bool]:
    """Holds the lock of the database; yields whether it got it in time.

    Everybody queues at a gate first, so that readers who come and go without a pause do not keep a writer out.
    """
    deadline = time.monotonic() + wait_s
    with contextlib.ExitStack() as stack:
        with holding(home() / "results.gate", wait_s) as first:
            held = first and stack.enter_context(holding(_lock(), deadline - time.monotonic(), shared=shared))
        yield held


def _merge_if_free(deadline: float) -> None:
    """Merges unless readers are at the database; what goes wrong does not matter, since the spool can be read too."""
    while _waiting():
        try:
            merge(wait_s=0.3)
            return
        except Busy:
            with holding(_lock(), 0.0, shared=True) as readable:
                if readable or time.monotonic() > deadline:
                    return
            # a writer has it: what waited before it began is in the database when it ends, the rest is not
        except TransferError as error:
            logs.info(f"results that wait in {spool().folder} are not merged now: {error.message}")
            return


def _waiting() -> bool:
    return spool_size() > 0 or _wal().exists()


@contextlib.contextmanager
def _writing(wait_s: float) -> Iterator[tuple[DuckDBPyConnection, Merged]]:
    """The database for this process alone, made if absent, migrated, with the spool merged into it."""
    deadline = time.monotonic() + wait_s
    with _locked(wait_s) as held:
        if not held:
            raise _busy("another accel process has it open")
        if not database().exists():
            _create(deadline)
        with (
            connected(database(), read_only=False, deadline=deadline, called=_called()) as con,
            understood(database(), _called()),
        ):
            schema.migrate(con)
            yield con, merge_into(con, spool())


def _create(deadline: float) -> None:
    """Makes the database under another name first, so that a process that is killed leaves none that is half made."""
    target = database()
    ensure(target.parent)
    if _wal().exists():  # of a database that was deleted: it would be applied to the new one
        _wal().rename(_wal().with_name(f"{_wal().name}.orphan-{time.time_ns()}"))
    for left in target.parent.glob(f"{target.name}.new*"):
        left.unlink(missing_ok=True)
    fresh = target.with_name(f"{target.name}.new")
    with (
        connected(fresh, read_only=False, deadline=deadline, called=_called()) as con,
        understood(database(), _called()),
    ):
        schema.migrate(con)
    handle = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    fresh.rename(target)


def _held_for_reading(stack: contextlib.ExitStack, deadline: float) -> DuckDBPyConnection:
    """The database under a shared lock, opened on the stack, of whatever schema."""
    try:
        held = stack.enter_context(_locked(deadline - time.monotonic(), shared=True))
    except TransferError:
        held = True  # a read-only home: nobody else can write there either
    if not held:
        raise _busy("another accel process is writing it")
    con = stack.enter_context(connected(database(), read_only=True, deadline=deadline, called=_called()))
    stack.enter_context(understood(database(), _called()))
    return con


def _open_for_reading(stack: contextlib.ExitStack, deadline: float) -> DuckDBPyConnection:
    """The database, opened on the stack, of the newest schema."""
    while True:
        with contextlib.ExitStack() as attempt:
            con = _held_for_reading(attempt, deadline)
            if schema.check(con) == schema.latest():
                stack.push(attempt.pop_all())
                return con
        with _writing(deadline - time.monotonic()):
            pass  # brings it to the newest schema
