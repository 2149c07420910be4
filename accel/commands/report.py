"""`accel report`: tables, plots, comparisons, trends and exports from the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.commands import _report
from accel.commands._report_analysis import COMMANDS as ANALYSIS
from accel.commands._report_db import GROUP as DB
from accel.commands._report_ranking import COMMANDS as RANKING
from accel.commands._report_share import COMMANDS as SHARING
from accel.output import Output, bar, human_bytes, sparkline

if TYPE_CHECKING:
    from accel.core.report.runs import Run
    from accel.core.report.summary import Summary


def summary(
    output: Output,
    model: _report.Model = "",
    device: _report.Hardware = "",
    since: _report.Since = None,
    kind: _report.Kind = "bench,run",
    limit: _report.Limit = 20,
    html: _report.Html = None,
    png: _report.Png = None,
) -> None:
    """Show what was measured: how often, how well it went, what failed and why.

    Example: accel report summary --since 30d --html report.html
    """
    from accel.core.report import reading
    from accel.core.report.summary import summarise

    wanted = _report.wanted(model, device, since, kind)
    found, problem = reading.read(lambda con: summarise(con, wanted))
    if html is not None or png is not None:
        from accel.core.report import page

        shown, problem = reading.read(lambda con: page.gather(con, wanted))
        _report.draw(output, shown, html, png)
    output.result(found.as_json(), lambda: _summary(output, found, limit), str(found.total))
    _report.end(problem)


def _summary(output: Output, found: Summary, limit: int) -> None:
    if not found.total:
        _report.nothing(output)
        return
    kinds = ", ".join(f"{count:,} by {kind}" for kind, count in sorted(found.by_kind.items()))
    models, machines = _report.counted(len(found.models), "model"), _report.counted(found.machines, "machine")
    output.line(f"{_report.counted(found.total, 'result')} ({kinds}) of {models} on {machines}")
    days = f"{_report.day(found.first)} to {_report.day(found.last)}"
    output.line(f"{days}, {_report.percent(found.success_rate)} went well")
    shown = found.groups[:limit]
    columns, common = _report.varying(shown, ("kind", *_report.AXES))
    output.table(
        ("what", "n", "well", "ms", "best", "latest", "day"),
        [
            [
                _report.label(group, columns),
                f"{group['results']:,}",
                _report.percent(group["success_rate"]),
                _report.number(group["latency_ms"]),
                _report.number(group["best_ms"]),
                sparkline(group["recent_ms"]),
                _report.day(group["last"]),
            ]
            for group in shown
        ],
        common,
        right=("n", "well", "ms", "best"),
        whole=("n", "well", "ms", "best", "latest", "day"),
        dense=True,
    )
    if len(found.groups) > limit:
        output.line(f"{len(found.groups) - limit:,} more; --limit shows them, --model and --device choose")
    if found.failures:
        output.table(
            ("cause", "n", "", "latest", "what"),
            [
                [f["cause"], f"{f['count']:,}", bar(f["share"]), _report.day(f["last"]), f["reason"] or ""]
                for f in found.failures
            ],
            "failures",
            right=("n",),
        )


def show(
    output: Output,
    run: Annotated[
        str, typer.Argument(help="last, last~1, the beginning of an id or a commit, or a baseline.")
    ] = "last",
    html: _report.Html = None,
    png: _report.Png = None,
) -> None:
    """Show one run: every cell with its interval, distribution, agreement and failures.

    Example: accel report show last
    """
    from accel.core.report import reading, runs

    found, problem = reading.read(lambda con: runs.find(con, run))
    if html is not None or png is not None:
        from accel.core.report import page

        shown, problem = reading.read(lambda con: page.of_run(con, found))
        _report.draw(output, shown, html, png)
    quiet = "\n".join(f"{cell.key}\t{cell.latency_ms:.6g}" for cell in found.measured)
    output.result({"schema": "accel.report-show/1", **found.as_json()}, lambda: _show(output, found), quiet)
    _report.end(problem)


def _show(output: Output, found: Run) -> None:
    from accel.core.report.plots import histogram

    where = found.environment
    facts = [where.get("cpu"), where.get("system"), f"accel {where['accel']}" if where.get("accel") else None]
    facts.append(f"commit {where['commit'][:12]}" if where.get("commit") else None)
    when = max((cell.when for cell in found.cells), default=None)
    output.line(f"run {found.name} of {_report.minute(when)}")
    if any(facts):
        output.line(" · ".join(fact for fact in facts if fact))
    rows = [_report.axes(cell) for cell in found.cells]
    columns, common = _report.varying(rows)
    roomy = output.width >= 100
    lines = []
    for cell, row in zip(found.cells, rows, strict=True):
        if cell.latency_ms is None or cell.status != "ok":
            continue
        p95 = ((cell.metadata.get("quantiles") or {}).get("p95") or {}).get("value_ms")
        lines.append(
            [
                _report.label(row, columns),
                _report.number(cell.latency_ms),
                _report.halfwidth(cell),
                _report.number(p95),
                sparkline(histogram(cell.samples.get("inference_time", []), 16 if roomy else 8)),
                *([human_bytes(cell.memory_bytes) if cell.memory_bytes else ""] if roomy else []),
                "" if cell.cosine is None else f"{cell.cosine:.6f}",
                cell.noise,
            ]
        )
    if lines:
        heads = ("cell", "ms", "±", "p95", "spread", *(["memory"] if roomy else []), "cosine", "noise")
        output.table(heads, lines, common, right=("ms", "±", "p95"), whole=heads[1:], dense=True)
    for cell in found.failures:
        output.line(f"{cell.key}: {cell.status} ({cell.cause}): {cell.metadata.get('reason')}")


def runs(output: Output, limit: _report.Limit = 20) -> None:
    """List the latest runs.

    Example: accel report runs
    """
    from accel.core.report import reading
    from accel.core.report.runs import listing

    found, problem = reading.read(lambda con: listing(con, limit))

    def human() -> None:
        if not found:
            _report.nothing(output)
            return
        rows = [
            [
                f"{entry['run'][:12]}",
                _report.minute(entry["when"]),
                f"{entry['ok']}/{entry['cells']}",
                (entry["commit"] or "")[:12],
                _report.some([name for name in entry["models"] if name], "models"),
            ]
            for entry in found
        ]
        output.table(
            ("run", "when", "went well", "commit", "models"), rows, right=("went well",), whole=("run", "when")
        )

    output.result({"schema": "accel.report-runs/1", "runs": found}, human, "\n".join(entry["run"] for entry in found))
    _report.end(problem)


GROUP: dict[str, Any] = {
    "": "Show, compare and share what was measured: accel report summary.",
    "*": "summary",
    "summary": summary,
    "runs": runs,
    "show": show,
    **ANALYSIS,
    **RANKING,
    **SHARING,
    "db": DB,
}
