"""How reports read the results: opened late, closed early, and with an answer when the database cannot be opened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from accel.core import results
from accel.core.database import DatabaseError
from accel.core.errors import InputError, TransferError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")


def read(work: Callable[[DuckDBPyConnection], T], wait_s: float = 10.0) -> tuple[T, TransferError | None]:
    """What `work` reads from the results, and what was wrong with the database.

    Where the database is locked for too long, damaged or newer than this accel, the work is done on what waits in the
    spool, and the error is returned beside the answer, for the command to end with.

    Raises:
        TransferError: the database cannot be read, and nothing waits in the spool.
    """
    opened = False
    try:
        with results.open_reader(wait_s) as con:
            opened = True
            return work(con), None
    except TransferError as error:
        # the work itself may have failed for another reason, such as a file that it writes
        if not results.spool_size() or (opened and not isinstance(error, DatabaseError)):
            raise
        with results.open_spool() as con:
            return work(con), TransferError(
                f"{error.message}; only the results that wait in the spool are shown", error.hint, error.details
            )


@dataclass(frozen=True)
class Filter:
    """Which results a report is about; empty fields say nothing.

    Attributes:
        model: name of a model; `*` in it stands for any letters.
        device: `cpu:0`, or a platform.
        kinds: `bench`, `run`, `deep`.
        since: seconds since the epoch.
    """

    model: str = ""
    device: str = ""
    kinds: tuple[str, ...] = ("bench", "run")
    since: float | None = None

    def where(self) -> tuple[str, list[Any]]:
        """The condition in SQL, and its parameters."""
        parts = [f"kind IN ({', '.join('?' * len(self.kinds))})"]
        values: list[Any] = [*self.kinds]
        if self.model:
            parts.append("model_name GLOB ?" if "*" in self.model else "model_name = ?")
            values.append(self.model)
        if self.device:
            parts.append("(device = ? OR hardware_type = ?)")
            values += [self.device, self.device]
        if self.since is not None:
            parts.append('"timestamp" >= to_timestamp(?)')
            values.append(self.since)
        return " AND ".join(parts), values


def since(text: str | None) -> float | None:
    """Seconds since the epoch of `30d`, `12h`, `45m` ago, or of a date such as `2026-01-31`.

    Raises:
        InputError: neither of them.
    """
    if text is None:
        return None
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "w": 604800.0}
    try:
        if text[-1:] in units and not text.count("-"):
            return time.time() - float(text[:-1]) * units[text[-1]]
        import datetime

        found = datetime.datetime.fromisoformat(text)
        return (found if found.tzinfo else found.astimezone()).timestamp()
    except (ValueError, OverflowError) as error:
        raise InputError(f"--since {text!r} is neither a time span nor a date", "--since 30d, or 2026-01-31") from error
