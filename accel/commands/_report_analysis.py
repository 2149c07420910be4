"""The subcommands of `accel report` that judge: compare, trend, leaderboard, correlate, recommend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.commands import _report
from accel.output import Output, bar, human_bytes, sparkline

if TYPE_CHECKING:
    from accel.core.report.comparing import Compared
    from accel.core.report.ranking import Advice, Board
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

    A change is a level that does not come from chance: maximally selected rank statistics, see man accel-report.

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


def leaderboard(
    output: Output,
    model: _report.Model = "",
    device: _report.Hardware = "",
    since: _report.Since = None,
    kind: _report.Kind = "bench",
    tolerance: _report.Tolerance = 0.99999,
    limit: _report.Limit = 10,
) -> None:
    """Show the fastest plans on every device, among those that are accurate enough.

    The last result of each cell counts. With performance.price_per_hour set, the cost of a million inferences is shown.

    Example: accel report leaderboard --model all-minilm --tolerance 0.99
    """
    from accel.core.report import cost, ranking, reading

    wanted, prices = _report.wanted(model, device, since, kind), cost.prices()
    cells, problem = reading.read(lambda con: ranking.candidates(con, wanted))
    found = ranking.boards(cells, tolerance, prices)
    data = {
        "schema": "accel.report-leaderboard/1",
        "tolerance": tolerance,
        "prices_per_hour": prices,
        "devices": [board.as_json() for board in found],
    }
    quiet = "\n".join(f"{board.device}\t{board.ranked[0].cell.key}" for board in found if board.ranked)
    output.result(data, lambda: _boards(output, found, limit, priced=bool(prices)), quiet)
    _report.end(problem)


def _boards(output: Output, found: list[Board], limit: int, *, priced: bool) -> None:
    if not found:
        _report.nothing(output)
    for board in found:
        rows = [_report.axes(entry.cell) for entry in board.ranked[:limit]]
        columns, common = _report.varying(rows, [name for name in _report.AXES if name != "device"])
        title = " · ".join(filter(None, (board.device, board.cpu, common)))
        heads = ("plan", "ms", "per s", "", "cosine", "memory", *(["cost"] if priced else []))
        lines = [
            [
                _report.label(row, columns),
                _report.number(entry.cell.latency_ms),
                _report.number(entry.cell.throughput),
                bar(1.0 / entry.slower, 8),
                "" if entry.cell.cosine is None else f"{entry.cell.cosine:.6f}",
                human_bytes(entry.cell.memory_bytes) if entry.cell.memory_bytes else "",
                *([_report.number(entry.cost_per_million)] if priced else []),
            ]
            for entry, row in zip(board.ranked[:limit], rows, strict=True)
        ]
        if lines:
            output.table(heads, lines, title, right=("ms", "per s", "cost"), whole=heads[1:], dense=True)
        if board.left_out:
            first, why = board.left_out[0]
            count = _report.counted(len(board.left_out), "cell")
            output.line(f"{board.device}: {count} left out, such as {first.plan}, batch {first.batch}: {why}")
    if priced and found:
        output.line("cost: of a million inferences, at the prices of performance.price_per_hour")


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


def recommend(
    output: Output,
    model: _report.Model = "",
    device: _report.Hardware = "",
    since: _report.Since = None,
    kind: _report.Kind = "bench",
    goal: Annotated[str, typer.Option("--goal", help="What counts: latency, throughput, memory, or cost.")] = "latency",
    tolerance: _report.Tolerance = 0.99999,
) -> None:
    """Show the plan to deploy for every model, and why.

    Example: accel report recommend --model all-minilm --goal throughput
    """
    from accel.core.errors import InputError
    from accel.core.report import cost, ranking, reading

    if goal not in ranking.GOALS:
        raise InputError(f"--goal {goal!r} is unknown", f"known: {', '.join(ranking.GOALS)}")
    prices = cost.prices()
    if goal == "cost" and not prices:
        raise InputError("there are no prices", "accel config set performance.price_per_hour cpu=0.08,cuda=2.50")
    wanted = _report.wanted(model, device, since, kind)
    cells, problem = reading.read(lambda con: ranking.candidates(con, wanted, samples=True))
    found = ranking.recommend(cells, goal, tolerance, prices)
    data = {
        "schema": "accel.report-recommend/1",
        "goal": goal,
        "tolerance": tolerance,
        "models": [advice.as_json() for advice in found],
    }
    quiet = "\n".join(f"{advice.workload.model}\t{_command(advice)}" for advice in found if advice.cell is not None)
    output.result(data, lambda: _recommend(output, found), quiet)
    _report.end(problem)


def _recommend(output: Output, found: list[Advice]) -> None:
    if not found:
        _report.nothing(output)
    several = len({advice.workload.fingerprint for advice in found}) > 1
    for advice in found:
        work = advice.workload
        shape = f" of length {work.length}" if work.length is not None else ""
        machine = f" on machine {work.fingerprint[:6]}" if several else ""
        random = " with random weights" if work.weights == "random" else ""
        cell = advice.cell
        if cell is None:
            output.line(f"{work.model}{random} ({work.task}{shape}){machine}: no plan: {advice.reasons[0]}")
            continue
        output.line(f"{work.model}{random} ({work.task}{shape}){machine}: {cell.plan} on {cell.device}")
        figures = [f"{_report.number(cell.latency_ms)} ms", f"batch {cell.batch}"]
        figures += [f"{_report.number(cell.throughput)} per second"] if cell.throughput else []
        figures += [human_bytes(cell.memory_bytes)] if cell.memory_bytes else []
        figures += [f"{_report.number(advice.cost_per_million)} per million"] if advice.cost_per_million else []
        output.line(f"  {', '.join(figures)}, measured {_report.day(cell.when)}")
        for reason in advice.reasons:
            output.line(f"  {reason}")
        output.line(f"  {_command(advice)}")


def _command(advice: Advice) -> str:
    cell = advice.cell
    if cell is None:
        return ""
    words = [f"accel run {cell.model} --hw {cell.device} --engine {cell.engine} --precision {cell.precision}"]
    words += [f"--threads {cell.threads}"] if cell.threads else []
    words += ["--weights random"] if cell.weights == "random" else []
    return " ".join(words)


COMMANDS: dict[str, Any] = {
    "compare": compare,
    "trend": trend,
    "leaderboard": leaderboard,
    "correlate": correlate,
    "recommend": recommend,
}
