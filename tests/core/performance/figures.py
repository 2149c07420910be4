"""A calibration made up from a simple machine, so that what is built on one can be tested without measuring."""

from __future__ import annotations

import json
from typing import Any

from accel.core.fingerprint import fingerprint
from accel.core.paths import ensure, home
from accel.core.performance import calibration
from accel.core.performance.kernels import Kernel, kernels


def seconds_of(kernel: Kernel, slowness: float = 1.0) -> float:
    """200 GFLOP/s, 20 GB/s and two microseconds for each operator."""
    if kernel.kind == "call":
        return 5e-6
    each = sum(max(op.flops / 200e9, (op.bytes_read + op.bytes_written) / 20e9) + 2e-6 for op in kernel.operators)
    return 5e-6 + slowness * each


def figures(engine: str, slowness: float = 1.0) -> dict[str, Any]:
    """What a calibration of that machine would have kept."""
    points = [{"kernel": k.as_json(), "seconds": seconds_of(k, slowness), "spread": 0.01} for k in kernels()]
    return {
        "points": points, "skipped": [], "controls": [1.0, 1.01], "runtime_bytes": 100 << 20, "threads": 2,
        "version": calibration.version_of(engine), "restlessness": 1.01, "measured_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip


def keep(**slowness: float) -> None:
    """Keeps figures for engines of this machine."""
    found = {engine: figures(engine, factor) for engine, factor in slowness.items()}
    (ensure(home()) / "calibration.json").write_text(json.dumps({fingerprint(): found}))
