"""`accel report` as its user sees it: tables, one JSON document, bare values, and databases in every state."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import duckdb
import pytest

from accel.core import results, schema
from tests.core.report.history import keep, record, sweep_id
from tests.program import accel, succeed

ONE, TWO = sweep_id("one"), sweep_id("two")
LATER = {"commit": "b" * 40}


@pytest.fixture
def stored(isolated_home: Path) -> Path:
    """Two sweeps: the second has a slower cell and a failed one."""
    keep(
        [
            record(0.010, ONE),
            record(0.020, ONE, engine="torch"),
            record(0.004, ONE, precision="int8", cosine=0.998),
        ]
    )
    keep(
        [
            record(0.0101, TWO, seed=1, environment=LATER),
            record(0.026, TWO, engine="torch", seed=1, environment=LATER),
            record(None, TWO, precision="int8", cause="crash", reason="signal 11 in the engine", environment=LATER),
        ]
    )
    results.append({"kind": "run", "model_name": "bert-base", "device": "cpu:0", "inference_time": 0.011})
    return isolated_home


def test_the_summary_counts_rates_and_causes(stored: Path) -> None:
    done = succeed("report", "summary", home=stored)
    assert "7 results (6 by bench, 1 by run) of 1 model on 1 machine" in done.stdout
    assert "86 % went well" in done.stdout
    assert "signal 11 in the engine" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = json.loads(succeed("report", "summary", "--json", home=stored).stdout)
    assert (found["schema"], found["results"], found["ok"], found["sweeps"]) == ("accel.report-summary/1", 7, 6, 2)
    (failure,) = found["failures"]
    assert (failure["cause"], failure["count"], failure["share"]) == ("crash", 1, 1.0)
    torch = next(group for group in found["groups"] if group["engine"] == "torch")
    assert torch["results"] == 2
    assert torch["best_ms"] < torch["latency_ms"] < max(torch["recent_ms"])
    assert succeed("report", "summary", "--quiet", home=stored).stdout == "7\n"


def test_the_summary_of_a_part(stored: Path) -> None:
    def count(*words: str) -> int:
        return int(succeed("report", "summary", "--quiet", *words, home=stored).stdout)

    assert count("--kind", "run") == 1
    assert count("--model", "bert*") == 7
    assert count("--model", "bert") == 0
    assert count("--device", "cuda") == 0
    assert count("--device", "cpu:0") == 7
    assert count("--since", "1h") == 7
    assert count("--since", "2099-01-01") == 0
    assert accel("report", "summary", "--kind", "bunch", home=stored).returncode == 2
    assert accel("report", "summary", "--since", "yesterdayish", home=stored).returncode == 2


def test_without_results_it_says_what_to_do(isolated_home: Path) -> None:
    done = succeed("report", "summary", home=isolated_home)
    assert done.stdout == ""
    assert "accel bench" in done.stderr
    assert not results.database().exists()
    assert json.loads(succeed("report", "summary", "--json", home=isolated_home).stdout)["groups"] == []


@pytest.mark.parametrize("name", ["last~1", ONE, ONE[:8]])
def test_a_run_is_found_by_its_names(stored: Path, name: str) -> None:
    found = json.loads(succeed("report", "show", name, "--json", home=stored).stdout)
    assert found["run"] == ONE
    assert [cell["engine"] for cell in found["cells"]] == ["onnxruntime", "torch", "onnxruntime"]
    assert all(len(cell["samples_s"]) > 100 for cell in found["cells"])
    assert found["environment"]["commit"] == "a" * 40


def test_a_run_is_found_by_its_commit(stored: Path) -> None:
    assert json.loads(succeed("report", "show", "bbbbbb", "--json", home=stored).stdout)["run"] == TWO


def test_the_run_of_last_is_the_latest_with_its_failure(stored: Path) -> None:
    done = succeed("report", "show", home=stored)
    assert f"run {TWO}" in done.stdout
    assert "failed (crash): signal 11 in the engine" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80 or "failed" in max(done.stdout.splitlines(), key=len)


def test_a_run_that_there_is_not(stored: Path) -> None:
    done = accel("report", "show", "deadbeef", home=stored)
    assert done.returncode == 2
    assert "accel report runs" in done.stderr
    assert accel("report", "show", "last~7", home=stored).returncode == 2


def test_the_list_of_runs(stored: Path) -> None:
    assert succeed("report", "runs", "--quiet", home=stored).stdout.split() == [TWO, ONE]
    found = json.loads(succeed("report", "runs", "--json", home=stored).stdout)["runs"]
    assert [(entry["ok"], entry["cells"]) for entry in found] == [(2, 3), (3, 3)]


@pytest.mark.parametrize("size", [100, 13_000, 30_000])
def test_a_truncated_database_is_named_and_the_spool_is_shown(stored: Path, size: int) -> None:
    results.merge()
    path = results.database()
    os.truncate(path, size)
    done = accel("report", "summary", home=stored)
    assert (done.returncode, done.stdout) == (5, "")
    assert "is damaged" in done.stderr
    waiting = results.append(record(0.01, sweep_id("three")))
    done = accel("report", "summary", "--json", home=stored)
    assert done.returncode == 5
    assert json.loads(done.stdout)["results"] == 1
    assert "only the results that wait in the spool are shown" in json.loads(done.stderr)["message"]
    status = json.loads(succeed("report", "db", "status", "--json", home=stored).stdout)
    assert (status["state"], status["spool_results"]) == ("damaged", 1)
    path.rename(path.with_suffix(".away"))
    with results.open_reader() as con:
        assert con.execute("SELECT id::VARCHAR FROM benchmark_results").fetchall() == [(waiting,)]


def test_a_database_of_a_newer_accel_is_left_alone(stored: Path) -> None:
    results.merge()
    with duckdb.connect(str(results.database())) as con:
        con.execute("INSERT INTO schema_version VALUES (99, 'm0099', now())")
    results.append(record(0.01, sweep_id("three")))
    before = results.database().read_bytes()
    done = accel("report", "summary", "--quiet", home=stored)
    assert (done.returncode, done.stdout) == (5, "1\n")
    assert "upgrade accel" in done.stderr
    assert succeed("report", "db", "status", "--quiet", home=stored).stdout == "newer\n"
    assert results.database().read_bytes() == before
    assert results.spool_size() > 0


def test_a_database_that_another_program_writes(stored: Path) -> None:
    results.merge()
    with duckdb.connect(str(results.database())):
        results.append(record(0.01, sweep_id("three")))
        assert succeed("report", "db", "status", "--quiet", home=stored).stdout == "locked\n"
        done = accel("report", "summary", "--quiet", home=stored)
        assert (done.returncode, done.stdout) == (5, "1\n")
        assert "is locked" in done.stderr
    assert succeed("report", "summary", "--quiet", home=stored).stdout == "8\n"


def test_an_older_database_is_read_after_it_was_brought_up(stored: Path) -> None:
    with results.open_writer() as con:
        schema.migrate(con, 2)
    assert succeed("report", "db", "status", "--quiet", home=stored).stdout == "old\n"
    found = json.loads(succeed("report", "summary", "--json", home=stored).stdout)
    assert [failure["cause"] for failure in found["failures"]] == ["crash"]
    assert succeed("report", "db", "status", "--quiet", home=stored).stdout == "ready\n"


def test_from_cron(stored: Path) -> None:
    import subprocess

    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "IPFS_ACCELERATE_HOME": str(stored)}
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from accel.cli import main; main()"
    for words in (["summary"], ["show", "last"], ["db", "status"], ["runs"], ["trend", "bert-base"], ["leaderboard"]):
        command = [sys.executable, "-c", code, "report", *words]
        for more in ({}, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
            done = subprocess.run(
                command, env=environment | more, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, ""), words
            assert done.stdout.strip()
            if more:
                assert done.stdout.isascii()
                assert "\\u" not in done.stdout


def test_a_closed_pipe_is_silent(stored: Path) -> None:
    import subprocess

    command = f"{sys.executable} -m accel report summary --json | head -c 1"
    done = subprocess.run(
        command,
        shell=True,
        env={**os.environ, "IPFS_ACCELERATE_HOME": str(stored)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("{", "")
