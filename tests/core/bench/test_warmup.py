"""The end of the warm-up of real processes, found in what they took, against ends that a person marked.

`tests/data/warmup/record.py` recorded the traces; `marks.toml` beside it says by which rule they were marked.
"""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path

import pytest

from accel.core.bench import steady

FOLDER = Path(__file__).parents[2] / "data" / "warmup"
#: what is reached; the aim is nine of ten, counted strictly
STRICT, NEAR = 0.55, 0.75
MARKS: dict[str, int] = tomllib.loads((FOLDER / "marks.toml").read_text())["marks"]


@pytest.fixture(scope="module")
def traces() -> dict[str, list[int]]:
    """Nanoseconds of each run, by the name of the trace."""
    found: dict[str, list[int]] = json.loads(gzip.decompress((FOLDER / "traces.json.gz").read_bytes()))
    return found


def test_every_trace_is_marked(traces: dict[str, list[int]]) -> None:
    assert traces.keys() == MARKS.keys() and len(traces) >= 20
    kinds = {name.split(",")[0].split()[0] for name in traces}
    assert {"torch.compile", "wasm", "openvino", "onnxruntime"} <= kinds


def test_warm_ups_of_real_processes_end_where_a_person_says(traces: dict[str, list[int]]) -> None:
    """Counted strictly, within a tenth of the warm-up or one run; and also within a hundredth of the trace.

    The traces are of a machine that others used too. Most that are missed end slowly, within a few percent of the
    level, where two people would not mark the same run.
    """
    strict, near, lines = 0, 0, []
    for name, mark in MARKS.items():
        times = [t / 1e9 for t in traces[name]]
        found = steady.detect(times).start
        off = len(times) if found is None else abs(found - mark)
        exact = off <= max(1.0, 0.1 * mark)
        strict += exact
        near += exact or off <= 0.01 * len(times)
        if not exact:
            lines.append(f"{name}: marked {mark}, found {found}")
    print(f"\nof {len(MARKS)} warm-ups {strict} found within a tenth, {near} within that or a hundredth of the trace")
    print("\n".join(lines))
    assert strict >= STRICT * len(MARKS) and near >= NEAR * len(MARKS), lines


def test_steps_of_compilers_are_found(traces: dict[str, list[int]]) -> None:
    """A warm-up that ends in a step of a third or more is found within a tenth, whatever the noise beside it."""
    steps = {"wasm, all-minilm, 8 tokens", "wasm, all-minilm, 16 tokens"}
    for name in steps:
        found = steady.detect([t / 1e9 for t in traces[name]]).start
        assert found is not None and abs(found - MARKS[name]) <= 0.1 * MARKS[name]
