"""The subcommands of `accel report` that choose: leaderboard, recommend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.commands import _report
from accel.output import Output, bar, human_bytes

if TYPE_CHECKING:
    from accel.core.report.ranking import Advice, Board


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


COMMANDS: dict[str, Any] = {"leaderboard": leaderboard, "recommend": recommend}
