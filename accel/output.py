"""Everything that is printed goes through here: human, JSON or quiet, chosen once. The only user of Rich.

stdout is the result; notes, progress and errors are stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from accel.core.errors import AccelError

Mode = Literal["human", "json", "quiet"]
#: seconds between two lines about what is going on, where there is no terminal
STEP_S = 3.0


def human_bytes(count: float | None) -> str:
    """`1.5 GiB`; `unknown` for None."""
    if count is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """A count that moves: a bar with rate and remaining time on a terminal, a plain line now and then in a log.

    Shows nothing in the first two seconds, so that quick work stays silent.
    """

    def __init__(self, label: str, total: float | None, unit: str, *, terminal: bool, silent: bool) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0.0
        self._terminal, self._silent = terminal, silent
        self._started = time.monotonic()
        self._last = self._started
        self._drawn = False

    def _amount(self, value: float) -> str:
        return human_bytes(value) if self.unit == "B" else f"{value:.0f}"

    def advance(self, amount: float = 1.0, label: str | None = None) -> None:
        """Moves on by an amount and redraws when due."""
        self.done += amount
        if label:
            self.label = label
        now = time.monotonic()
        due = 0.1 if self._terminal else 10.0
        if self._silent or now - self._started < 2.0 or now - self._last < due:
            return
        self._last = now
        self._draw(now)

    def tick(self, label: str | None = None) -> None:
        """Redraws without moving on, for work whose steps are long."""
        self.advance(0.0, label)

    def _draw(self, now: float) -> None:
        elapsed = now - self._started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        parts = [self.label]
        if self.total:
            share = min(self.done / self.total, 1.0)
            if self._terminal:
                parts.append(f"[{'#' * int(20 * share):<20}]")
            parts.append(f"{100 * share:.0f} %")
            parts.append(f"{self._amount(self.done)}/{self._amount(self.total)}")
        elif self.done:
            parts.append(self._amount(self.done))
        if self.done:
            per = self._amount(rate) if rate >= 1 or self.unit == "B" else f"{rate:.2f}"
            parts.append(f"{per}/s" if self.unit == "B" else f"{per} {self.unit}/s")
        if self.total and rate > 0:
            parts.append(f"{human_seconds((self.total - self.done) / rate)} left")
        elif not self.done:
            parts.append(human_seconds(elapsed))
        line = "  ".join(parts)
        if self._terminal:
            width = terminal_width(sys.stderr)
            sys.stderr.write("\r\x1b[K" + line[: width - 1])
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
        self._drawn = True

    def finish(self) -> None:
        """Clears the bar from a terminal."""
        if self._drawn and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def terminal_width(stream: Any) -> int:
    """Columns of the terminal, 80 where there is none."""
    try:
        return max(20, os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError, AttributeError):
        return 80


@dataclass
class Output:
    """Where a command's result goes. One per process, made by the command line."""

    mode: Mode = "human"
    debug: bool = False
    _stepped: float = field(default_factory=time.monotonic)

    @property
    def colour(self) -> bool:
        """Whether stdout may carry colour."""
        return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def line(self, text: str = "") -> None:
        """One line of result."""
        sys.stdout.write(text + "\n")

    def write(self, text: str) -> None:
        """A piece of result without a line end, shown at once (streamed text)."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def json(self, data: Any, *, compact: bool = False) -> None:
        """One JSON document; `compact` for streams of one object per line."""
        text = json.dumps(data, ensure_ascii=False, indent=None if compact else 2, default=_plain, allow_nan=False)
        sys.stdout.write(text + "\n")

    def result(self, data: dict[str, Any], human: Callable[[], None], quiet: str) -> None:
        """Prints a whole result in the chosen mode: `data` as JSON, `human()` for people, `quiet` as the bare value."""
        if self.mode == "json":
            self.json(data)
        elif self.mode == "quiet":
            if quiet:
                self.line(quiet)
        else:
            human()

    def note(self, text: str) -> None:
        """One line beside the result, on stderr; not shown with --quiet."""
        if self.mode != "quiet":
            print(text, file=sys.stderr, flush=True)

    @property
    def terminal(self) -> bool:
        """Whether stdout is a terminal, so that text may appear piece by piece."""
        return sys.stdout.isatty()

    def step(self, text: str) -> None:
        """What is going on right now: one line that replaces itself on a terminal, a line every few seconds in a log.

        An empty text clears it.
        """
        if self.mode == "quiet":
            return
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K" + text[: terminal_width(sys.stderr) - 1])
            sys.stderr.flush()
        elif text and time.monotonic() - self._stepped >= STEP_S:
            print(text, file=sys.stderr, flush=True)
            self._stepped = time.monotonic()

    def warning(self, text: str) -> None:
        """A line the user has to see even with --quiet."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def error(self, error: AccelError) -> None:
        """An error as text, or as one JSON object with --json."""
        if self.mode == "json":
            print(json.dumps(error.as_json(), ensure_ascii=False, default=_plain), file=sys.stderr, flush=True)
            return
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  try: {error.hint}", file=sys.stderr)
        sys.stderr.flush()

    @contextlib.contextmanager
    def progress(self, label: str, total: float | None = None, unit: str = "items") -> Iterator[Progress]:
        """Progress on stderr for work that may take longer than two seconds. `unit` "B" shows bytes."""
        bar = Progress(label, total, unit, terminal=sys.stderr.isatty(), silent=self.mode == "quiet")
        try:
            yield bar
        finally:
            bar.finish()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """A table that fits the terminal (80 columns when piped)."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(
            file=sys.stdout,
            width=terminal_width(sys.stdout),
            no_color=not self.colour,
            force_terminal=self.colour,
            highlight=False,
        )
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)
