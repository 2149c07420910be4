"""Results as files for other programs: CSV, Parquet, JSON and markdown."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core import paths
from accel.core.database import Damaged, DatabaseError, understood
from accel.core.errors import TransferError
from accel.core.report.cells import Cell, latest
from accel.core.report.reading import Filter

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FORMATS = ("csv", "json", "parquet", "markdown", "html")
SCHEMA = "accel.results/1"

_NUMBER = "CAST(metadata->>'{}' AS DOUBLE)"
#: columns of tables, by name: SQL over `benchmark_results`
_COLUMNS: dict[str, str] = {
    "id": "id",
    "timestamp": '"timestamp"',
    "kind": "kind",
    "run": "sweep",
    "cell": "cell",
    "status": "status",
    "cause": "cause",
    "reason": "metadata->>'$.reason'",
    "model": "model_name",
    "model_cid": "model_cid",
    "task": "task",
    "weights": "weights",
    "hardware": "hardware_type",
    "device": "device",
    "engine": "engine",
    "precision": "precision",
    "variant": "variant",
    "batch": "batch",
    "length": "length",
    "threads": "threads",
    "latency_ms": "1000 * inference_time",
    "latency_low_ms": _NUMBER.format("$.latency_interval_ms[0]"),
    "latency_high_ms": _NUMBER.format("$.latency_interval_ms[1]"),
    "p90_ms": _NUMBER.format("$.quantiles.p90.value_ms"),
    "p95_ms": _NUMBER.format("$.quantiles.p95.value_ms"),
    "p99_ms": _NUMBER.format("$.quantiles.p99.value_ms"),
    "throughput_per_s": "throughput",
    "memory_bytes": "memory_usage",
    "cosine": "accuracy_score",
    "energy_j": _NUMBER.format("$.energy_j"),
    "noise": "metadata->>'$.noise.verdict'",
    "fingerprint": "fingerprint",
    "cpu": "metadata->>'$.environment.cpu'",
    "accel": "metadata->>'$.environment.accel'",
    "commit": "metadata->>'$.environment.commit'",
    "engine_version": "metadata->>'$.engine_version'",
}


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A name beside a file; what is written there takes the file's place at the end, whole or not at all.

    Raises:
        TransferError: it cannot be written.
    """
    target = target.expanduser().absolute()
    paths.ensure(target.parent)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(target)
    except OSError as error:
        raise TransferError(
            f"cannot write {target}: {error.strerror or error}", "free space or rights there"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write(con: DuckDBPyConnection, wanted: Filter, form: str, target: Path, *, samples: bool = False) -> int:
    """Writes the results that a filter lets through and returns how many.

    Args:
        form: `csv`, `parquet`, `json` (one document with everything) or `markdown` (the last result of each cell).
        target: a file that may be written over.
        samples: the raw samples too (`parquet` and `json`).

    Raises:
        TransferError: the file cannot be written.
    """
    where, values = wanted.where()
    if form in ("csv", "parquet"):
        return _copy(con, where, values, form, target, samples=samples)
    if form == "json":
        return _json(con, where, values, target, samples=samples)
    cells = latest(con, where, values)
    target.write_text(markdown(cells), encoding="utf-8")
    return len(cells)


def _copy(con: DuckDBPyConnection, where: str, values: list[Any], form: str, target: Path, *, samples: bool) -> int:
    columns = [f'{sql} AS "{name}"' for name, sql in _COLUMNS.items()]
    if form == "parquet":
        columns.append("metadata::VARCHAR AS metadata")
    if samples and form == "parquet":
        columns.append("(SELECT map(list(s.series), list(s.data)) FROM samples s WHERE s.id = samples_id) AS samples_s")
    how = "FORMAT parquet, COMPRESSION zstd" if form == "parquet" else "FORMAT csv, HEADER"
    path = str(target).replace("'", "''")
    query = f"SELECT {', '.join(columns)} FROM benchmark_results WHERE {where} ORDER BY seq"
    try:
        with understood(target, f"the file {target}"):
            row = con.execute(f"COPY ({query}) TO '{path}' ({how})", values).fetchone()
    except DatabaseError as error:
        if isinstance(error, Damaged) and error.__cause__ is not None:
            raise error.__cause__ from None  # it is the database that cannot be read, as its opener is going to say
        raise TransferError(error.message, "free space or rights there") from error
    return int(row[0]) if row is not None else 0


def _json(con: DuckDBPyConnection, where: str, values: list[Any], target: Path, *, samples: bool) -> int:
    count = 0
    with target.open("w", encoding="utf-8") as file:
        file.write(f'{{"schema": "{SCHEMA}", "results": [')
        for record in records(con, where, values, samples=samples):
            file.write(("," if count else "") + "\n" + json.dumps(record, allow_nan=False))
            count += 1
        file.write("\n]}\n")
    return count


def records(
    con: DuckDBPyConnection, where: str, values: list[Any], *, samples: bool = True, order: str = "seq"
) -> Iterator[dict[str, Any]]:
    """Results in the form in which they are appended to the spool; see `accel.core.records`."""
    from accel.core.records import COLUMNS

    columns = [name for name in COLUMNS if name not in ("metadata", "samples_id")]
    asked = [
        f"{name}::VARCHAR" if name == "id" else 'epoch("timestamp")' if name == "timestamp" else name
        for name in columns
    ]
    series = "(SELECT list({name: s.series, data: s.data}) FROM samples s WHERE s.id = samples_id)"
    cursor = con.execute(
        f"SELECT {', '.join(asked)}, metadata, {series if samples else 'NULL'}"
        f" FROM benchmark_results WHERE {where} ORDER BY {order}",
        values,
    )
    while rows := cursor.fetchmany(500):
        for row in rows:
            record = dict(zip(columns, row, strict=False))
            record["metadata"] = json.loads(row[-2])
            record["samples"] = {entry["name"]: entry["data"] for entry in row[-1] or []}
            yield record


def markdown(cells: list[Cell]) -> str:
    """A table of cells, fastest first within a model and device."""
    lines = [
        "| model | device | plan | batch | length | median, ms | interval, ms | per second | memory, MB | cosine |",
        "|---|---|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    shown: Callable[[float | None], str] = lambda v: "" if v is None else f"{v:.4g}"  # noqa: E731
    for cell in sorted(cells, key=lambda c: (c.model, c.device, c.batch or 0, c.latency_ms or float("inf"))):
        low, high = cell.interval_ms
        memory = None if cell.memory_bytes is None else cell.memory_bytes / 1e6
        values = [cell.model, cell.device, cell.plan, cell.batch, cell.length]
        values += [shown(cell.latency_ms) if cell.status == "ok" else f"failed: {cell.cause}"]
        values += ["" if low is None or high is None else f"{shown(low)} to {shown(high)}", shown(cell.throughput)]
        values += [shown(memory), "" if cell.cosine is None else f"{cell.cosine:.6f}"]
        lines.append(f"| {' | '.join('' if v is None else _escaped(v) for v in values)} |")
    return "\n".join(lines) + "\n"


def _escaped(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
