"""Results: what is appended arrives in the database once, whatever state the database is in."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from accel.core import logs, results, schema, spool
from accel.core.errors import TransferError
from accel.core.records import complete, fault, new_id

ROOT = Path(__file__).parents[2]


def run_record(**more: Any) -> dict[str, Any]:
    return {"kind": "run", "model_name": "bert-base", "hardware_type": "cpu", "inference_time": 0.01, **more}


def rows(query: str) -> list[tuple[Any, ...]]:
    with results.open_reader() as con:
        return con.execute(query).fetchall()


@pytest.fixture
def messages() -> list[tuple[str, str]]:
    """What is logged."""
    seen: list[tuple[str, str]] = []
    logs.setup(lambda level, text: seen.append((level, text)))
    yield seen
    logs.setup(None)


def test_a_record_comes_back_with_all_its_values() -> None:
    given = run_record(
        device="cpu:0",
        engine="onnxruntime",
        precision="fp32",
        task="embedding",
        batch=8,
        length=128,
        threads=2,
        throughput=800.0,
        memory_usage=3_000_000_000,
        accuracy_score=0.75,
        fingerprint="abc",
        model_cid="bafy",
        metadata={"note": "straße"},
        revision="main",
        timestamp=1_700_000_000.25,
    )
    name = results.append(given)
    assert results.merge() == results.Merged(stored=1)
    columns = "id::VARCHAR, epoch(timestamp), model_name, hardware_type, device, engine, precision, task, batch, length"
    columns += ", threads, inference_time, throughput, memory_usage, accuracy_score, fingerprint, model_cid, metadata"
    (row,) = rows(f"SELECT {columns} FROM benchmark_results")
    assert row[:-1] == (
        *(name, 1_700_000_000.25, "bert-base", "cpu", "cpu:0", "onnxruntime", "fp32", "embedding", 8, 128, 2),
        *(0.01, 800.0, 3_000_000_000, 0.75, "abc", "bafy"),
    )
    assert json.loads(row[-1]) == {"note": "straße", "revision": "main"}


def test_samples_are_linked_to_their_result() -> None:
    first = results.append(run_record(samples=[0.1, 0.2, math.nan]))
    second = results.append(run_record(samples={"load": [1.5], "steady": np.array([0.25, 0.5])}))
    results.append(run_record())
    joined = rows(
        "SELECT r.id::VARCHAR, s.series, s.data FROM benchmark_results r JOIN samples s ON r.samples_id = s.id"
        " ORDER BY r.seq, s.series"
    )
    assert joined == [
        (first, "inference_time", [0.1, 0.2, None]),
        (second, "load", [1.5]),
        (second, "steady", [0.25, 0.5]),
    ]
    assert rows("SELECT count(*) FROM benchmark_results WHERE samples_id IS NULL") == [(1,)]


def test_values_that_json_lacks_become_plain_ones() -> None:
    record = complete(
        run_record(throughput=math.inf, batch=np.int64(4), memory_usage=np.float32(1).astype(int), where=Path("/x"))
    )
    assert (record["throughput"], record["batch"], record["metadata"]) == (None, 4, {"where": "/x"})
    assert fault(record) == ""


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "other"}, "kind"),
        ({"batch": 1.5}, "batch"),
        ({"batch": True}, "batch"),
        ({"memory_usage": 2**63}, "memory_usage"),
        ({"inference_time": "fast"}, "inference_time"),
        ({"model_name": 3}, "model_name"),
        ({"timestamp": 1e15}, "timestamp"),
        ({"id": "not-a-uuid"}, "UUID"),
        ({"samples": ["x"]}, "samples"),
    ],
)
def test_a_record_that_cannot_be_stored_is_refused_before_it_is_in_the_spool(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        results.append(run_record(**wrong))
    assert results.spool_size() == 0


def test_ids_are_random_version_4_uuids() -> None:
    import uuid

    made = {new_id() for _ in range(100)}
    assert len(made) == 100
    assert all(uuid.UUID(name).version == 4 and uuid.UUID(name).variant == uuid.RFC_4122 for name in made)


def test_appending_opens_no_database_and_imports_little() -> None:
    code = (
        "import sys; from accel.core import results; results.append({'kind': 'run'});"
        "print(sorted({'duckdb', 'numpy', 'rich', 'typer', 'torch', 'logging'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not results.database().exists()
    assert rows("SELECT count(*) FROM benchmark_results") == [(1,)]


def test_appending_takes_milliseconds() -> None:
    results.append(run_record())
    best = math.inf
    for _ in range(20):
        started = time.perf_counter()
        results.append(run_record(samples=[0.001] * 200))
        best = min(best, time.perf_counter() - started)
    assert best < 0.02


def test_the_same_record_twice_is_stored_once() -> None:
    one = complete(run_record())
    results.append_all([one, one])
    assert results.merge() == results.Merged(stored=1)
    results.append(one)
    assert results.merge() == results.Merged(known=1)
    assert rows("SELECT count(*) FROM benchmark_results") == [(1,)]


def test_order_of_arrival_survives_a_clock_that_jumps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([2_000_000_000.0, 1_000_000_000.0, 1_500_000_000.0])
    with monkeypatch.context() as clock:
        clock.setattr("accel.core.records.time.time", lambda: next(moments))
        made = [results.append(run_record()) for _ in range(3)]
    assert [r[0] for r in rows("SELECT id::VARCHAR FROM benchmark_results ORDER BY seq")] == made


def test_many_records_cross_the_chunks_of_a_merge() -> None:
    results.append_all([run_record(batch=i, samples=[float(i)]) for i in range(4500)])
    assert results.merge() == results.Merged(stored=4500)
    assert rows("SELECT count(*), sum(batch), count(DISTINCT id) FROM benchmark_results") == [
        (4500, 4500 * 4499 // 2, 4500)
    ]
    assert rows("SELECT count(*) FROM samples") == [(4500,)]


def test_without_anything_the_tables_are_there_and_empty(isolated_home: Path) -> None:
    assert rows("SELECT count(*) FROM benchmark_results") == [(0,)]
    assert rows("SELECT max(number) FROM schema_version") == [(schema.latest(),)]
    assert results.merge() == results.Merged()
    assert not results.database().exists()


@pytest.mark.parametrize("harm", ["cut", "flipped", "zeros", "text", "not a record"])
def test_a_damaged_line_is_set_aside_and_the_others_arrive(harm: str, messages: list[tuple[str, str]]) -> None:
    results.append(run_record(batch=1))
    results.append(run_record(batch=2))
    path = results.spool().folder / spool.INCOMING
    first, second = path.read_bytes().splitlines(keepends=True)
    damaged = {
        "cut": first[: len(first) // 2] + b"\n",
        "flipped": first.replace(b"bert", b"bart"),
        "zeros": b"\0" * len(first) + b"\n",
        "text": b"hello\n",
        "not a record": spool.encode({"id": new_id()}),
    }[harm]
    path.write_bytes(damaged + second)
    assert results.merge() == results.Merged(stored=1, damaged=1)
    assert rows("SELECT batch FROM benchmark_results") == [(2,)]
    (aside,) = (results.spool().folder / "damaged").iterdir()
    assert aside.read_bytes() == damaged
    assert [level for level, text in messages if str(aside) in text] == ["warning"]
    assert results.spool_size() == 0


def test_a_line_that_a_killed_writer_left_open_does_not_swallow_the_next_one() -> None:
    results.append(run_record(batch=1))
    path = results.spool().folder / spool.INCOMING
    path.write_bytes(path.read_bytes()[:-20])
    results.append(run_record(batch=2))
    assert results.merge() == results.Merged(stored=1, damaged=1)
    assert rows("SELECT batch FROM benchmark_results") == [(2,)]


def test_columns_that_a_newer_accel_appended_are_kept() -> None:
    record = complete(run_record())
    results.spool().append([{**record, "kind": "cell", "watts": 3.5}])
    assert rows("SELECT kind, json_extract(metadata, '$.watts')::DOUBLE FROM benchmark_results") == [("cell", 3.5)]


def damage_by_truncation(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20000])


def damage_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def damage_by_flipping(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(12288, len(data), 1000):
        data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [damage_by_truncation, damage_to_nothing, damage_by_flipping])
def test_a_damaged_database_is_a_clear_error_and_keeps_the_spool(harm: Any) -> None:
    results.append(run_record())
    results.merge()
    harm(results.database())
    before = results.database().read_bytes()
    results.append(run_record())
    with pytest.raises(TransferError, match="is damaged") as caught:
        results.merge()
    assert caught.value.exit_code == 5
    assert "move it away" in caught.value.hint
    with pytest.raises(TransferError, match="is damaged"):
        rows("SELECT count(*) FROM benchmark_results")
    assert results.database().read_bytes() == before
    results.database().rename(results.database().with_suffix(".damaged"))
    assert results.merge() == results.Merged(stored=1)


def test_a_folder_in_place_of_the_database_is_a_clear_error() -> None:
    results.database().mkdir(parents=True)
    results.append(run_record())
    with pytest.raises(TransferError, match=r"results\.duckdb"):
        results.merge()
    assert results.spool_size() > 0


def test_a_newer_database_is_refused_and_left_untouched() -> None:
    with results.open_writer() as con:
        con.execute("INSERT INTO schema_version VALUES (?, 'later', now())", [schema.latest() + 1])
        con.execute("ALTER TABLE benchmark_results ADD COLUMN later VARCHAR")
    before = results.database().read_bytes()
    results.append(run_record())
    for attempt in (results.merge, lambda: rows("SELECT 1")):
        with pytest.raises(TransferError, match="newer accel") as caught:
            attempt()
        assert caught.value.exit_code == 5
        assert "upgrade" in caught.value.hint
    assert results.database().read_bytes() == before
    assert results.spool_size() > 0


def test_a_database_of_another_program_is_refused_and_left_untouched() -> None:
    results.database().parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(results.database())) as con:
        con.execute("CREATE TABLE benchmark_results (mine INTEGER)")
    before = results.database().read_bytes()
    results.append(run_record())
    with pytest.raises(TransferError, match="another program"):
        results.merge()
    assert results.database().read_bytes() == before


def test_the_log_of_a_deleted_database_is_not_applied_to_the_new_one() -> None:
    code = (
        "import os\nfrom accel.core import results\nresults.merge()\nwith results.open_writer() as con:\n"
        " con.execute('CREATE TABLE old (i INTEGER)')\n os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    log = results.database().with_name("results.duckdb.wal")
    assert log.stat().st_size > 0
    results.database().unlink()
    results.append(run_record())
    assert results.merge() == results.Merged(stored=1)
    assert rows("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'old'") == [(0,)]
    assert list(log.parent.glob("results.duckdb.wal.orphan-*"))


def test_an_older_database_is_brought_up_to_date_by_a_reader() -> None:
    results.append(run_record(batch=3))
    with results.open_writer() as con:
        schema.migrate(con, 1)
    assert rows("SELECT batch, samples_id FROM benchmark_results") == [(3, None)]


def test_an_error_in_a_query_stays_an_error_of_the_query() -> None:
    with pytest.raises(duckdb.CatalogException):
        rows("SELECT * FROM nowhere")


def test_merge_behind_starts_only_past_its_bound_and_does_its_work() -> None:
    results.append(run_record(samples=[0.5] * 100))
    assert not results.merge_behind()
    assert results.merge_behind(bound=100)
    deadline = time.monotonic() + 30
    while results.spool_size() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows("SELECT count(*) FROM benchmark_results") == [(1,)]


def test_merge_behind_does_not_start_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: started.append(args))
    results.append(run_record())
    assert results.merge_behind(bound=1)
    assert not results.merge_behind(bound=1)
    monkeypatch.setattr("accel.core.results.time.time", lambda: time.monotonic() + 4e9)
    assert results.merge_behind(bound=1)
    monkeypatch.setattr("accel.core.results.time.time", lambda: 1e6)  # the clock went far back
    assert results.merge_behind(bound=1)
    assert len(started) == 3
