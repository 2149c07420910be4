"""How `accel bench` reads its options, shows progress and prints its report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.errors import AccelError, GateError, InputError, PartialError, TransferError
from accel.output import Output, human_bytes, human_seconds

if TYPE_CHECKING:
    from accel.core.bench.cells import Skipped
    from accel.core.bench.matrix import Axes
    from accel.core.bench.measured import Outcome
    from accel.core.bench.session import Report
    from accel.core.bench.sweep import Sweep
    from accel.core.types import Item


def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """`1,8,32` as numbers; None for None.

    Raises:
        InputError: something else.
    """
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise InputError(f"{option} {text!r} is not a list of whole numbers", f"{option} 1,8") from None


def share(value: str | float, option: str) -> float:
    """`3%` or `0.03` as 0.03.

    Raises:
        InputError: not a share between 0 and 1.
    """
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        number = 0.0
    if not 0.0 < number < 1.0:
        raise InputError(f"{option} {value!r} is not a share", f"{option} 3%")
    return number


def weights(text: str | None) -> str | None:
    """`random` or `pretrained`.

    Raises:
        InputError: something else.
    """
    if text not in (None, "random", "pretrained"):
        raise InputError(f"--weights {text!r} is unknown", "use random, or leave it out")
    return text


def cpus(text: str | None) -> tuple[int, ...] | None:
    """Processors of a list such as `0-3,8`.

    Raises:
        InputError: not such a list, or processors that this process may not use.
    """
    if text is None:
        return None
    from accel.core.cpu import allowed_cpus, parse_list

    chosen, usable = parse_list(text), allowed_cpus()
    if not chosen or not chosen <= usable:
        raise InputError(
            f"--affinity {text!r} names processors that this process may not use",
            f"it may use {', '.join(map(str, sorted(usable)))}",
        )
    return tuple(sorted(chosen))


def memory(value: str | int | None, parse: Callable[[str | int], int]) -> int | None:
    """Bytes of --memory-limit, or of the configuration where it is silent."""
    from accel.core import config

    limit: int | None = parse(value) if value is not None else config.get("hardware.memory_limit")
    return limit


def items(path: Path | None) -> tuple[Item, ...]:
    """The first inputs of a file.

    Raises:
        InputError: there is none, or one cannot be used.
    """
    if path is None:
        return ()
    from accel.core import inputs

    found: list[Item] = []
    for window in inputs.from_file(path):
        for _, entry in window:
            if isinstance(entry, AccelError):
                raise entry
            found.append(entry)
        break
    if not found:
        raise InputError(f"there is no input in {path}", "give at least one line")
    return tuple(found)


def with_defaults(axes: Axes, file: Sweep, given: dict[str, Any]) -> Axes:
    """The axes with the configured precision where neither command line nor file names one."""
    from dataclasses import replace

    from accel.core import config

    if given.get("precisions") is not None or "precisions" in file.axes:
        return axes
    configured = config.get("hardware.precision")
    return axes if configured == "auto" else replace(axes, precisions=(configured,))


class Printer:
    """The listener of a sweep: a line that moves on a terminal, plain lines in a log."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._done = self._total = 0
        self._left: float | None = None

    def show(self, line: str) -> None:
        """What goes on right now."""
        ahead = ""
        if self._total:
            left = "" if self._left is None else f", {human_seconds(self._left)} left"
            ahead = f"[{self._done}/{self._total}{left}] "
        self._output.step(ahead + line)

    def warn(self, line: str) -> None:
        """Something the user has to know."""
        self._output.step("")
        self._output.warning(line)

    def begin(self, cells: int, finished: int, skipped: Sequence[Skipped]) -> None:
        """The matrix is known."""
        self._total, self._done = cells, finished
        self._output.step("")
        earlier = f", {finished} of them finished earlier" if finished else ""
        self._output.note(f"{cells} cell{'' if cells == 1 else 's'} to measure{earlier}")
        for line in reasons(skipped):
            self._output.note(line)

    def finished(self, outcome: Outcome, done: int, total: int, left_s: float | None) -> None:
        """A cell is finished."""
        from accel.core.bench.measured import steady_part

        self._done, self._total, self._left = done, total, left_s
        self._output.step("")
        text = f"failed ({outcome.cause}): {outcome.reason}"
        part = steady_part(outcome.visits) if outcome.status == "ok" else None
        if part is not None:
            median = part.median
            width = "" if median.halfwidth is None else f" ± {100 * median.halfwidth:.1f} %"
            text = f"{1e3 * median.value:.4g} ms{width}, {len(part.series)} runs"
        left = "" if left_s is None or done == total else f", {human_seconds(left_s)} left"
        self._output.note(f"[{done}/{total}{left}] {outcome.cell.key}: {text}")


def reasons(skipped: Sequence[Skipped]) -> list[str]:
    """Cells that were left out, by reason."""
    grouped: dict[tuple[str, str], list[Skipped]] = {}
    for entry in skipped:
        grouped.setdefault((entry.reason, entry.hint), []).append(entry)
    lines = []
    for (reason, hint), entries in grouped.items():
        what = entries[0].cell.key if len(entries) == 1 else f"{len(entries)} cells"
        lines.append(f"left out: {what}: {reason}{f' ({hint})' if hint else ''}")
    return lines


def show(output: Output, report: Report) -> None:
    """Prints the report."""
    output.step("")
    measured = [cell for cell in report.cells if cell["status"] == "ok"]
    quiet = "\n".join(f"{cell['key']}\t{cell['latency_ms']:.6g}" for cell in measured)
    output.result(report.as_json(), lambda: _human(output, report, measured), quiet)


def _human(output: Output, report: Report, measured: Sequence[dict[str, Any]]) -> None:
    label = _Labels([*measured, *report.failures])
    if measured:
        rate = ("per s",) if "batch" in label.columns else ()
        output.table(
            (*label.columns, "ms", "±", "p95", *rate, "memory", "cosine", "noise"),
            [[*label.values(cell), *_row(cell, rate=bool(rate))] for cell in measured],
            label.common,
        )
    for cell in measured:
        causes = cell["noise"]["causes"]
        if causes:
            output.line(f"{label.of(cell)}{cell['noise']['verdict']}: {'; '.join(causes)}")
        output.line(f"{label.of(cell)}{_extra(cell)}")
    for note in dict.fromkeys(cell["energy_note"] for cell in measured if cell["energy_note"]):
        output.line(f"energy not measured{'' if note == 'not measured' else f': {note}'}")
    for cell in report.failures:
        output.line(f"{label.of(cell)}failed ({cell['cause']}): {cell['reason']}")
    _comparisons(output, report, label)
    for key, why in report.broken:
        output.line(f"{label.of_key(key)}{why}")
    if report.saved_as:
        output.line(f"kept as the baseline {report.saved_as}")


#: what tells cells apart, in the order it is shown
AXES = (
    *(
        "benchmark",
        "model",
        "task",
        "weights",
        "device",
        "engine",
        "precision",
        "variant",
        "batch",
        "length",
        "threads",
    ),
)
_UNSAID: dict[str, Any] = {"weights": "pretrained", "threads": 0, "length": None, "batch": 1}


class _Labels:
    """Names of cells by what differs between them; what they share is said once."""

    def __init__(self, cells: Sequence[dict[str, Any]]) -> None:
        self.columns = [name for name in AXES if len({str(cell[name]) for cell in cells}) > 1]
        self._by_key = {cell["key"]: cell for cell in cells}
        shared = {name: cells[0][name] for name in AXES if name not in self.columns} if cells else {}
        said = [(n, v) for n, v in shared.items() if v not in (None, "") and v != _UNSAID.get(n, "")]
        self.common = " · ".join(f"{n} {v}" if isinstance(v, int) else str(v) for n, v in said)

    def values(self, cell: dict[str, Any]) -> list[str]:
        """The cells of the table's first columns."""
        return [self._value(name, cell[name]) for name in self.columns]

    @staticmethod
    def _value(name: str, value: Any) -> str:
        if value in (None, ""):
            return "own" if name == "length" else ""
        return "own" if name == "threads" and value == 0 else str(value)

    def of(self, cell: dict[str, Any]) -> str:
        """What a line about one cell begins with; empty where there is only one."""
        words = [
            f"{name} {self._value(name, cell[name])}" if name in ("batch", "length", "threads") else str(cell[name])
            for name in self.columns
            if cell[name] not in (None, "")
        ]
        return f"{', '.join(words)}: " if words else ""

    def of_key(self, key: str) -> str:
        """The same for a cell's key."""
        return self.of(self._by_key[key]) if key in self._by_key else f"{key}: "


def _row(cell: dict[str, Any], *, rate: bool) -> list[str]:
    low, high = cell["latency_interval_ms"]
    known = low is not None and high is not None and cell["latency_ms"] > 0
    cosine = (cell["agreement"] or {}).get("cosine")
    return [
        f"{cell['latency_ms']:.4g}",
        f"{50 * (high - low) / cell['latency_ms']:.1f} %" if known else "?",
        f"{cell['quantiles']['p95']['value_ms']:.4g}",
        *([_number(cell["throughput_per_s"])] if rate else []),
        human_bytes(cell["memory_bytes"]),
        "" if cosine is None else f"{cosine:.6f}",
        cell["noise"]["verdict"],
    ]


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _extra(cell: dict[str, Any]) -> str:
    """How long each phase took, and what belongs to some cells only."""
    names = (("prepare_ms", "prepare"), ("load_ms", "load"), ("compile_ms", "compile"), ("first_ms", "first run"))
    phases = [(word, cell["phases"][name]) for name, word in names]
    parts = [f"{word} {ms:.3g} ms" if ms < 1e3 else f"{word} {ms / 1e3:.3g} s" for word, ms in phases if ms is not None]
    if cell["first_token_ms"] is not None:
        parts.append(f"first token {cell['first_token_ms']:.4g} ms")
    if cell["tokens_per_s"] is not None:
        parts.append(f"{cell['tokens_per_s']:.4g} tokens per second")
    if cell["energy_j"] is not None:
        parts.append(f"{cell['energy_j']:.4g} J per run")
    if cell["device_memory_bytes"] is not None:
        parts.append(f"{human_bytes(cell['device_memory_bytes'])} on the device")
    for name, value in (cell["values"] or {}).items():
        parts.append(f"{name} {_number(value)}")
    parts += cell["notes"]
    return ", ".join(parts)


def _comparisons(output: Output, report: Report, label: _Labels) -> None:
    from accel.core.bench.formats import interval, percent

    if report.comparisons is None or report.baseline is None:
        return
    rows = []
    for found in report.comparisons:
        known = found.ratio is not None and found.ratio.value == found.ratio.value
        change = percent(found.ratio.value) if known and found.ratio is not None else ""
        name = label.of_key(found.key).removesuffix(": ")
        rows.append([name or "it", found.word, change, interval(found) if known else "", found.note])
    output.table(("cell", "verdict", "change", "interval", ""), rows, f"against {report.baseline['name']}")
    for entry in report.baseline["differences"]:
        output.line(f"{entry['what']}: {entry['then']} then, {entry['now']} now")


def write(output: Output, report: Report, junit: Path | None, markdown: Path | None, github: bool) -> None:
    """Writes the report for other programs.

    Raises:
        TransferError: a file cannot be written.
    """
    from accel.core.bench import formats

    for path, text in ((junit, formats.junit(report) if junit else ""), (markdown, formats.markdown(report))):
        if path is not None:
            _write(path, text)
    if github:
        for line in formats.github(report):
            print(line, file=sys.stderr, flush=True)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            try:
                with Path(summary).open("a", encoding="utf-8") as file:
                    file.write(formats.markdown(report))
            except OSError as error:
                raise TransferError(f"cannot write {summary}: {error.strerror}", "see GITHUB_STEP_SUMMARY") from error


def _write(path: Path, text: str) -> None:
    from accel.core.paths import write_atomic

    write_atomic(path.expanduser(), text.encode("utf-8"))


def fail(report: Report) -> None:
    """Raises what the exit status is to tell.

    Raises:
        GateError: a cell is slower than its baseline or breaks a budget. PartialError: cells failed.
    """
    from accel.core.bench.formats import problems

    wrong = problems(report)
    if wrong:
        first = next(iter(wrong))
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise GateError(
            f"{first}: {wrong[first][0]}{more}",
            "see the table; the numbers are kept in the results",
            {"cells": {key: list(texts) for key, texts in wrong.items()}},
        )
    if report.failures:
        failed = report.failures
        raise PartialError(
            f"{len(failed)} of {len(failed) + sum(c['status'] == 'ok' for c in report.cells)} cells failed: "
            f"{failed[0]['key']}: {failed[0]['reason']}",
            failed[0]["hint"] or "see the reasons above; the others are done",
        )
