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
from accel.core.errors import AccelError
from accel.core.locks import holding
from accel.core.paths import home, write_atomic
from accel.core.registry import engine
from accel.core.types import Model, Plan

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
    def key(self) -> str:
        """`Plan.key` of the plan that was tried."""
        return Plan(self.device, self.platform, self.engine, self.precision, variant=self.variant).key

    @property
    def name(self) -> str:
        """`cpu:0 onnxruntime fp32`, with variant and threads where they say something."""
        extra = [self.variant] if self.variant else []
        if self.threads:
            extra.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return " ".join([self.device, self.engine, self.precision, *extra])


@dataclass(frozen=True)
class Evidence:
    """The verdicts of one trial.

    Attributes:
        shape: the workload that was tried.
        budget_s: time that the trial was given.
        complete: every candidate was tried within it.
    """

    shape: Shape
    verdicts: tuple[Verdict, ...]
    budget_s: float
    complete: bool

    @property
    def stale(self) -> bool:
        """Whether an engine has another version now."""
        return any(current_version(v.engine) != v.version for v in self.verdicts)


def current_version(name: str) -> str:
    """Version of an installed engine; "" when it is not (or no longer) there."""
    try:
        offer = engine(name)
        return "" if offer.missing() else offer.version()
    except AccelError:
        return ""


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


def find(model: Model, fingerprint: str, shape: Shape, scope: str) -> Evidence | None:
    """What is known about this workload, or about the nearest shape that can stand for it.

    Args:
        scope: what the trial was allowed to try (devices, precision), as a stable text.
    """
    best: tuple[float, Evidence] | None = None
    for entry in _read(_path(model)).get(f"{fingerprint}|{scope}", ()):
        try:
            verdicts = tuple(Verdict(**v) for v in entry["verdicts"])
            measured = Shape(entry["batch"], entry["length"])
            known = Evidence(measured, verdicts, entry["budget_s"], entry["complete"])
        except (KeyError, TypeError):
            continue  # written by another version
        distance = shape.distance(measured)
        if distance is not None and (best is None or distance < best[0]):
            best = distance, known
    return best[1] if best else None


def keep(model: Model, fingerprint: str, scope: str, evidence: Evidence) -> None:
    """Adds or replaces the evidence on a workload; two processes at once lose nothing."""
    shape = evidence.shape
    path = _path(model)
    with holding(path.with_suffix(".lock")):
        entries = _read(path)
        key = f"{fingerprint}|{scope}"
        others = [e for e in entries.get(key, []) if Shape(e["batch"], e["length"]) != shape]
        mine = {
            "batch": shape.batch,
            "length": shape.length,
            "budget_s": evidence.budget_s,
            "complete": evidence.complete,
            "verdicts": [v.__dict__ for v in evidence.verdicts],
            "when": time.time(),
        }
        entries[key] = [*others, mine]
        write_atomic(path, json.dumps({"schema": SCHEMA, "model": model.name, "entries": entries}).encode())
