"""What the subcommands of `accel report` share: reading, and how results look in a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.output import Output

if TYPE_CHECKING:
    from accel.core.errors import TransferError
    from accel.core.report.cells import Cell
    from accel.core.report.page import Page
    from accel.core.report.reading import Filter
    from accel.core.report.runs import Run

Model = Annotated[str, typer.Option("--model", metavar="NAME", help="Only this model; * stands for any letters.")]
Hardware = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="Only this device, such as cpu:0, or platform, such as cuda.")
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only what is younger: 30d, 12h, or 2026-01-31.")
]
Kind = Annotated[
    str, typer.Option("--kind", metavar="LIST", help="bench, run, or both by comma (deep: accel detect --deep).")
]
Tolerance = Annotated[
    float, typer.Option("--tolerance", min=-1.0, max=1.0, help="The least cosine with fp32 torch that will do.")
]

Limit = Annotated[int, typer.Option("--limit", min=1, help="Lines at most.")]

Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with interactive plots, all in one file.")
]
Png = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Write the plots as a picture for slides.")]

#: what tells results apart, in the order it is shown
AXES = ("model", "task", "weights", "device", "engine", "precision", "variant", "batch", "length", "threads")
#: values that go without saying
_UNSAID: dict[str, Any] = {"weights": "pretrained", "threads": 0, "variant": "", "batch": 1}


def wanted(model: str, device: str, since: str | None, kind: str) -> Filter:
    """The filter of the options.

    Raises:
        InputError: a kind or a time that there is not.
    """
    from accel.core.errors import InputError
    from accel.core.records import KINDS
    from accel.core.report import reading

    kinds = tuple(word.strip() for word in kind.split(",") if word.strip())
    unknown = [word for word in kinds if word not in KINDS]
    if unknown or not kinds:
        raise InputError(f"--kind {kind!r} is unknown", f"known: {', '.join(KINDS)}")
    return reading.Filter(model, device, kinds, reading.since(since))


def end(problem: TransferError | None) -> None:
    """Ends a command with what was wrong with the database, after what could be shown was shown."""
    if problem is not None:
        raise problem


def varying(rows: Sequence[dict[str, Any]], axes: Sequence[str] = AXES) -> tuple[list[str], str]:
    """The axes in which objects differ, and in words what they have in common."""
    columns = [name for name in axes if len({str(_value(row, name)) for row in rows}) > 1]
    shared = {name: rows[0].get(name) for name in axes if name not in columns} if rows else {}
    said = [(n, v) for n, v in shared.items() if v not in (None, "") and v != _UNSAID.get(n)]
    return columns, " · ".join(f"{n} {v}" if isinstance(v, int) else str(v) for n, v in said)


def _value(row: dict[str, Any], name: str) -> Any:
    value = row.get(name)
    return _UNSAID.get(name) if value is None else value


def label(row: dict[str, Any], columns: Sequence[str]) -> str:
    """What one object is called beside others, by the axes in which they differ."""
    words = []
    for name in columns:
        value = _value(row, name)
        if value in (None, "", 0) or (name == "engine" and str(row.get("device")).startswith(f"{value}:")):
            continue
        if name in ("batch", "length", "threads"):
            value = f"{name} {value}"
        words.append(str(value))
    return " ".join(words) or "all"


def text(value: Any) -> str:
    """A value as a cell of a table; nothing for None."""
    return "" if value is None else str(value)


def number(value: float | None, digits: int = 4) -> str:
    """`12.35`, `0.001235`, `1.2e+06`; nothing for None."""
    return "" if value is None else f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """`98 %`; one digit more near both ends, and never 100 % for less."""
    if share is None:
        return ""
    shown = f"{100 * share:.0f}"
    if (shown == "100" and share < 1) or (shown == "0" and share > 0):
        shown = f"{min(max(100 * share, 0.1), 99.9):.1f}"
    return f"{shown} %"


def counted(count: int, what: str) -> str:
    """`1 model`, `1,000 models`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def some(names: Sequence[str], kind: str, most: int = 3) -> str:
    """`a, b, c`, or `40 models` where they are many."""
    return ", ".join(names) if len(names) <= most else f"{len(names)} {kind}"


def axes(cell: Cell) -> dict[str, Any]:
    """The axes of a result."""
    return {name: getattr(cell, name) for name in AXES}


def titled(run: Run) -> str:
    """A run in one line: id, day, commit."""
    when = max((cell.when for cell in run.cells), default=None)
    commit = run.environment.get("commit")
    return f"run {run.name[:12]} of {minute(when)}{f', commit {commit[:12]}' if commit else ''}"


def halfwidth(cell: Cell) -> str:
    """`1.2 %`: how far the interval of the median reaches to each side."""
    low, high = cell.interval_ms
    if low is None or high is None or not cell.latency_ms:
        return "?" if cell.kind == "bench" else ""
    return f"{50 * (high - low) / cell.latency_ms:.1f} %"


def day(seconds: float | None) -> str:
    """`2026-01-31`, in local time."""
    return "" if seconds is None else time.strftime("%Y-%m-%d", time.localtime(seconds))


def minute(seconds: float | None) -> str:
    """`2026-01-31 14:05`, in local time."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def nothing(output: Output) -> None:
    """Says that there are no results of this kind."""
    output.note("there are no such results; accel bench MODEL measures, and accel report db status says what is kept")


def draw(output: Output, page: Page, html: Path | None, png: Path | None) -> None:
    """Writes the plots of a page to the files that were asked for.

    Raises:
        UnavailableError: matplotlib is not installed. TransferError: a file cannot be written.
    """
    from accel.core.report.exporting import replacing

    if html is not None:
        from accel.core.report.page import render

        with replacing(html) as part:
            part.write_text(render(page), encoding="utf-8")
        output.note(f"written to {html}")
    if png is not None:
        from accel.core.report.picture import save

        with replacing(png) as part:
            save(page, part)
        output.note(f"written to {png}")
