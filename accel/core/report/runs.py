"""Sweeps by name: `last`, `last~1`, the beginning of an id or of a commit, and baselines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.core.errors import InputError
from accel.core.report.cells import Cell, load

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LAST = re.compile(r"last(?:~(\d{1,6}))?")
_HEX = re.compile(r"[0-9a-f-]{4,40}")


@dataclass(frozen=True)
class Run:
    """What was measured together.

    Attributes:
        name: id of the sweep, of a single result, or the name of a baseline.
        cells: in the order they were finished.
    """

    name: str
    cells: tuple[Cell, ...]

    @property
    def environment(self) -> dict[str, Any]:
        """Machine, versions and commit."""
        return next((cell.environment for cell in self.cells if cell.environment), {})

    @property
    def measured(self) -> list[Cell]:
        """Cells with a time."""
        return [cell for cell in self.cells if cell.status == "ok" and cell.latency_ms is not None]

    @property
    def failures(self) -> list[Cell]:
        """Cells that failed."""
        return [cell for cell in self.cells if cell.status != "ok"]

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "run": self.name,
            "environment": self.environment,
            "cells": [{**cell.as_json(), "samples_s": cell.samples.get("inference_time")} for cell in self.cells],
        }


def find(con: DuckDBPyConnection, name: str, *, samples: bool = True) -> Run:
    """The run that a name means.

    Args:
        name: `last`, `last~N`, the beginning (four digits at least) of the id of a sweep or of a result, the beginning
            of the commit that was checked out (its last sweep), or the name or file of a baseline of this machine.

    Raises:
        InputError: it means none, or more than one.
    """
    last = _LAST.fullmatch(name)
    if last:
        sweeps = con.execute(
            "SELECT sweep FROM benchmark_results WHERE sweep IS NOT NULL GROUP BY sweep ORDER BY max(seq) DESC"
            " LIMIT 1 OFFSET ?",
            [int(last[1] or 0)],
        ).fetchall()
        if not sweeps:
            raise InputError(f"there is no run {name!r}", "accel bench makes one; accel report runs lists them")
        return _sweep(con, sweeps[0][0], samples)
    if _HEX.fullmatch(name.lower()):
        found = _by_id(con, name.lower(), samples) or _by_commit(con, name.lower(), samples)
        if found is not None:
            return found
    return _baseline(name)


def _sweep(con: DuckDBPyConnection, name: str, samples: bool) -> Run:
    return Run(name, tuple(load(con, "sweep = ?", [name], samples=samples)))


def _by_id(con: DuckDBPyConnection, name: str, samples: bool) -> Run | None:
    bare = name.replace("-", "")
    sweeps = [
        row[0]
        for row in con.execute(
            "SELECT DISTINCT sweep FROM benchmark_results WHERE starts_with(sweep, ?) LIMIT 10", [bare]
        ).fetchall()
    ]
    if len(sweeps) > 1 and bare not in sweeps:
        raise InputError(f"{name!r} begins more than one run", f"known: {', '.join(sorted(sweeps))}")
    if sweeps:
        return _sweep(con, bare if bare in sweeps else sweeps[0], samples)
    single = load(
        con, "starts_with(replace(id::VARCHAR, '-', ''), ?)", [bare], tail="ORDER BY seq LIMIT 10", samples=samples
    )
    if len(single) > 1:
        raise InputError(f"{name!r} begins more than one result", f"known: {', '.join(cell.id for cell in single)}")
    return Run(single[0].id, tuple(single)) if single else None


def _by_commit(con: DuckDBPyConnection, name: str, samples: bool) -> Run | None:
    # one result of each sweep: to parse the metadata of all of them would take too long
    row = con.execute(
        "WITH s AS (SELECT max(seq) AS seq FROM benchmark_results WHERE sweep IS NOT NULL GROUP BY sweep)"
        " SELECT r.sweep FROM s JOIN benchmark_results r ON r.seq = s.seq"
        " WHERE starts_with(r.metadata->>'$.environment.commit', ?) ORDER BY r.seq DESC LIMIT 1",
        [name],
    ).fetchone()
    return _sweep(con, row[0], samples) if row is not None else None


def _baseline(name: str) -> Run:
    from accel.core.bench import baselines, control, measured
    from accel.core.errors import UnavailableError
    from accel.core.records import complete
    from accel.core.report.cells import of_record

    try:
        found = baselines.load(name)
    except (UnavailableError, InputError) as error:
        raise InputError(
            f"{name!r} is no run, no commit and no baseline of this machine", "accel report runs lists the runs"
        ) from error
    where = {key: value for key, value in found.environment.items() if key != "path"}
    cells = [
        of_record(complete(measured.record(outcome, name, 0.01, where)), number, found.created)
        for number, outcome in enumerate(found.cells.values())
        if outcome.cell.benchmark != control.NAME
    ]
    return Run(name, tuple(cells))


def listing(con: DuckDBPyConnection, limit: int = 20) -> list[dict[str, Any]]:
    """The latest sweeps: `run`, `when`, `cells`, `ok`, `models`, `commit`."""
    rows = con.execute(
        'WITH s AS (SELECT sweep, epoch(max("timestamp")) AS at, count(*) AS n, max(seq) AS seq,'
        " count(*) FILTER (status = 'ok') AS ok, list_sort(list(DISTINCT model_name)) AS models"
        " FROM benchmark_results WHERE sweep IS NOT NULL GROUP BY sweep ORDER BY seq DESC LIMIT ?)"
        " SELECT s.sweep, s.at, s.n, s.ok, s.models, r.metadata->>'$.environment.commit'"
        " FROM s JOIN benchmark_results r ON r.seq = s.seq ORDER BY s.seq DESC",
        [limit],
    ).fetchall()
    names = ("run", "when", "cells", "ok", "models", "commit")
    return [dict(zip(names, row, strict=True)) for row in rows]
