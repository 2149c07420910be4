"""Messages beside the result, and how long phases took.

What is logged and where is for the user to say (`logging.level`, `logging.file`, `performance.enable_profiling`).
The command line hands in how a message reaches the terminal (`setup`); a program that uses accel as a library gets
the messages through Python's own logger `accel`. The log file is opened for each line, so it may be rotated or
removed at any time, and several processes can share it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

LEVELS = ("debug", "info", "warning", "error")
Emit = Callable[[str, str], None]


class _State:
    """What the configuration says about logging, read once."""

    def __init__(self, debug: bool = False, emit: Emit | None = None) -> None:
        from accel.core import config
        from accel.core.errors import InputError

        self.emit = emit
        self.level, self.file, self.profiling = "warning", None, False
        # a command that has to work with a broken configuration (to show or mend it) must be able to warn as well
        with contextlib.suppress(InputError):
            now = config.current()
            self.level = now.get("logging.level")
            self.file = now.get("logging.file")
            self.profiling = now.get("performance.enable_profiling")
        if debug:
            self.level, self.profiling = "debug", True


_state: _State | None = None
_phases: list[tuple[str, float]] = []


def setup(emit: Emit | None = None, *, debug: bool = False) -> None:
    """Reads the configuration (again) and says how messages reach the user.

    Args:
        emit: takes a level of `LEVELS` and a message; None means Python's logger `accel`.
        debug: log everything, and the phases too, whatever the configuration says.
    """
    global _state
    _state = _State(debug, emit)
    _phases.clear()


def _current() -> _State:
    global _state
    if _state is None:
        _state = _State()
    return _state


def log(level: str, message: str) -> None:
    """Logs a message at a level of `LEVELS`."""
    state = _current()
    if LEVELS.index(level) >= LEVELS.index(state.level):
        _write(state, level, message)


def debug(message: str) -> None:
    """Details for whoever looks for a fault."""
    log("debug", message)


def info(message: str) -> None:
    """What is being done."""
    log("info", message)


def warning(message: str) -> None:
    """Something is not as it should be, and the work goes on."""
    log("warning", message)


def error(message: str) -> None:
    """Something failed that cannot be raised, as in a process in the background."""
    log("error", message)


def _write(state: _State, level: str, message: str) -> None:
    if state.file is not None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        text = message.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        try:
            handle = os.open(state.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, f"{stamp} {os.getpid()} {level} {text}\n".encode(errors="backslashreplace"))
            finally:
                os.close(handle)
        except OSError as problem:
            failed, state.file = state.file, None
            _show(state, "warning", f"cannot write the log file {failed}: {problem.strerror or problem}")
    _show(state, level, message)


def _show(state: _State, level: str, message: str) -> None:
    if state.emit is not None:
        state.emit(level, message)
        return
    import logging

    logging.getLogger("accel").log(getattr(logging, level.upper()), "%s", message)


class _Phase:
    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(
        self, _kind: type[BaseException] | None, raised: BaseException | None, _at: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self.started
        _phases.append((self.name, seconds))
        _write(_current(), "info", f"phase {self.name}: {1000 * seconds:.1f} ms{' (failed)' if raised else ''}")


_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def profiled(name: str) -> AbstractContextManager[None]:
    """Times what happens inside of `with profiled("load"):`, when profiling is on; costs nothing otherwise."""
    return _Phase(name) if _current().profiling else _NOTHING


def phases() -> list[tuple[str, float]]:
    """Name and wall time in seconds of the phases that ended so far, in order; empty unless profiling is on."""
    return list(_phases)
