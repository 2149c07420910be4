"""What `accel report` promises about its speed, measured: `pytest -m perf tests/perf/test_report.py -s`.

The database of a million results is kept in the folder that ACCEL_PERF_STATE names, and used again from there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from accel.core import results
from accel.core.records import complete
from tests.core.report.history import record, sweep_id
from tests.perf.whole import paired
from tests.program import ACCEL, environment

pytestmark = pytest.mark.perf

MILLION = 1_000_000


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a million results of 40 models, 2 % of them failures, each with the metadata of a real one."""
    chosen = os.environ.get("ACCEL_PERF_STATE")
    folder = (Path(chosen) if chosen else tmp_path_factory.mktemp("state")) / "million"
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(folder))
    if not (folder / "done").exists():
        _fill()
        (folder / "done").touch()
    return folder


def _fill() -> None:
    good, bad = complete(record(0.01, sweep_id("x"))), complete(record(None, sweep_id("x"), cause="crash", reason="no"))
    texts = [json.dumps(entry["metadata"]).replace(str(entry["metadata"]["sweep"]), "@sweep") for entry in (good, bad)]
    latency = str(good["metadata"]["latency_ms"])
    with results.open_writer() as con:
        con.execute(
            f"""
            INSERT INTO benchmark_results (id, timestamp, kind, model_name, hardware_type, device, engine, precision,
                task, batch, length, threads, inference_time, throughput, memory_usage, accuracy_score, fingerprint,
                metadata, status, cause, sweep, cell, variant, weights)
            SELECT uuid(), to_timestamp(1.6e9 + 150 * i), CASE WHEN i % 10 = 0 THEN 'run' ELSE 'bench' END,
                'model-' || i % 40, 'cpu', 'cpu:0', ['onnxruntime', 'torch', 'openvino'][1 + i // 40 % 3],
                ['fp32', 'int8'][1 + i // 120 % 2], 'embedding', [1, 8, 32][1 + i // 240 % 3], 128, 2,
                CASE WHEN i % 50 <> 7 THEN s END, 1 / s, 200_000_000, 0.999999, ['a', 'b', 'c'][1 + i % 3],
                replace(replace(CASE WHEN i % 50 = 7 THEN $bad ELSE $good END, '@sweep', sweep), $latency,
                    (1000 * s)::VARCHAR),
                CASE WHEN i % 50 = 7 THEN 'failed' ELSE 'ok' END,
                CASE WHEN i % 50 = 7 THEN ['crash', 'timeout', 'memory'][1 + i % 3] END,
                sweep, 'cell ' || i % 720, '', 'pretrained'
            FROM (SELECT i, 0.01 * (1 + random()) AS s, md5((i // 100)::VARCHAR) AS sweep FROM range({MILLION}) r(i))
            """,
            {"good": texts[0], "bad": texts[1], "latency": latency},
        )
        con.execute(
            "INSERT INTO samples SELECT id, 'inference_time', [inference_time * (1 + random()) FOR x IN range(100)]"
            " FROM benchmark_results WHERE seq % 100 = 0 AND status = 'ok'"
        )


def test_the_summary_of_a_million_results(home: Path) -> None:
    """Under one second more than the bare start of the program."""
    where = environment(home)
    start = [*ACCEL, "--help"]
    summary, bare = paired([*ACCEL, "report", "summary"], start, where, 5)
    trend, _ = paired([*ACCEL, "report", "trend", "model-7", "--limit", "3"], start, where, 1)
    size = results.database().stat().st_size / 1e6
    above = summary.median_s - bare.median_s
    print(
        f"\n{size:.0f} MB: summary {summary.median_s:.2f} s, bare start {bare.median_s:.2f} s, {above:.2f} s above it; "
        f"{summary.median_bytes / 1e6:.0f} MB of memory; trend of one model {trend.median_s:.2f} s ({sys.platform})"
    )
    assert "1,000,000 results" in summary.output
    assert above < 1.0
