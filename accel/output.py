"""Everything that is printed goes through here: human, JSON or quiet, chosen once. The only user of Rich.

stdout is the result; notes, progress and errors are stderr.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from accel.core.errors import AccelError

Mode = Literal["human", "json", "quiet"]


class ClosedPipe(BaseException):
    """Nobody reads standard output any more, which is silent and ends the command. Not a failure to work around."""


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


def counted(count: int, noun: str) -> str:
    """`1 file`, `3 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def human_seconds(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def sparkline(values: Sequence[float | None], stream: Any = None) -> str:
    """A series as one character per value, from its least to its largest; a gap for None.

    Where the stream (stdout) cannot carry block characters, digits from 0 to 9 take their place.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    marks = "▁▂▃▄▅▆▇█" if carries("█", stream) else "0123456789"
    low, width = min(known), max(known) - min(known)

    def mark(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return " "
        share = (value - low) / width if width > 0 else 0.5
        return marks[min(len(marks) - 1, int(share * len(marks)))]

    return "".join(mark(value) for value in values)


def bar(share: float, width: int = 10, stream: Any = None) -> str:
    """A horizontal bar for a share between 0 and 1, not padded; never empty for a share above 0."""
    share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    if not carries("█", stream):
        return "#" * max(round(share * width), int(share > 0))
    eighths = max(round(share * width * 8), int(share > 0))
    return "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")


def carries(text: str, stream: Any = None) -> bool:
    """Whether the encoding of the stream (stdout) has these characters."""
    try:
        text.encode(getattr(stream or sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


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
    """Columns of the terminal (or what COLUMNS says), 80 where there is none."""
    chosen = os.environ.get("COLUMNS", "")
    if chosen.isdecimal() and int(chosen) > 0:
        return max(20, int(chosen))
    try:
        return max(20, os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError, AttributeError):
        return 80


def _moves(stream: Any) -> bool:
    """Whether the stream is a terminal whose lines can be overwritten."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null instead."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return _finite(_plain(value)) if hasattr(value, "tolist") else value


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
        with _written():
            sys.stdout.write(text + "\n")

    def paragraph(self, text: str) -> None:
        """A sentence of result in lines that fit the terminal, further ones set in."""
        import textwrap

        for line in textwrap.wrap(text, self.width, subsequent_indent="  ", break_on_hyphens=False):
            self.line(line)

    def write(self, text: str) -> None:
        """A piece of result without a line end, shown at once (streamed text)."""
        with _written():
            sys.stdout.write(text)
            sys.stdout.flush()

    def file(self, path: Path) -> None:
        """The content of a file as the result, byte by byte."""
        with _written(), path.open("rb") as source:
            sys.stdout.flush()
            while data := source.read(1 << 20):
                sys.stdout.buffer.write(data)

    def flush(self) -> None:
        """Hands everything on to whoever reads.

        Raises:
            ClosedPipe: nobody does. TransferError: it cannot be written, as on a full disk.
        """
        with _written():
            sys.stdout.flush()

    def json(self, data: Any, *, compact: bool = False) -> None:
        """One JSON document; `compact` for streams of one object per line."""
        self.line(_dumps(data, sys.stdout, indent=None if compact else 2))

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
        """One line beside the result, on stderr; not shown with --quiet, nor into a log that expects JSON."""
        if self._chats:
            print(text, file=sys.stderr, flush=True)

    @property
    def _chats(self) -> bool:
        return self.mode == "human" or (self.mode == "json" and sys.stderr.isatty())

    @property
    def width(self) -> int:
        """Columns that a line of the result may take."""
        return terminal_width(sys.stdout)

    @property
    def terminal(self) -> bool:
        """Whether stdout is a terminal, so that text may appear piece by piece."""
        return sys.stdout.isatty()

    def step(self, text: str) -> None:
        """What is going on right now: one line that replaces itself on a terminal, a line every few seconds in a log.

        An empty text clears it.
        """
        if not self._chats:
            return
        if _moves(sys.stderr):
            sys.stderr.write("\r\x1b[K" + text[: terminal_width(sys.stderr) - 1])
            sys.stderr.flush()
        elif text and time.monotonic() - self._stepped >= STEP_S:
            print(text, file=sys.stderr, flush=True)
            self._stepped = time.monotonic()

    def warning(self, text: str) -> None:
        """A line the user has to see even with --quiet; one JSON object with --json."""
        if self.mode == "json":
            text = _dumps({"schema": "accel.warning/1", "message": text}, sys.stderr)
        else:
            text = f"warning: {text}"
        print(text, file=sys.stderr, flush=True)

    def log(self, level: str, text: str) -> None:
        """A message of `accel.core.logs`."""
        if level in ("warning", "error"):
            self.warning(text)
        else:
            self.note(f"{level}: {text}")

    def error(self, error: AccelError) -> None:
        """An error as text, or as one JSON object with --json."""
        if self.mode == "json":
            print(_dumps(error.as_json(), sys.stderr), file=sys.stderr, flush=True)
            return
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            lead = "" if error.hint.startswith(("did you mean", "known:", "allowed:")) else "try: "
            print(f"  {lead}{error.hint}", file=sys.stderr)
        sys.stderr.flush()

    @contextlib.contextmanager
    def progress(self, label: str, total: float | None = None, unit: str = "items") -> Iterator[Progress]:
        """Progress on stderr for work that may take longer than two seconds. `unit` "B" shows bytes."""
        bar = Progress(label, total, unit, terminal=_moves(sys.stderr), silent=not self._chats)
        try:
            yield bar
        finally:
            bar.finish()

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        title: str = "",
        *,
        right: Sequence[str] = (),
        whole: Sequence[str] = (),
        dense: bool = False,
    ) -> None:
        """A table that fits the terminal (80 columns when piped).

        Args:
            right: columns that are set to the right. whole: columns whose cells are never broken into lines.
            dense: less room between the columns, for tables with many.
        """
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
        padding = (0, 1, 0, 0) if dense else (0, 1)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left", padding=padding)
        for column in columns:
            justify: Any = "right" if column in right else "left"
            table.add_column(column, overflow="fold", justify=justify, no_wrap=column in whole)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        with _written():
            console.print(table)


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """Turns what goes wrong with standard output into what the command line knows."""
    try:
        yield
    except BrokenPipeError:
        _drop_stdout()
        raise ClosedPipe from None
    except OSError as error:
        from accel.core.errors import TransferError

        _drop_stdout()
        raise TransferError(
            f"cannot write standard output: {error.strerror or error}", "free space where it goes, or send it elsewhere"
        ) from error


def _drop_stdout() -> None:
    """Sends what is still buffered nowhere, so that the interpreter does not fail on it again while it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _dumps(data: Any, stream: Any, indent: int | None = None) -> str:
    """JSON text that the stream's encoding can carry."""
    unicode = "utf" in (getattr(stream, "encoding", None) or "").lower()
    try:
        return json.dumps(data, ensure_ascii=not unicode, indent=indent, default=_plain, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(data), ensure_ascii=not unicode, indent=indent, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)
