"""The subcommands of `accel report` that judge: compare, trend, correlate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.commands import _report
from accel.output import Output, bar, sparkline

if TYPE_CHECKING:
    from accel.core.report.comparing import Compared
    from accel.core.report.trend import Series, Trend

#: characters of a sparkline on a wide terminal and elsewhere
_WIDE, _NARROW = 60, 32


def compare(
    output: Output,
    a: Annotated[str, typer.Argument(help="The old run: last~1, the beginning of an id or commit, or a baseline.")],
    b: Annotated[str, typer.Argument(help="The new run.")] = "last",
    threshold: Annotated[
        str, typer.Option("--threshold", metavar="SHARE", help="How much slower counts as slower.")
    ] = "3%",
) -> None:
    """Compare two runs cell by cell, with the statistics of the gates of accel bench.

    Example: accel report compare last~1 last
    """
    from accel.commands._bench import share
    from accel.core.report import comparing, reading, runs

    limit = 1.0 + share(threshold, "--threshold")
    pair, problem = reading.read(lambda con: (runs.find(con, a), runs.find(con, b)))
    found = comparing.compare(*pair, limit)
    quiet = "\n".join(f"{comparison.key}\t{comparison.word}" for comparison, _ in found.cells)
    output.result(found.as_json(), lambda: _compare(output, found), quiet)
    _report.end(problem)


def _compare(output: Output, found: Compared) -> None:
    from accel.core.bench.formats import interval, percent

    rows = [_report.axes(cell) for _, cell in found.cells]
    columns, common = _report.varying(rows)
    lines = []
    for (comparison, _), row in zip(found.cells, rows, strict=True):
        known = comparison.ratio is not None and comparison.ratio.value == comparison.ratio.value
        change = percent(comparison.ratio.value) if known and comparison.ratio is not None else ""
        times = [_report.number(value) for value in (comparison.old_ms, comparison.new_ms)]
        where = interval(comparison) if known else comparison.note
        lines.append([_report.label(row, columns), comparison.word, *times, change, where])
    output.line(f"A {_report.titled(found.a)}")
    output.line(f"B {_report.titled(found.b)}")
    if not found.same_machine:
        output.line("they are of different machines: a difference says nothing about the software alone")
    heads = ("cell", "verdict", "A ms", "B ms", "change", "interval")
    output.table(heads, lines, common, right=("A ms", "B ms", "change"), whole=heads[1:5], dense=True)
    for entry in found.differences:
        output.line(f"{entry['what']}: {entry['before']} in A, {entry['after']} in B")


def trend(
    output: Output,
    model: Annotated[str, typer.Argument(help="The model; * stands for any letters.")],
    device: _report.Hardware = "",
    since: _report.Since = None,
    kind: _report.Kind = "bench",
    threshold: Annotated[
        str, typer.Option("--threshold", metavar="SHARE", help="Changes by less than this are not shown.")
    ] = "1%",
    limit: _report.Limit = 10,
) -> None:
    """Show how the speed of a model developed, where it changed, and what changed there.

    Changes are found by maximally selected rank statistics (Lausen and Schumacher 1992), so that one odd night is none.

    Example: accel report trend all-minilm --since 90d
    """
    from accel.commands._bench import share
    from accel.core.report import reading
    from accel.core.report.trend import follow, gather

    wanted = _report.wanted(model, device, since, kind)
    cells, problem = reading.read(lambda con: gather(con, wanted))
    found = follow(cells, 1.0 + share(threshold, "--threshold"))
    quiet = "\n".join(
        f"{series.last.key}\t{series.around(change)[1].sweep}\t{change.ratio:.6g}"
        for series in found.series
        for change in series.changes
    )
    output.result(found.as_json(), lambda: _trend(output, found, limit), quiet)
    _report.end(problem)


def _trend(output: Output, found: Trend, limit: int) -> None:
    if not found.series:
        _report.nothing(output)
        return
    shown = found.series[:limit]
    rows = [{**_report.axes(series.last), "machine": series.last.fingerprint[:6]} for series in shown]
    columns, common = _report.varying(rows, (*_report.AXES, "machine"))
    if common:
        output.line(common)
    for series, row in zip(shown, rows, strict=True):
        _series(output, series, _report.label(row, columns))
    if len(found.series) > limit:
        output.line(f"{len(found.series) - limit} more; --limit shows them")


def _series(output: Output, series: Series, label: str) -> None:
    from accel.core.bench.formats import percent
    from accel.core.report.changes import FEWEST
    from accel.core.report.environments import differences
    from accel.core.report.plots import condensed

    width = _WIDE if output.width >= 100 else _NARROW
    times = [cell.latency_ms or 0.0 for cell in series.cells]
    days = f"{_report.day(series.cells[0].when)} to {_report.day(series.last.when)}"
    output.line()
    output.line(f"{label}: {_report.counted(len(times), 'result')}, {days}")
    low, high = _report.number(min(times)), _report.number(max(times))
    output.line(f"  {sparkline(condensed(times, width))}  {low} to {high} ms, now {_report.number(times[-1])} ms")
    for change in series.changes:
        before, after = series.around(change)
        levels = f"{_report.number(change.before)} to {_report.number(change.after)} ms"
        word = "slower" if change.ratio > 1 else "faster"
        level = f"{percent(change.ratio)} {word}, {levels}, p {change.p:.2g}"
        output.line(f"  {_report.minute(before.when)} to {_report.minute(after.when)}: {level}")
        changed = differences(before, after)
        for entry in changed:
            output.line(f"    {entry['what']}: {entry['before']} -> {entry['after']}")
        if not changed:
            output.line("    nothing that accel knows of changed there")
    if not series.changes:
        few = f"too few results to tell a change from chance: it takes {FEWEST}"
        output.line(f"  {few if len(times) < FEWEST else 'no change of level'}")


def correlate(
    output: Output,
    model: _report.Model = "",
    device: _report.Hardware = "",
    since: _report.Since = None,
    kind: _report.Kind = "bench",
    limit: _report.Limit = 20,
) -> None:
    """Show which quantities go together: batch with memory, threads with latency, and so on.

    Rank correlations (Spearman) over the last result of every cell; p-values are corrected for the number of pairs.

    Example: accel report correlate --model all-minilm
    """
    from accel.core.report import correlate as correlating
    from accel.core.report import ranking, reading

    wanted = _report.wanted(model, device, since, kind)
    cells, problem = reading.read(lambda con: ranking.candidates(con, wanted))
    found = correlating.correlate(cells)

    def human() -> None:
        if not found:
            least = correlating.LEAST
            output.note(f"too few results that differ: correlations need {least} of them or more")
            return
        rows = [[c.a, c.b, f"{c.rho:+.2f}", bar(abs(c.rho), 10), f"{c.p:.2g}", str(c.count)] for c in found[:limit]]
        output.table(("quantity", "goes with", "rho", "", "p", "n"), rows, right=("rho", "p", "n"))

    data = {
        "schema": "accel.report-correlate/1",
        "method": correlating.METHOD,
        "correlations": [c.as_json() for c in found],
    }
    output.result(data, human, "\n".join(f"{c.a}\t{c.b}\t{c.rho:.4f}" for c in found))
    _report.end(problem)


COMMANDS: dict[str, Any] = {"compare": compare, "trend": trend, "correlate": correlate}
