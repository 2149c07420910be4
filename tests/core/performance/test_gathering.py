"""What bench and run measured reaches the ledger once, with a prediction that was not made from it."""

from __future__ import annotations

from typing import Any

import pytest

from accel.core import results
from accel.core.fingerprint import fingerprint
from accel.core.performance import ledger
from accel.core.performance.gathering import gather


def record(**changes: Any) -> dict[str, Any]:
    """A result as bench leaves it."""
    values: dict[str, Any] = {
        "kind": "bench", "model_name": "all-minilm", "hardware_type": "cpu", "device": "cpu:0", "engine": "torch",
        "precision": "fp32", "task": "feature-extraction", "batch": 2, "length": 32, "threads": 0,
        "inference_time": 0.02, "memory_usage": 9 << 27, "fingerprint": fingerprint(),
        "metadata": {"family": "text-encoder", "variant": "", "benchmark": None, "energy_j": 0.4},
    }  # fmt: skip
    return {**values, **changes}


def test_every_measurement_arrives_once() -> None:
    """With energy and memory; a second look adds nothing."""
    results.append(record())
    results.append(record(kind="run", batch=1, metadata={"variant": ""}))
    assert gather() == 2
    assert gather() == 0
    alone, together = sorted(ledger.entries(), key=lambda entry: entry.batch)
    assert (alone.family, alone.measured_s) == ("text-encoder", 0.02)
    assert together.joules == pytest.approx(0.4)
    assert together.memory_measured == 9 << 27
    assert together.low_s < together.predicted_s < together.high_s
    assert not together.calibrated
    assert ledger.accuracy()[0]["pairs"] == 2


def test_what_cannot_be_predicted_is_passed_over() -> None:
    """Another variant of a graph, fewer threads, another machine, a user's own benchmark, a model that is gone, and a
    decoder's run, whose number of tokens nobody kept."""
    results.append(record(metadata={"variant": "gqa"}))
    results.append(record(threads=1))
    results.append(record(fingerprint="another"))
    results.append(record(metadata={"benchmark": "mine"}))
    results.append(record(model_name="no-such-model"))
    results.append(record(kind="run", model_name="distilgpt2", task="text-generation"))
    results.append(record(length=100_000))
    assert gather() == 0
    assert ledger.entries() == []
