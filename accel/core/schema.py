"""Versions of the results database: which steps there are, which one a database is at, and how it gets to another.

`schema_version` has one row per step applied; a step and its row are one transaction, so that a database is always
at exactly one version. Nothing here imports DuckDB: connections are handed in.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from accel.core.database import DatabaseError, Newer
from accel.core.errors import TransferError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from accel.core.contracts import Migration


@functools.cache
def migrations() -> tuple[Migration, ...]:
    """The steps of this accel, in order: the files `migrations/mNNNN_*.py`."""
    folder = Path(__file__).resolve().parent.parent / "migrations"
    modules = [importlib.import_module(f"accel.migrations.{path.stem}") for path in sorted(folder.glob("m[0-9]*.py"))]
    return tuple(cast("Migration", module.MIGRATION) for module in modules)


def latest() -> int:
    """The version that this accel writes."""
    return migrations()[-1].number


def version(con: DuckDBPyConnection) -> int:
    """The version of an open database; 0 for an empty one.

    Raises:
        TransferError: it has tables and no versions: it is not accel's.
    """
    row = con.execute(
        "SELECT count(*), count(*) FILTER (table_name = 'schema_version') FROM duckdb_tables() WHERE NOT internal"
    ).fetchone()
    tables, versions = row if row is not None else (0, 0)
    if tables and not versions:
        raise DatabaseError(
            "the database holds tables of another program",
            "move it away, or point IPFS_ACCELERATE_HOME at another folder",
        )
    if not versions:
        return 0
    highest = con.execute("SELECT max(number) FROM schema_version").fetchone()
    return int(highest[0]) if highest is not None and highest[0] is not None else 0


def check(con: DuckDBPyConnection) -> int:
    """The version of an open database that this accel can work with.

    Raises:
        TransferError: the database is newer than this accel, or not accel's.
    """
    found = version(con)
    if found > latest():
        raise Newer(
            f"the database has schema {found}, and this accel knows schemas up to {latest()}: a newer accel wrote it",
            "upgrade accel, or point IPFS_ACCELERATE_HOME at another folder",
            {"schema": found, "known": latest()},
        )
    return found


def migrate(
    con: DuckDBPyConnection, target: int | None = None, steps: Sequence[Migration] | None = None
) -> list[tuple[int, int]]:
    """Brings an open database to a version, up or down, each step in a transaction of its own.

    Args:
        target: the version to reach; the newest by default, 0 for an empty database.
        steps: instead of this accel's own.

    Returns:
        The steps taken, as pairs of the version before and the one after.

    Raises:
        TransferError: a newer or foreign database, or a step that failed; the steps before it stay done.
    """
    known = {step.number: step for step in (migrations() if steps is None else steps)}
    goal = max(known, default=0) if target is None else target
    now = check(con) if steps is None else version(con)
    numbers = sorted(known)
    if goal and goal not in known:
        raise TransferError(f"there is no schema {goal}", f"known: {', '.join(map(str, (0, *numbers)))}")
    taken = []
    while now != goal:
        if now < goal:
            after = min(n for n in numbers if n > now)
            step = known[after]
        else:
            step = known[now]
            after = max((n for n in numbers if n < now), default=0)
        _take(con, step, up=after > now)
        taken.append((now, after))
        now = after
    return taken


def _take(con: DuckDBPyConnection, step: Migration, *, up: bool) -> None:
    con.execute("BEGIN TRANSACTION")
    try:
        if up:
            con.execute(
                "CREATE TABLE IF NOT EXISTS schema_version"
                " (number BIGINT PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)"
            )
            step.up(con)
            con.execute(
                "INSERT INTO schema_version VALUES (?, ?, now())",
                [step.number, type(step).__module__.rpartition(".")[2]],
            )
        else:
            step.down(con)
            con.execute("DELETE FROM schema_version WHERE number = ?", [step.number])
        con.execute("COMMIT")
    except BaseException as error:
        con.execute("ROLLBACK")
        if not isinstance(error, Exception):
            raise
        way = "up to" if up else "down from"
        raise TransferError(
            f"the results database cannot be brought {way} schema {step.number}: {error}",
            "it is as it was; copy it to a safe place and report this",
        ) from error
