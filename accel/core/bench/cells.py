"""The words of a sweep: a cell of the matrix, one that is left out, and how both are called."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from accel.core.types import Plan, Weights

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Cell:
    """One thing that is measured.

    Attributes:
        model: as the user named it, with its revision where one was given.
        task: the task; empty until the model is known, if the user left it to the model.
        variant: how a precision is reached; empty until the engine says, see `accel.core.types.Plan`.
        length: tokens of a text or samples of a sound; None for the task's own example.
        threads: 0 for the engine's own choice.
        benchmark: name of a user's own benchmark; the fields about a model then say what it says.
    """

    model: str
    task: str
    platform: str
    device: str
    engine: str
    precision: str
    variant: str = ""
    batch: int = 1
    length: int | None = None
    threads: int = 0
    weights: Weights = "pretrained"
    benchmark: str = ""

    @property
    def key(self) -> str:
        """A readable name that is the same in every sweep on every machine."""
        words = [self.benchmark, self.model, self.task, self.device, self.engine, self.precision, self.variant]
        words += [f"batch {self.batch}", "" if self.length is None else f"length {self.length}"]
        words += [f"{self.threads} threads" if self.threads else "", "random" if self.weights == "random" else ""]
        return " / ".join(word for word in words if word)

    @property
    def workload(self) -> tuple[str, str, str, int, int | None]:
        """What has the same inputs and the same reference."""
        return (self.model, self.task, self.weights, self.batch, self.length)

    def plan(self) -> Plan:
        """The cell as a plan."""
        return Plan(
            device=self.device,
            platform=self.platform,
            engine=self.engine,
            precision=self.precision,
            batch=self.batch,
            threads=self.threads,
            variant=self.variant,
            source="requested",
            reason="a cell of a benchmark",
        )

    def as_json(self) -> dict[str, Any]:
        """JSON object; `from_json` reads it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cell:
        """Reads what `as_json` wrote, also of a version with more fields."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


@dataclass(frozen=True)
class Skipped:
    """A cell that cannot work, with the reason and what would change it."""

    cell: Cell
    reason: str
    hint: str = ""


def digest(parts: Any) -> str:
    """16 hexadecimal digits that stand for a JSON value."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
