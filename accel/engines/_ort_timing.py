"""ONNX Runtime's own profile: how long each node took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accel.core.contracts import OperatorTime


def read(sessions: Sequence[Any], run: Callable[[], object]) -> list[OperatorTime]:
    """Calls `run` and ends the profiles; what was executed before is left out.

    Args:
        sessions: made with `enable_profiling`.
    """
    before = time.time_ns()
    run()
    found = []
    for session in sessions:
        begun = session.get_profiling_start_time_ns()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        for event in events:
            facts = event.get("args", {})
            if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
                continue
            if begun + 1000 * event["ts"] < before:
                continue
            shapes = tuple(tuple(next(iter(one.values()))) for one in facts.get("input_type_shape", []))
            found.append(OperatorTime(facts.get("op_name", ""), event["dur"] / 1e6, shapes=shapes))
    return found
