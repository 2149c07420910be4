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


#: inputs shorter than this cost the same
SHORT = 16
#: how far (factor) another measured shape may be and still stand for a workload
NEAR_LENGTH = 4
NEAR_BATCH = 2


@dataclass(frozen=True)
class Shape:
    """The part of a workload that decides which engine wins.

    Attributes:
        batch: inputs executed together. length: tokens, samples or pixels of one input.
    """

    batch: int
    length: int

    def distance(self, other: Shape) -> float | None:
        """How far another shape is (powers of two, summed), or None when it is too far to stand for this one."""
        batches = abs(math.log2(self.batch / other.batch))
        lengths = abs(math.log2(max(SHORT, self.length) / max(SHORT, other.length)))
        if batches > math.log2(NEAR_BATCH) or lengths > math.log2(NEAR_LENGTH):
            return None
        return batches + lengths


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


def find(model: Model, fingerprint: str, shape: Shape, scope: str) -> tuple[Shape, list[Verdict]] | None:
    """The verdicts on this workload, or on the nearest shape that can stand for it, with the shape they belong to.

    Args:
        scope: what the trial was allowed to try (devices, precision), as a stable text.
    """
    best: tuple[float, Shape, list[Verdict]] | None = None
    for entry in _read(_path(model)).get(f"{fingerprint}|{scope}", ()):
        try:
            measured = Shape(entry["batch"], entry["length"])
            verdicts = [Verdict(**v) for v in entry["verdicts"]]
        except (KeyError, TypeError):
            continue  # written by another version
        distance = shape.distance(measured)
        if distance is not None and (best is None or distance < best[0]):
            best = distance, measured, verdicts
    return best[1:] if best else None


def keep(model: Model, fingerprint: str, shape: Shape, scope: str, verdicts: list[Verdict]) -> None:
    """Adds or replaces the verdicts on a workload; two processes at once lose nothing."""
    path = _path(model)
    with locked(path.with_suffix(".lock")):
        entries = _read(path)
        key = f"{fingerprint}|{scope}"
        others = [e for e in entries.get(key, []) if Shape(e["batch"], e["length"]) != shape]
        mine = {"batch": shape.batch, "length": shape.length, "verdicts": [v.__dict__ for v in verdicts]}
        entries[key] = [*others, {**mine, "when": time.time()}]
        write_atomic(path, json.dumps({"schema": SCHEMA, "model": model.name, "entries": entries}).encode())
