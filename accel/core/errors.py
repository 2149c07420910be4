"""Every error a user can meet: what happened, to what, and what to try next.

The exit code belongs to the class; `accel.cli` alone turns an error into output and an exit status.
"""

from __future__ import annotations


class AccelError(Exception):
    """An expected failure.

    Args:
        message: what happened and to what, one sentence, no trailing full stop needed.
        hint: the one thing to try next.
        details: facts for `--json` readers; JSON types only.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, hint: str = "", details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details or {}

    def as_json(self) -> dict[str, object]:
        """The error as the object that `--json` prints on stderr."""
        return {
            "schema": "accel.error/1",
            "error": self.kind,
            "message": self.message,
            "hint": self.hint,
            "exit_code": self.exit_code,
            "details": self.details,
        }


class InputError(AccelError):
    """Wrong usage or bad input."""

    exit_code = 2
    kind = "input"


class UnavailableError(AccelError):
    """Hardware, engine, model or authorisation that is not to be had."""

    exit_code = 3
    kind = "unavailable"


class IncompatibleError(AccelError):
    """It does not fit, or the combination is unsupported."""

    exit_code = 4
    kind = "incompatible"


class OutOfMemoryError(IncompatibleError):
    """The device's memory ran out while executing: a smaller batch may fit."""

    kind = "out_of_memory"


class TransferError(AccelError):
    """Storage, network or checksum."""

    exit_code = 5
    kind = "transfer"


class GateError(AccelError):
    """A gate failed: a regression, a tolerance."""

    exit_code = 6
    kind = "gate"


class PartialError(AccelError):
    """Some items of a bulk failed; the others are done."""

    exit_code = 7
    kind = "partial"


class TimeLimitError(AccelError):
    """`--timeout` ran out."""

    exit_code = 124
    kind = "timeout"
