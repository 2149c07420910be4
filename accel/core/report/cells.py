"""Stored results as reports use them: one object per result, whatever kind it is of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duckdb import DuckDBPyConnection

_COLUMNS = (
    *("id", "seq", "when", "kind", "sweep", "key", "model", "hardware", "device", "engine", "precision", "task"),
    *("batch", "length", "threads", "status", "cause", "seconds", "throughput", "memory_bytes", "cosine"),
    *("fingerprint", "model_cid", "metadata"),
)
_SELECT = (
    'id::VARCHAR, seq, epoch("timestamp"), kind, sweep, cell, model_name, hardware_type, device, engine, precision,'
    " task, batch, length, threads, status, cause, inference_time, throughput, memory_usage, accuracy_score,"
    " fingerprint, model_cid"
)
#: columns that tell one cell on one machine from another
IDENTITY = (
    "kind, cell, model_name, task, weights, device, engine, precision, variant, batch, length, threads, fingerprint"
)


@dataclass(frozen=True)
class Cell:
    """One result.

    Attributes:
        seq: order of arrival. when: seconds since the epoch, by the clock of the machine that measured.
        key: name of the cell, the same in every sweep on every machine.
        latency_ms: median of one execution; interval_ms its interval, with bounds that may be unknown.
        throughput: items per second. cosine: agreement with fp32 torch; None where it was not checked.
        samples: seconds by series; empty unless they were asked for.
    """

    id: str
    seq: int
    when: float
    kind: str
    sweep: str | None
    key: str
    model: str
    hardware: str
    device: str
    engine: str
    precision: str
    task: str
    batch: int | None
    length: int | None
    threads: int | None
    status: str
    cause: str | None
    latency_ms: float | None
    throughput: float | None
    memory_bytes: int | None
    cosine: float | None
    fingerprint: str
    model_cid: str | None
    metadata: dict[str, Any]
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """How the precision is reached."""
        return str(self.metadata.get("variant") or "")

    @property
    def weights(self) -> str:
        """`pretrained` or `random`."""
        return str(self.metadata.get("weights") or "pretrained")

    @property
    def interval_ms(self) -> tuple[float | None, float | None]:
        """The interval of the median."""
        low, high = self.metadata.get("latency_interval_ms") or (None, None)
        return low, high

    @property
    def environment(self) -> dict[str, Any]:
        """Machine, versions and commit."""
        found: dict[str, Any] = self.metadata.get("environment") or {}
        return found

    @property
    def noise(self) -> str:
        """`clean`, `noisy`, `unusable`, or empty where nobody judged."""
        return str((self.metadata.get("noise") or {}).get("verdict") or "")

    @property
    def plan(self) -> str:
        """Engine, precision and how it is reached."""
        return " ".join(word for word in (self.engine, self.precision, self.variant) if word)

    @property
    def family(self) -> tuple[Any, ...]:
        """What two results share that answer the same question, by whatever means: model, task and shape."""
        return (self.model, self.task, self.weights, self.batch, self.length)

    def as_json(self) -> dict[str, Any]:
        """The result in full; keys of `accel.bench/1` where a sweep measured it."""
        own = {name: value for name, value in self.__dict__.items() if name not in ("metadata", "samples")}
        return {**self.metadata, **own, "latency_interval_ms": list(self.interval_ms), "environment": self.environment}


def load(
    con: DuckDBPyConnection,
    where: str,
    values: Sequence[Any],
    *,
    tail: str = "ORDER BY seq",
    samples: bool = False,
    only: Sequence[str] = (),
) -> list[Cell]:
    """The results that a condition selects, in the order of arrival.

    Args:
        where: SQL, with `values` for its parameters. tail: what follows the condition.
        samples: read the raw samples too.
        only: what of the metadata is needed, where many results are read; all of it by default.
    """
    pairs = ", ".join(f"'{name}', metadata->'$.{name}'" for name in only)
    columns = f"{_SELECT}, {f'json_object({pairs})' if only else 'metadata'}"
    rows = con.execute(f"SELECT {columns} FROM benchmark_results WHERE {where} {tail}", list(values)).fetchall()
    series: dict[str, dict[str, list[float]]] = {}
    if samples and rows:
        found = con.execute(
            "SELECT id::VARCHAR, series, data FROM samples WHERE id IN (SELECT unnest(?::UUID[])) ORDER BY ALL",
            [[row[0] for row in rows]],
        ).fetchall()
        for name, title, data in found:
            series.setdefault(name, {})[title] = [value for value in data if value is not None]
    return [_cell(dict(zip(_COLUMNS, row, strict=True)), series.get(row[0], {})) for row in rows]


def latest(con: DuckDBPyConnection, where: str, values: Sequence[Any], *, samples: bool = False) -> list[Cell]:
    """The last result of every cell on every machine among those that a condition selects."""
    found = con.execute(f"SELECT max(seq) FROM benchmark_results WHERE {where} GROUP BY {IDENTITY}", list(values))
    numbers = [row[0] for row in found.fetchall()]
    # the bound lets the database skip what is older, whose metadata would take most of the time
    chosen = "seq >= ? AND seq IN (SELECT unnest(?::BIGINT[]))"
    return load(con, chosen, [min(numbers, default=0), numbers], samples=samples)


def _cell(row: dict[str, Any], samples: dict[str, list[float]]) -> Cell:
    seconds = row.pop("seconds")
    metadata = json.loads(row.pop("metadata"))
    key = row.pop("key")
    for name in ("model", "hardware", "device", "engine", "precision", "task", "fingerprint"):
        row[name] = row[name] or ""
    if not key:
        words = [row[name] for name in ("model", "task", "device", "engine", "precision")]
        words += [f"{name} {row[name]}" for name in ("batch", "length") if row[name] is not None]
        key = " / ".join(filter(None, words))
    return Cell(
        **row,
        key=key,
        latency_ms=None if seconds is None else 1e3 * seconds,
        metadata=metadata,
        samples=samples,
    )


def of_record(record: dict[str, Any], seq: int, when: float) -> Cell:
    """A completed record that is not in the database, as of a baseline."""
    metadata = record["metadata"]
    row = {
        "id": record["id"],
        "seq": seq,
        "when": when,
        "kind": record["kind"],
        "sweep": metadata.get("sweep"),
        "key": metadata.get("key"),
        "model": record["model_name"],
        "hardware": record["hardware_type"],
        **{name: record[name] for name in ("device", "engine", "precision", "task", "batch", "length", "threads")},
        "status": metadata.get("status") or "ok",
        "cause": metadata.get("cause"),
        "seconds": record["inference_time"],
        "throughput": record["throughput"],
        "memory_bytes": record["memory_usage"],
        "cosine": record["accuracy_score"],
        "fingerprint": record["fingerprint"],
        "model_cid": record["model_cid"],
        "metadata": json.dumps(metadata),
    }
    return _cell(row, record["samples"])
