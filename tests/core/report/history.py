"""Results as `accel bench` and `accel run` store them, made up where a test needs many or special ones."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from typing import Any

from accel.core import results
from accel.core.bench import measured
from accel.core.bench.cells import Cell
from accel.core.bench.process import Visit

ENVIRONMENT: dict[str, Any] = {
    "fingerprint": "f" * 16,
    "cpu": "Test CPU",
    "cores": 2,
    "threads": 2,
    "memory_bytes": 8 << 30,
    "system": "Linux 6.1 x86_64",
    "python": "3.11.7",
    "accel": "0.1.0",
    "code": "c0de",
    "versions": {"torch": "2.13.0", "onnxruntime": "1.24.1"},
    "commit": "a" * 40,
}


def cell(**more: Any) -> Cell:
    """A cell of the matrix."""
    given: dict[str, Any] = {
        "model": "bert-base",
        "task": "embedding",
        "platform": "cpu",
        "device": "cpu:0",
        "engine": "onnxruntime",
        "precision": "fp32",
        "batch": 1,
        "length": 128,
    }
    return Cell(**{**given, **more})


def samples(median_s: float, count: int = 60, spread: float = 0.02, seed: int = 0) -> list[float]:
    """Times around a median, a little skewed."""
    source = random.Random(f"{median_s} {seed}")
    return [median_s * (1.0 + spread * (source.random() + 0.2 * source.expovariate(1.0) - 0.64)) for _ in range(count)]


def record(
    median_s: float | None,
    sweep: str,
    *,
    cosine: float | None = 0.999999,
    cause: str = "",
    reason: str = "",
    environment: dict[str, Any] | None = None,
    seed: int = 0,
    spread: float = 0.02,
    count: int = 60,
    timestamp: float | None = None,
    **axes: Any,
) -> dict[str, Any]:
    """The record of one cell: by bench's own functions, from made-up samples. None is a failure."""
    one = cell(**axes)
    outcome = measured.Outcome(one, "failed" if median_s is None else "ok", cause, reason)
    outcome.identity = {"model_digest": "d" * 64, "family": "text-encoder", "engine_version": "1.24.1"}
    if median_s is not None:
        outcome.visits = [
            Visit(
                samples=samples(median_s, count, spread, 10 * seed + number),
                first_s=3 * median_s,
                peak_bytes=200 << 20,
                length=128,
                flops=2e9,
            )
            for number in range(3)
        ]
        outcome.agreement = None if cosine is None else {"cosine": cosine, "max_abs": 1e-6}
    made = measured.record(outcome, sweep, 0.01, {**ENVIRONMENT, **(environment or {})})
    if timestamp is not None:
        made["timestamp"] = timestamp
    return made


def sweep_id(name: str) -> str:
    """An id of a sweep as `accel bench` makes them, the same for the same name."""
    return uuid.uuid5(uuid.NAMESPACE_OID, name).hex


def keep(records: Sequence[dict[str, Any]]) -> None:
    """Stores records and merges them."""
    results.append_all(records)
    results.merge()
