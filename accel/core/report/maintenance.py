"""`accel report db`: the state of the results database, copies of it, checks, and its schema up and down."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core import paths, results, schema
from accel.core.database import DatabaseError, connected, understood
from accel.core.errors import InputError, TransferError

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
        "backups": [str(path) for path in sorted(_backups().glob("*.duckdb"), key=_age)],
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


def _lines(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(OSError), path.open("rb") as file:
        yield from file


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _backups() -> Path:
    return paths.home() / "backups"


@dataclass(frozen=True)
class Backup:
    """A copy of the database; `results` is how many it holds."""

    path: Path
    bytes: int
    results: int


def backup(target: Path | None = None, *, force: bool = False, wait_s: float = 30.0) -> Backup:
    """Copies the database, with what waited in the spool where it can be merged, and reads the copy once.

    Nobody can write while it is copied; new results go to the spool meanwhile. The copy appears whole or not at all.

    Args:
        target: a file; by default one with the time in its name, in `backups` under the home folder.
        force: replace a file that is there.

    Raises:
        InputError: there is no database, or a file in the way. TransferError: it cannot be read or copied.
    """
    with contextlib.suppress(TransferError):
        results.merge(wait_s=2.0)
    source = results.database()
    if not source.exists():
        raise InputError("there is no database to copy yet", "accel bench makes one")
    place = target.expanduser().absolute() if target is not None else _named("results")
    if place.exists() and (not force or place.resolve() == source.resolve()):
        raise InputError(f"{place} is there already", "name another file, or add --force")
    paths.ensure(place.parent)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with results.open_as_it_is(wait_s):
            _copy(source, part)
        count = _read_once(part)
        part.replace(place)
    except OSError as error:
        raise TransferError(f"cannot write {place}: {error.strerror or error}", "free space or rights there") from error
    finally:
        part.unlink(missing_ok=True)
    return Backup(place, place.stat().st_size, count)


def _named(prefix: str) -> Path:
    folder = _backups()
    stem = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(p for n in range(10_000) if not (p := folder / f"{stem}{f'-{n}' if n else ''}.duckdb").exists())


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copyfile(source, target)
    handle = os.open(target, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_once(path: Path) -> int:
    """How many results a database holds, every block of it read."""
    called = f"the copy {path}"
    with (
        connected(path, read_only=True, deadline=time.monotonic(), called=called) as con,
        understood(path, called),
    ):
        return sum(_scan(con, table) for table in _tables(con) if table == "benchmark_results")


def _tables(con: DuckDBPyConnection) -> list[str]:
    rows = con.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY 1").fetchall()
    return [str(row[0]) for row in rows]


def _scan(con: DuckDBPyConnection, table: str) -> int:
    # DuckDB checks the checksum of a block when it reads it, so every column of every row is asked for
    row = con.execute(f'SELECT count(*), bit_xor(hash(t)) FROM "{table}" t').fetchone()
    return int(row[0]) if row is not None else 0


@dataclass(frozen=True)
class Checked:
    """What a check found; `problems` is empty for a sound database."""

    rows: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check() -> Checked:
    """Reads every block of the database and sees whether its tables fit together; changes nothing.

    Raises:
        InputError: there is no database. TransferError: it is locked.
    """
    if not results.database().exists():
        raise InputError("there is no database yet", "accel bench makes one")
    rows: dict[str, int] = {}
    problems: list[str] = []
    notes: list[str] = []
    try:
        with results.open_as_it_is() as con:
            version = schema.check(con)
            rows = {table: _scan(con, table) for table in _tables(con)}
            problems += [text.format(count) for text, query in _SOUND if (count := _first(con, query))]
            if version >= 2:
                problems += [text.format(count) for text, query in _SAMPLES if (count := _first(con, query))]
            if version < schema.latest():
                notes.append(f"its schema is {version}; the next command brings it to {schema.latest()}")
    except DatabaseError as error:
        if error.state in ("locked", "newer"):
            raise
        problems.append(error.message)
    found = status()
    if found["spool_results"]:
        notes.append(f"{found['spool_results']} results wait in the spool")
    if found["damaged_lines"]:
        notes.append(f"{found['damaged_lines']} damaged lines were set aside in {found['spool']}/damaged")
    return Checked(rows, tuple(problems), tuple(notes))


_SOUND = (
    ("{} ids are there more than once", "SELECT count(*) - count(DISTINCT id) FROM benchmark_results"),
    ("{} numbers of arrival are there more than once", "SELECT count(*) - count(DISTINCT seq) FROM benchmark_results"),
    (
        "{} results have metadata that is no JSON",
        "SELECT count(*) FROM benchmark_results WHERE NOT json_valid(metadata)",
    ),
)
_SAMPLES = (
    (
        "{} results lack the samples that they name",
        "SELECT count(*) FROM benchmark_results r WHERE samples_id IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM samples s WHERE s.id = r.samples_id)",
    ),
    (
        "{} series of samples belong to no result",
        "SELECT count(*) FROM samples s WHERE NOT EXISTS (SELECT 1 FROM benchmark_results r WHERE r.samples_id = s.id)",
    ),
)


def _first(con: DuckDBPyConnection, query: str) -> int:
    row = con.execute(query).fetchone()
    return int(row[0]) if row is not None else 0


@dataclass(frozen=True)
class Migrated:
    """Steps taken, as pairs of versions, and the copy that was made before a way down."""

    steps: tuple[tuple[int, int], ...]
    version: int
    backup: Path | None


def migrate(target: int | None = None) -> Migrated:
    """Brings the schema to a version: the newest by default. Before a way down the database is copied.

    Any later command of this accel brings it up again: a way down is for handing the file to an older accel.

    Raises:
        InputError: there is no such version. TransferError: see `accel.core.results.open_writer`.
    """
    known = [0, *(step.number for step in schema.migrations())]
    if target is not None and target not in known[1:]:
        raise InputError(f"there is no schema {target}", f"known: {', '.join(map(str, known[1:]))}")
    kept = None
    with contextlib.suppress(InputError):
        if target is not None and target < schema.latest():
            kept = backup(_named("before-migration")).path
    before = 0
    if results.database().exists():
        with results.open_as_it_is() as con:
            before = schema.check(con)
    with results.open_writer() as con:  # brings it up to the newest
        schema.migrate(con, target)
        version = schema.version(con)
    between = [number for number in known if min(before, version) <= number <= max(before, version)]
    way = between if version >= before else between[::-1]
    return Migrated(tuple(itertools.pairwise(way)), version, kept)
