"""What was measured about a model on this machine, kept so that the next run decides at once.

One JSON file per model and task under `plans/`. An entry belongs to a fingerprint of the machine, to a shape of the
workload and to the versions of the engines: when one of these changes the entry no longer counts.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core import prepared
from accel.core.paths import home, locked, write_atomic
from accel.core.types import Model

SCHEMA = 1


@dataclass(frozen=True)
class Shape:
    """The part of a workload that decides which engine wins.

    Attributes:
        batch: inputs executed together. length: tokens, samples or pixels of one input.
    """

    batch: int
    length: int

    @property
    def key(self) -> str:
        """Shapes of one power of two in each direction share their evidence."""
        return f"b{_bucket(self.batch)}-l{_bucket(self.length)}"


def _bucket(value: int) -> int:
    return 1 << max(0, math.ceil(math.log2(max(1, value))))


@dataclass(frozen=True)
class Verdict:
    """One candidate as it was tried.

    Attributes:
        latency_s: median time of one batch; None where it failed.
        load_s: time to open the prepared plan.
        cosine, max_abs: agreement with the reference.
        reason: why it failed or was left out; empty where it worked.
        version: of the engine.
    """

    device: str
    platform: str
    engine: str
    precision: str
    variant: str
    threads: int
    latency_s: float | None
    load_s: float | None
    cosine: float | None
    max_abs: float | None
    reason: str
    version: str

    @property
    def name(self) -> str:
        """`cpu:0 onnxruntime fp32`, with variant and threads where they say something."""
        extra = [self.variant] if self.variant else []
        if self.threads:
            extra.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return " ".join([self.device, self.engine, self.precision, *extra])


def _path(model: Model) -> Path:
    return home() / "plans" / f"{prepared.model_key(model)}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] == SCHEMA:
            entries: dict[str, Any] = data["entries"]
            return entries
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no evidence yet, or a damaged file: both mean that it has to be measured
    return {}


def find(model: Model, fingerprint: str, shape: Shape, scope: str) -> list[Verdict]:
    """The verdicts on this workload, or [] when it was never tried here.

    Args:
        scope: what the trial was allowed to try (devices, precision, tolerance), as a stable text.
    """
    entry = _read(_path(model)).get(f"{fingerprint}|{shape.key}|{scope}")
    if not entry:
        return []
    try:
        return [Verdict(**v) for v in entry["verdicts"]]
    except TypeError:
        return []


def keep(model: Model, fingerprint: str, shape: Shape, scope: str, verdicts: list[Verdict]) -> None:
    """Adds or replaces the verdicts on a workload; two processes at once lose nothing."""
    path = _path(model)
    with locked(path.with_suffix(".lock")):
        entries = _read(path)
        entries[f"{fingerprint}|{shape.key}|{scope}"] = {
            "verdicts": [v.__dict__ for v in verdicts],
            "when": time.time(),
        }
        write_atomic(path, json.dumps({"schema": SCHEMA, "model": model.name, "entries": entries}).encode())
