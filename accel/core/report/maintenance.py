"""`accel report db`: the state of the results database, copies of it, checks, and its schema up and down."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core import paths, results, schema
from accel.core.database import DatabaseError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def status() -> dict[str, Any]:
    """Where the results are and in what state; never fails because of that state, and changes nothing.

    `state` is `absent`, `ready`, `old` (an older schema, which the next command brings up), `locked`, `damaged`,
    `newer` or `unreadable`; `problem` and `hint` say more.
    """
    database, spool = results.database(), results.spool()
    found: dict[str, Any] = {
        "path": str(database),
        "bytes": _size(database),
        "state": "absent",
        "schema_version": None,
        "newest_schema": schema.latest(),
        "results": None,
        "samples": None,
        "spool": str(spool.folder),
        "spool_bytes": spool.size(),
        "spool_results": sum(1 for path in spool.waiting() for _ in _lines(path)),
        "damaged_lines": sum(1 for path in sorted((spool.folder / "damaged").glob("*")) for _ in _lines(path)),
        "backups": [str(path) for path in sorted(_backups().glob("*.duckdb"))],
        "writable": os.access(database if database.exists() else database.parent, os.W_OK),
        "problem": None,
        "hint": None,
    }
    if not database.exists():
        return found
    try:
        with results.open_as_it_is(wait_s=1.0) as con:
            version = schema.check(con)
            found["schema_version"] = version
            found["state"] = "ready" if version == schema.latest() else "old"
            if version:
                found["results"] = _count(con, "benchmark_results")
            if version > 1:
                found["samples"] = _count(con, "samples")
    except DatabaseError as error:
        found |= {"state": error.state, "problem": error.message, "hint": error.hint}
    return found


def _count(con: DuckDBPyConnection, table: str) -> int:
    row = con.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(row[0]) if row is not None else 0


def _lines(path: Path) -> Any:
    with contextlib.suppress(OSError), path.open("rb") as file:
        yield from file


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _backups() -> Path:
    return paths.home() / "backups"
