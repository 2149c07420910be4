"""Results as one self-contained HTML file: plots that answer to the pointer, and tables that need no script.

Script, style and data are in the file; it loads nothing. The plots are drawn by accel's own script as SVG: the smallest
charting library that has distributions, log axes and printing is some fifteen times its size.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.report import changes, cost
from accel.core.report.cells import Cell, latest, load
from accel.core.report.plots import intensity, roofs, thinned
from accel.core.report.reading import Filter
from accel.core.report.trend import Series, Trend, follow
from accel.core.report.trend import gather as gather_trend

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from accel.core.report.runs import Run

#: cells and points of a page at most, so that it stays below a megabyte
MOST_CELLS = 150
MOST_SERIES = 40
MOST_POINTS = 12_000
_QUANTILES = 24_000
_COLUMNS = (
    ("model", ""),
    ("task", ""),
    ("device", ""),
    ("plan", ""),
    ("batch", "number"),
    ("length", "number"),
    ("threads", "number"),
    ("ms", "number"),
    ("p95, ms", "number"),
    ("per second", "number"),
    ("memory, MB", "number"),
    ("cosine", "number"),
    ("noise", ""),
    ("measured", ""),
)


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Attributes:
        cells: with samples; the last result of each cell, or those of one run.
        history: results that trends are made of.
        deep: results of `accel detect --deep`, for the roofs.
        left_out: cells that the page has no room for.
    """

    title: str
    cells: tuple[Cell, ...]
    history: tuple[Cell, ...] = ()
    deep: tuple[Cell, ...] = ()
    left_out: int = 0
    prices: dict[str, float] = field(default_factory=dict)


def gather(con: DuckDBPyConnection, wanted: Filter, title: str = "accel report") -> Page:
    """What a page about the results that a filter lets through needs."""
    where, values = wanted.where()
    cells = latest(con, where, values)
    chosen = sorted(cells, key=lambda cell: cell.seq)[-MOST_CELLS:]
    with_samples = load(con, "id IN (SELECT unnest(?::UUID[]))", [[cell.id for cell in chosen]], samples=True)
    return Page(
        title,
        tuple(with_samples),
        tuple(gather_trend(con, wanted)),
        _deep(con),
        len(cells) - len(chosen),
        cost.prices(),
    )


def of_run(con: DuckDBPyConnection, run: Run) -> Page:
    """What a page about one run needs, with the history of its models."""
    history: list[Cell] = []
    for model in sorted({cell.model for cell in run.cells}):
        history += gather_trend(con, Filter(model=model, kinds=("bench",)))
    kept = run.cells[:MOST_CELLS]
    return Page(
        f"accel run {run.name[:12]}", kept, tuple(history), _deep(con), len(run.cells) - len(kept), cost.prices()
    )


def _deep(con: DuckDBPyConnection) -> tuple[Cell, ...]:
    return tuple(latest(con, "kind = 'deep'", []))


def render(page: Page) -> str:
    """The HTML of a page."""
    trend = follow(list(page.history))
    data = {
        "cells": [_cell(cell, page) for cell in page.cells if cell.status == "ok" and cell.latency_ms],
        "roofs": roofs(page.deep),
        "series": _series(trend),
    }
    parts = {
        "title": html.escape(page.title),
        "about": html.escape(_about(page)),
        "method": html.escape(changes.METHOD),
        "style": _file("page.css"),
        "script": _file("page.js"),
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "table": _table(page),
        "failures": _failures(page.cells),
    }
    # split, so that nothing in the data is taken for a place to fill in
    pieces = _file("page.html").split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, _, rest in (p.partition("}}") for p in pieces[1:]))


def _file(name: str) -> str:
    return (Path(__file__).resolve().parents[2] / "data" / "report" / name).read_text(encoding="utf-8")


def _about(page: Page) -> str:
    machines = sorted({str(cell.environment.get("cpu")) for cell in page.cells if cell.environment.get("cpu")})
    ok = sum(cell.status == "ok" for cell in page.cells)
    parts = [f"{ok} of {len(page.cells)} cells went well", ", ".join(machines[:3])]
    parts += [f"{page.left_out} older cells left out"] if page.left_out else []
    parts.append(f"made {time.strftime('%Y-%m-%d %H:%M')}")
    return " · ".join(part for part in parts if part)


def label(cell: Cell, cells: Sequence[Cell]) -> str:
    """What a cell is called beside others, by the axes in which they differ."""
    axes = ("model", "device", "engine", "precision", "variant", "batch", "length", "threads", "fingerprint")
    words = []
    for name in axes:
        value = getattr(cell, name)
        if value in (None, "", 0) or len({getattr(other, name) or None for other in cells}) < 2:
            continue
        if name == "engine" and cell.device.startswith(f"{value}:"):
            continue
        shown = value[:6] if name == "fingerprint" else value
        words.append(f"{name} {shown}" if isinstance(value, int) else str(shown))
    return " ".join(words) or cell.plan


def _cell(cell: Cell, page: Page) -> dict[str, Any]:
    low, high = cell.interval_ms
    steps = max(40, min(200, _QUANTILES // max(1, len(page.cells))))
    quantiles = [1e3 * value for value in thinned(cell.samples.get("inference_time", []), steps)]
    return {
        **{name: getattr(cell, name) for name in ("id", "key", "model", "device", "engine", "precision", "batch")},
        "fingerprint": cell.fingerprint,
        "label": label(cell, page.cells),
        "latency_ms": cell.latency_ms,
        "low_ms": low,
        "high_ms": high,
        "throughput": cell.throughput,
        "memory_mb": None if cell.memory_bytes is None else cell.memory_bytes / 1e6,
        "cosine": cell.cosine,
        "noise": cell.noise,
        "cost": cost.per_million(cell, page.prices),
        "gflops": cell.metadata.get("gflops_per_s"),
        "intensity": intensity(cell),
        "q": [float(f"{value:.5g}") for value in quantiles] or None,
        "medians": cell.metadata.get("process_medians_ms"),
    }


def _series(trend: Trend) -> list[dict[str, Any]]:
    shown = [series for series in trend.series if len(series.cells) > 1][:MOST_SERIES]
    most = max(50, MOST_POINTS // max(1, len(shown)))
    return [_one_series(series, most, [s.last for s in shown]) for series in shown]


def _one_series(series: Series, most: int, others: Sequence[Cell]) -> dict[str, Any]:
    import statistics

    first = max(0, len(series.cells) - most)
    cells = series.cells[first:]
    kept = [change for change in series.as_json()["changes"] if change["index"] > first]
    start = kept[-1]["index"] if kept else first
    return {
        "label": label(series.last, others) if len(others) > 1 else series.last.key,
        "level": statistics.median([cell.latency_ms or 0.0 for cell in series.cells[start:]]),
        "points": [
            {
                "ms": cell.latency_ms,
                "low": cell.interval_ms[0],
                "high": cell.interval_ms[1],
                "day": _day(cell.when),
                "commit": str(cell.environment.get("commit") or "")[:12],
                "run": (cell.sweep or cell.id)[:12],
            }
            for cell in cells
        ],
        "changes": [
            {
                "index": change["index"] - first,
                "day": _day(change["after"]),
                "until": _day(change["until"]),
                **{name: change[name] for name in ("before_ms", "after_ms", "ratio", "p", "differences")},
            }
            for change in kept
        ],
    }


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _table(page: Page) -> str:
    heads = "".join(f'<th class="{kind}">{html.escape(name)}</th>' for name, kind in _COLUMNS)
    rows = []
    for cell in page.cells:
        if cell.status != "ok":
            continue
        p95 = ((cell.metadata.get("quantiles") or {}).get("p95") or {}).get("value_ms")
        memory = None if cell.memory_bytes is None else cell.memory_bytes / 1e6
        values: list[Any] = [cell.model, cell.task, cell.device, cell.plan, cell.batch, cell.length, cell.threads]
        values += [cell.latency_ms, p95, cell.throughput, memory, cell.cosine, cell.noise, _day(cell.when)]
        filled = "".join(_td(value, kind, name) for value, (name, kind) in zip(values, _COLUMNS, strict=True))
        rows.append(f'<tr data-id="{html.escape(cell.id)}">{filled}</tr>')
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _td(value: Any, kind: str, name: str) -> str:
    if value is None:
        return f'<td class="{kind}" data-value=""></td>'
    if isinstance(value, float):
        shown = f"{value:.6f}" if name == "cosine" else f"{value:.4g}"
        return f'<td class="{kind}" data-value="{value!r}">{shown}</td>'
    return f'<td class="{kind}">{html.escape(str(value))}</td>'


def _failures(cells: Sequence[Cell]) -> str:
    failed = [cell for cell in cells if cell.status != "ok"]
    if not failed:
        return ""
    rows = "".join(
        f"<tr><td class='wide'>{html.escape(cell.key)}</td><td>{html.escape(cell.cause or cell.status)}</td>"
        f"<td class='wide'>{html.escape(str(cell.metadata.get('reason') or ''))}</td></tr>"
        for cell in failed
    )
    head = "<tr><th>cell</th><th>cause</th><th>what happened</th></tr>"
    return (
        f'<section id="failures"><h2>Failures</h2><div class="scroll"><table><thead>{head}</thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )
