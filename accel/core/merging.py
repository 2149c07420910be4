"""Records of the spool in the tables of the results database: moved there, or laid over it for a reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.core.records import COLUMNS, fault
from accel.core.spool import Line, Spool

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_CHUNK = 2000
#: columns that repeat what the metadata says, see the migration m0003
FROM_METADATA = dict.fromkeys(("status", "cause", "sweep", "cell", "variant", "weights"), "VARCHAR")


@dataclass(frozen=True)
class Merged:
    """What a merge did: rows stored, records that were there already, lines that were set aside as damaged."""

    stored: int = 0
    known: int = 0
    damaged: int = 0


def merge_into(con: DuckDBPyConnection, waiting: Spool) -> Merged:
    """Moves what waits in a spool into an open database of the newest schema. One process at a time.

    A segment of the spool is one transaction, and is deleted after its commit: killed in between, the next merge
    reads the segment again and finds its records by their ids.

    Raises:
        TransferError: the spool cannot be emptied. duckdb.Error: what the database says.
    """
    merged = Merged()
    for segment in waiting.take():
        damaged: list[Line] = []
        stored = known = 0
        con.execute("BEGIN TRANSACTION")
        for chunk in _chunks(waiting.read(segment), damaged):
            new = _insert(con, chunk)
            stored += new
            known += len(chunk) - new
        con.execute("COMMIT")
        waiting.finish(segment, damaged)
        merged = Merged(merged.stored + stored, merged.known + known, merged.damaged + len(damaged))
    return merged


def overlay(con: DuckDBPyConnection, waiting: Spool) -> None:
    """Lets a reader see what waits in a spool as if it were merged; neither database nor spool is changed.

    Temporary views of the tables' names stand before the tables. Damaged lines are left to the next merge.
    """
    found = con.execute("SELECT current_database()").fetchone()
    tables = f'"{found[0]}".main' if found is not None else "main"
    for name, key in (("benchmark_results", "id"), ("samples", "id, series")):
        con.execute(f"CREATE TEMP TABLE waiting_{name} AS FROM {tables}.{name} LIMIT 0")
        con.execute(f"ALTER TABLE waiting_{name} ADD PRIMARY KEY ({key})")
    for segment in waiting.waiting():
        try:
            for chunk in _chunks(waiting.read(segment), []):
                _insert(con, chunk, "waiting_")
        except FileNotFoundError:
            continue  # merged meanwhile
    con.execute(
        f"UPDATE waiting_benchmark_results SET seq = rowid + 1 + (SELECT coalesce(max(seq), 0)"
        f" FROM {tables}.benchmark_results)"
    )
    for name in ("benchmark_results", "samples"):
        con.execute(
            f"CREATE TEMP VIEW {name} AS FROM {tables}.{name} UNION ALL BY NAME (FROM waiting_{name}"
            f" WHERE id NOT IN (SELECT id FROM {tables}.benchmark_results))"
        )


def _chunks(lines: Iterable[Line], damaged: list[Line]) -> Iterator[list[dict[str, Any]]]:
    """The good records of a segment, some at a time, each id once; the others are added to `damaged`."""
    chunk: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line.record is None:
            damaged.append(line)
            continue
        reason = fault(line.record)
        if reason:
            damaged.append(Line(line.raw, None, reason))
            continue
        chunk.setdefault(line.record["id"], line.record)
        if len(chunk) >= _CHUNK:
            yield list(chunk.values())
            chunk = {}
    if chunk:
        yield list(chunk.values())


def _insert(con: DuckDBPyConnection, records: list[dict[str, Any]], prefix: str = "") -> int:
    """Inserts records that are not there yet and returns how many that were; `prefix` is that of the tables' names."""
    rows = [_row(record) for record in records]
    casts = {"timestamp": "to_timestamp(unnest(?::DOUBLE[]))"}
    values = [
        casts.get(name, f"unnest(?::VARCHAR[])::{kind}" if kind == "JSON" else f"unnest(?::{kind}[])")
        for name, kind in (COLUMNS | FROM_METADATA).items()
    ]
    names = ", ".join(f'"{name}"' for name in COLUMNS | FROM_METADATA)
    counted = con.execute(
        f"INSERT INTO {prefix}benchmark_results ({names}) SELECT {', '.join(values)} ON CONFLICT DO NOTHING",
        [[row[name] for row in rows] for name in COLUMNS | FROM_METADATA],
    ).fetchone()
    series = [(r["id"], name, data) for r in records for name, data in r["samples"].items()]
    if series:
        con.execute(
            f"INSERT INTO {prefix}samples SELECT unnest(?::UUID[]), unnest(?::VARCHAR[]), unnest(?::DOUBLE[][])"
            " ON CONFLICT DO NOTHING",
            [list(column) for column in zip(*series, strict=True)],
        )
    return int(counted[0]) if counted is not None else 0


def _row(record: dict[str, Any]) -> dict[str, Any]:
    # what a newer accel appended without knowing that an older one would merge it
    unknown = {name: value for name, value in record.items() if name not in COLUMNS and name != "samples"}
    metadata = {**unknown, **record["metadata"]}
    return {
        **{name: record.get(name) for name in COLUMNS},
        **{name: _text(metadata.get(name)) for name in FROM_METADATA},
        "cell": _text(metadata.get("key")),
        "status": _text(metadata.get("status")) or "ok",
        "metadata": json.dumps(metadata),
        "samples_id": record["id"] if record["samples"] else None,
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
