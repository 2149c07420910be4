"""What the results hold: how many, how well they went, what failed and why, and every kind of measurement in one line.

Only columns are read, so that a million results take well under a second; JSON is parsed for a handful of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accel.core.report.reading import Filter

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: what makes two results of the same kind, in the order it is shown
AXES = ("model", "task", "weights", "device", "engine", "precision", "variant", "batch", "length", "threads")
#: latest latencies of a group that are drawn
RECENT = 8
_KEYS = "kind, model_name, task, weights, device, engine, precision, variant, batch, length, threads"


@dataclass
class Summary:
    """What the results hold.

    Attributes:
        total: results; by_kind: those of each kind.
        first, last: seconds since the epoch of the earliest and the latest; None without results.
        machines: fingerprints. models: names, most results first.
        groups: objects with the `AXES`, `kind`, `results`, `ok`, `success_rate`, `latency_ms` (median of the `RECENT`
            latest), `best_ms`, `recent_ms`, `last`; the latest first.
        failures: objects with `cause`, `count`, `share` (of all failures), `last`, `reason` and `cell` of the latest.
    """

    total: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    ok: int = 0
    first: float | None = None
    last: float | None = None
    machines: int = 0
    sweeps: int = 0
    models: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def success_rate(self) -> float | None:
        """Share of results that are no failure."""
        return self.ok / self.total if self.total else None

    def as_json(self) -> dict[str, Any]:
        """The document of `--json`."""
        return {
            "schema": "accel.report-summary/1",
            "results": self.total,
            "by_kind": self.by_kind,
            "ok": self.ok,
            "success_rate": self.success_rate,
            "first": self.first,
            "last": self.last,
            "machines": self.machines,
            "sweeps": self.sweeps,
            "models": self.models,
            "groups": self.groups,
            "failures": self.failures,
        }


def summarise(con: DuckDBPyConnection, wanted: Filter) -> Summary:
    """Reads the summary of what a filter lets through."""
    where, values = wanted.where()
    rows = con.execute(
        f"SELECT {_KEYS}, count(*), count(*) FILTER (status = 'ok'), min(inference_time),"
        f' arg_max(inference_time, seq, {RECENT}), max(seq), epoch(min("timestamp")), epoch(max("timestamp"))'
        f" FROM benchmark_results WHERE {where} GROUP BY ALL",
        values,
    ).fetchall()
    found = Summary()
    if not rows:
        return found
    rows.sort(key=lambda row: row[-3], reverse=True)
    models: dict[str, list[int]] = {}
    for row in rows:
        count, ok, best, recent, _, first, last = row[11:]
        kind, model = row[0], row[1] or ""
        found.total += count
        found.ok += ok
        found.by_kind[kind] = found.by_kind.get(kind, 0) + count
        found.first = first if found.first is None else min(found.first, first)
        found.last = last if found.last is None else max(found.last, last)
        counted = models.setdefault(model, [0, 0])
        counted[0] += count
        counted[1] += ok
        series = [1e3 * value for value in reversed(recent or []) if value is not None]
        found.groups.append(
            {
                "kind": kind,
                **dict(zip(AXES, row[1:11], strict=True)),
                "results": count,
                "ok": ok,
                "success_rate": ok / count,
                "latency_ms": _median(series),
                "best_ms": None if best is None else 1e3 * best,
                "recent_ms": series,
                "last": last,
            }
        )
    found.models = [
        {"model": name, "results": count, "ok": ok, "success_rate": ok / count}
        for name, (count, ok) in sorted(models.items(), key=lambda item: (-item[1][0], item[0]))
    ]
    counted_rows = con.execute(
        f"SELECT count(DISTINCT fingerprint), count(DISTINCT sweep) FROM benchmark_results WHERE {where}", values
    ).fetchone()
    found.machines, found.sweeps = counted_rows if counted_rows is not None else (0, 0)
    found.failures = _failures(con, where, values)
    return found


def _failures(con: DuckDBPyConnection, where: str, values: list[Any]) -> list[dict[str, Any]]:
    rows = con.execute(
        "WITH f AS (SELECT coalesce(cause, 'unknown') AS cause, count(*) AS n, max(seq) AS seq,"
        f" epoch(max(\"timestamp\")) AS last FROM benchmark_results WHERE {where} AND status <> 'ok' GROUP BY ALL)"
        " SELECT f.cause, f.n, f.last, r.metadata->>'$.reason', r.cell, r.model_name"
        " FROM f JOIN benchmark_results r ON r.seq = f.seq ORDER BY f.n DESC, f.cause",
        values,
    ).fetchall()
    total = sum(row[1] for row in rows)
    return [
        {"cause": cause, "count": n, "share": n / total, "last": last, "reason": reason, "cell": cell, "model": model}
        for cause, n, last, reason, cell, model in rows
    ]


def _median(values: list[float]) -> float | None:
    import statistics

    return statistics.median(values) if values else None
