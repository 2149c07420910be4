"""Results of other machines: databases, bundles and content ids, merged without anything twice."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accel.core import results, schema
from accel.core.database import connected, understood
from accel.core.errors import InputError
from accel.core.paths import ensure, home
from accel.core.records import COLUMNS, fault
from accel.core.spool import Spool

#: how long another program may go on writing the other database
WAIT_S = 10.0


@dataclass(frozen=True)
class Joined:
    """What a merge did: results taken over, and those that were here already."""

    stored: int
    known: int
    source: str


def join(other: str, *, offline: bool = False) -> Joined:
    """Takes over the results of another database.

    Args:
        other: a results database, a home folder of accel, a bundle's folder, or the content id of a bundle.

    Raises:
        InputError: it is none of these, or our own database. TransferError: it is locked, damaged or of a newer accel,
            or content that cannot be had; ours is unchanged then.
    """
    from accel.core.content.cid import is_reference
    from accel.core.report import bundling

    path = Path(other).expanduser()
    if not path.exists() and is_reference(other):
        return bundling.fetch(other, offline=offline)
    if path.is_dir() and (path / bundling.MANIFEST).is_file():
        return bundling.take(path)
    if path.is_dir() and (path / "results.duckdb").is_file():
        path = path / "results.duckdb"
    if not path.is_file():
        raise InputError(
            f"{other} is neither a results database, a bundle nor a content id", "name another machine's results.duckdb"
        )
    if results.database().exists() and path.samefile(results.database()):
        raise InputError(f"{other} is the database of this machine", "name that of another one")
    found = _take_over(path.absolute())
    waiting = [r for r in _waiting(path) if not fault(r)] if path.name == "results.duckdb" else []
    if not waiting:
        return found
    results.spool().append(waiting)
    merged = results.merge()
    return Joined(found.stored + merged.stored, found.known + merged.known, found.source)


def _waiting(path: Path) -> Iterator[dict[str, object]]:
    """What waits in the spool beside another database."""
    beside = Spool(path.parent / "results.spool")
    for segment in beside.waiting():
        yield from (line.record for line in beside.read(segment) if line.record is not None)


def _take_over(path: Path) -> Joined:
    called = f"the database {path}"
    with _ready(path, called) as ready, results.open_writer() as con, understood(path, called):
        quoted = str(ready).replace("'", "''")
        con.execute(f"ATTACH '{quoted}' AS other (READ_ONLY)")
        try:
            # one snapshot of what is new, for both tables
            con.execute("BEGIN TRANSACTION")
            con.execute(
                "CREATE TEMP TABLE joining AS SELECT id FROM other.main.benchmark_results"
                " WHERE id NOT IN (SELECT id FROM benchmark_results)"
            )
            columns = ", ".join(f'"{name}"' for name in (*COLUMNS, *_EXTRA))
            con.execute(
                f"INSERT INTO benchmark_results ({columns}) SELECT {columns} FROM other.main.benchmark_results"
                " WHERE id IN (FROM joining) ORDER BY seq"
            )
            con.execute(
                "INSERT INTO samples (id, series, data) SELECT id, series, data FROM other.main.samples"
                " WHERE id IN (FROM joining) ON CONFLICT DO NOTHING"
            )
            row = con.execute(
                "SELECT (SELECT count(*) FROM joining), (SELECT count(*) FROM other.main.benchmark_results)"
            ).fetchone()
            con.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(Exception):
                con.execute("ROLLBACK")
            raise
        finally:
            with contextlib.suppress(Exception):
                con.execute("DETACH other")
    stored, total = row if row is not None else (0, 0)
    return Joined(stored, total - stored, str(path))


_EXTRA = ("status", "cause", "sweep", "cell", "variant", "weights")


@contextlib.contextmanager
def _ready(path: Path, called: str) -> Iterator[Path]:
    """A database of the newest schema with the same content: the file itself, or a copy of it that was brought up."""
    with (
        connected(path, read_only=True, deadline=time.monotonic() + WAIT_S, called=called) as con,
        understood(path, called),
    ):
        version = schema.check(con)
    log = path.with_name(f"{path.name}.wal")
    if version == schema.latest() and not log.exists():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=".joining-", dir=ensure(home())) as folder:
        copy = Path(folder) / "other.duckdb"
        shutil.copyfile(path, copy)
        if log.exists():
            shutil.copyfile(log, copy.with_name("other.duckdb.wal"))
        with (
            connected(copy, read_only=False, deadline=time.monotonic(), called=called) as con,
            understood(path, called),
        ):
            schema.migrate(con)
        yield copy
