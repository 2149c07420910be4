"""Moves records from the spool into the tables of the results database."""

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


def _insert(con: DuckDBPyConnection, records: list[dict[str, Any]]) -> int:
    """Inserts records that are not there yet and returns how many that were."""
    rows = [_row(record) for record in records]
    casts = {"timestamp": "to_timestamp(unnest(?::DOUBLE[]))"}
    values = [
        casts.get(name, f"unnest(?::VARCHAR[])::{kind}" if kind == "JSON" else f"unnest(?::{kind}[])")
        for name, kind in COLUMNS.items()
    ]
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    counted = con.execute(
        f"INSERT INTO benchmark_results ({names}) SELECT {', '.join(values)} ON CONFLICT DO NOTHING",
        [[row[name] for row in rows] for name in COLUMNS],
    ).fetchone()
    series = [(r["id"], name, data) for r in records for name, data in r["samples"].items()]
    if series:
        con.execute(
            "INSERT INTO samples SELECT unnest(?::UUID[]), unnest(?::VARCHAR[]), unnest(?::DOUBLE[][])"
            " ON CONFLICT DO NOTHING",
            [list(column) for column in zip(*series, strict=True)],
        )
    return int(counted[0]) if counted is not None else 0


def _row(record: dict[str, Any]) -> dict[str, Any]:
    # what a newer accel appended without knowing that an older one would merge it
    unknown = {name: value for name, value in record.items() if name not in COLUMNS and name != "samples"}
    return {
        **{name: record.get(name) for name in COLUMNS},
        "metadata": json.dumps({**unknown, **record["metadata"]}),
        "samples_id": record["id"] if record["samples"] else None,
    }
