"""What the benchmarks share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ACCEL_PERF_STATE names, where progress, environments and prepared models outlive a run."""
    chosen = os.environ.get("ACCEL_PERF_STATE")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("state")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
