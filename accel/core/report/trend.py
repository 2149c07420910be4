"""How the speed of a model developed: one series per cell and machine, with the places where it changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accel.core.report import changes
from accel.core.report.cells import Cell, load
from accel.core.report.changes import Change
from accel.core.report.environments import IN_METADATA, differences

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from accel.core.report.reading import Filter

SCHEMA = "accel.report-trend/1"
#: latest results of a model that are looked at
MOST = 20_000


@dataclass(frozen=True)
class Series:
    """The results of one cell on one machine, in the order of arrival, which no clock can turn round."""

    cells: tuple[Cell, ...]
    changes: tuple[Change, ...] = ()

    @property
    def last(self) -> Cell:
        """The latest result."""
        return self.cells[-1]

    def around(self, change: Change) -> tuple[Cell, Cell]:
        """The last result that is surely before a change and the first one that is surely after it."""
        return self.cells[change.earliest - 1], self.cells[change.latest]

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        last = self.last
        return {
            "key": last.key,
            "kind": last.kind,
            **{name: getattr(last, name) for name in _AXES},
            "fingerprint": last.fingerprint,
            "points": [
                {
                    "id": cell.id,
                    "run": cell.sweep,
                    "when": cell.when,
                    "commit": cell.environment.get("commit"),
                    "latency_ms": cell.latency_ms,
                    "latency_interval_ms": list(cell.interval_ms),
                }
                for cell in self.cells
            ],
            "changes": [self._change(change) for change in self.changes],
        }

    def _change(self, change: Change) -> dict[str, Any]:
        before, after = self.around(change)
        return {
            "index": change.index,
            "after_run": before.sweep,
            "until_run": after.sweep,
            "after": before.when,
            "until": after.when,
            "before_ms": change.before,
            "after_ms": change.after,
            "ratio": change.ratio,
            "p": change.p,
            "differences": differences(before, after),
        }


_AXES = ("model", "task", "weights", "device", "engine", "precision", "variant", "batch", "length", "threads")


@dataclass(frozen=True)
class Trend:
    """The series of what a filter lets through; those with changes first, then the longest."""

    series: tuple[Series, ...] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        """The document of `--json`."""
        return {"schema": SCHEMA, "method": changes.METHOD, "series": [entry.as_json() for entry in self.series]}


def gather(con: DuckDBPyConnection, wanted: Filter) -> list[Cell]:
    """The latest successful results, to be handed to `follow` when the database is closed again."""
    where, values = wanted.where()
    chosen = f"{where} AND status = 'ok' AND inference_time > 0"
    row = con.execute(
        f"SELECT min(seq) FROM (SELECT seq FROM benchmark_results WHERE {chosen} ORDER BY seq DESC LIMIT {MOST})",
        values,
    ).fetchone()
    first = 0 if row is None or row[0] is None else row[0]
    needed = ("variant", "weights", "environment", "latency_interval_ms", *IN_METADATA)
    return load(con, f"{chosen} AND seq >= ?", [*values, first], only=needed)


def follow(cells: list[Cell], least_ratio: float = 1.01) -> Trend:
    """The series of these results, with the changes of their levels.

    Args:
        least_ratio: a change by less is none.
    """
    grouped: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        identity = (cell.kind, cell.fingerprint, *(getattr(cell, name) for name in _AXES))
        grouped.setdefault(identity, []).append(cell)
    series = [
        Series(tuple(group), tuple(changes.find([c.latency_ms or 0.0 for c in group], least_ratio=least_ratio)))
        for group in grouped.values()
    ]
    return Trend(tuple(sorted(series, key=lambda s: (not s.changes, -len(s.cells), s.last.key))))
