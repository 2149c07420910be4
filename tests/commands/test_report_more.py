"""`accel report`: judging and sharing through the real command, crowds, full disks."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.core import results
from tests import disks
from tests.core.report.history import keep, record, sweep_id
from tests.program import ACCEL, accel, environment, succeed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stored(isolated_home: Path) -> Path:
    """Twelve nights of one cell, slower from the seventh on, beside a faster and less accurate one."""
    keep(
        [
            made
            for night in range(12)
            for made in (
                record(
                    0.010 * (1.2 if night >= 6 else 1.0),
                    sweep_id(f"night {night}"),
                    seed=night,
                    environment={"commit": ("b" if night >= 6 else "a") * 40},
                ),
                record(0.004, sweep_id(f"night {night}"), seed=night, precision="int8", cosine=0.998),
            )
        ]
    )
    return isolated_home


def document(*words: str, home: Path) -> dict[str, object]:
    return dict(json.loads(succeed("report", *words, "--json", home=home).stdout))


@pytest.mark.parametrize(
    "words",
    [
        ("summary",),
        ("runs",),
        ("show", "last"),
        ("compare", "last~11", "last"),
        ("trend", "bert-base"),
        ("leaderboard",),
        ("recommend",),
        ("storage", "--offline"),
        ("db", "status"),
        ("db", "check"),
    ],
)
def test_every_answer_has_three_forms(stored: Path, words: tuple[str, ...]) -> None:
    human = succeed("report", *words, home=stored).stdout
    assert human.strip()
    tables = [line for line in human.splitlines() if "──" in line]
    assert all(len(line) <= 80 for line in tables)
    found = document(*words, home=stored)
    assert str(found["schema"]).startswith("accel.report-")
    assert "NaN" not in json.dumps(found)
    quiet = succeed("report", *words, "--quiet", home=stored).stdout
    assert len(quiet) < len(human) or words[0] == "runs"


def test_a_trend_in_words(stored: Path) -> None:
    said = succeed("report", "trend", "bert-base", home=stored).stdout
    assert "commit: aaaaaaaaaaaa -> bbbbbbbbbbbb" in said
    assert "slower" in said
    assert "no change of level" in said  # of the other cell


def test_a_recommendation_can_be_typed(stored: Path) -> None:
    said = succeed("report", "recommend", "--quiet", home=stored).stdout
    assert said == "bert-base\taccel run bert-base --hw cpu:0 --engine onnxruntime --precision fp32\n"
    said = succeed("report", "recommend", "--quiet", "--tolerance", "0.99", home=stored).stdout
    assert said.endswith("--precision int8\n")


def test_costs_follow_the_configuration(stored: Path) -> None:
    price = ("--set", "performance.price_per_hour=cpu=3.6")
    (device,) = document("leaderboard", *price, home=stored)["devices"]  # type: ignore[misc]
    assert device["ranked"][0]["cost_per_million"] == pytest.approx(12.0, rel=0.05)
    assert accel("report", "recommend", "--goal", "cost", home=stored).returncode == 2
    succeed("report", "recommend", "--goal", "cost", *price, home=stored)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("compare", "last", "nothing"), "accel report runs"),
        (("recommend", "--goal", "beauty"), "latency, throughput, memory, cost"),
        (("export", "--format", "xls"), "csv, json, parquet, markdown, html"),
        (("trend", "bert-base", "--threshold", "much"), "3%"),
        (("merge", "/nowhere"), "results.duckdb"),
        (("db", "migrate", "--schema", "77"), "known: 1, 2, 3"),
        (("bundle", "nothing"), "accel report runs"),
    ],
)
def test_wrong_usage_is_told_what_to_try(stored: Path, words: tuple[str, ...], says: str) -> None:
    done = accel("report", *words, home=stored)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.mark.parametrize("form", ["csv", "json", "markdown", "html", "parquet"])
def test_an_export_is_the_same_on_standard_output_and_in_a_file(stored: Path, form: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    succeed("report", "export", "--format", form, "--output", target, home=stored)
    done = subprocess.run(
        [*ACCEL, "report", "export", "--format", form], env=environment(stored), cwd=ROOT, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    if form == "html":  # has the minute in it
        assert abs(len(done.stdout) - target.stat().st_size) < 50
    else:
        assert done.stdout == target.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_from_one_machine_to_another_by_content_id(stored: Path, tmp_path: Path) -> None:
    cid = succeed("report", "bundle", "last", "last~1", "--quiet", home=stored).stdout.strip()
    car = tmp_path / "bundle.car"
    succeed("pin", "export", cid, car, home=stored)
    other = tmp_path / "other"
    succeed("pin", "import", car, "--offline", home=other)
    found = document("merge", cid, "--offline", home=other)
    assert (found["stored"], found["known"]) == (4, 0)
    assert document("merge", cid, "--offline", home=other)["known"] == 4
    assert succeed("report", "show", sweep_id("night 11"), "--quiet", home=other).stdout.count("\n") == 2


def crowd(home: Path, writers: int, readers: int, each: int) -> None:
    """Writers append and merge as `accel bench` does while readers ask for the summary; nobody may fail."""
    writing = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from accel.core import results
        from accel.core.errors import TransferError
        for n in range({each}):
            record = {{"kind": "bench", "model_name": "m", "inference_time": 0.01, "samples": [0.01] * 50}}
            print(results.append(record))
        try:
            results.merge(wait_s=240.0)
        except TransferError as error:
            print("waits:", error.message, file=sys.stderr)
        """
    )
    reading = textwrap.dedent(
        """
        import subprocess, sys
        last = -1
        for _ in range(4):
            done = subprocess.run([*sys.argv[1:], "report", "summary", "--quiet"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            count = int(done.stdout)
            assert count >= last, (count, last)
            last = count
        """
    )
    where = environment(home)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": where, "cwd": ROOT}
    started = [subprocess.Popen([sys.executable, "-c", writing], **pipes) for _ in range(writers)]  # type: ignore[call-overload]
    watching = [subprocess.Popen([sys.executable, "-c", reading, *ACCEL], **pipes) for _ in range(readers)]  # type: ignore[call-overload]
    made = set()
    for child in started:
        out, err = child.communicate(timeout=280)
        assert (child.returncode, err) == (0, "")
        made |= set(out.split())
    for child in watching:
        out, err = child.communicate(timeout=280)
        assert (child.returncode, err) == (0, "")
    with results.open_reader() as con:
        rows = con.execute("SELECT id::VARCHAR FROM benchmark_results").fetchall()
    assert {row[0] for row in rows} == made
    assert len(rows) == len(made) == writers * each


def test_six_writers_and_two_readers(isolated_home: Path) -> None:
    crowd(isolated_home, 6, 2, 5)


@pytest.mark.slow
def test_thirty_two_writers_and_four_readers(isolated_home: Path) -> None:
    crowd(isolated_home, 32, 4, 20)


def test_a_writer_never_waits_for_a_report_that_is_open(stored: Path) -> None:
    code = "with results.open_reader() as con: print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import sys; from accel.core import results\n{code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(stored),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    results.append(record(0.01, sweep_id("while it reads")))
    # and another report sees it at once, though it cannot be merged
    assert succeed("report", "summary", "--quiet", home=stored).stdout == "25\n"
    assert results.spool_size() > 0
    holder.communicate("")
    assert succeed("report", "summary", "--quiet", home=stored).stdout == "25\n"
    assert results.spool_size() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.mounted(tmp_path / "disk", "8m") as folder:
        yield folder


def test_on_a_full_disk_results_can_be_read_and_nothing_half_is_left(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = small_disk / "home"
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(home))
    keep([record(0.01, sweep_id("one"))])
    results.append(record(0.01, sweep_id("two")))
    ballast = disks.fill(small_disk)
    assert succeed("report", "summary", "--quiet", home=home).stdout == "2\n"
    for form in ("csv", "json", "html", "parquet"):
        done = accel("report", "export", "--format", form, "--output", small_disk / "out", home=home)
        assert done.returncode == 5, done.stderr
        assert "space" in done.stderr
    assert accel("report", "db", "backup", home=home).returncode == 5
    other = tmp_path / "other"
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(other))
    keep([record(0.01, sweep_id(f"other {n}"), count=400) for n in range(40)])
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(home))
    done = accel("report", "merge", other / "results.duckdb", home=home)
    assert done.returncode == 5, done.stdout
    left = {path.name for path in small_disk.iterdir()} | {path.name for path in (home / "backups").glob("*")}
    assert left == {"home", "ballast"}
    ballast.unlink()
    assert succeed("report", "summary", "--quiet", home=home).stdout == "2\n"
    assert succeed("report", "db", "check", "--quiet", home=home).stdout == "sound\n"


def test_a_read_only_home_shows_the_database_and_the_spool(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = small_disk / "home"
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(home))
    keep([record(0.01, sweep_id("one"))])
    results.append(record(0.02, sweep_id("two")))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        assert succeed("report", "summary", "--quiet", home=home).stdout == "2\n"
        assert json.loads(succeed("report", "show", "last", "--json", home=home).stdout)["run"] == sweep_id("two")
        status = json.loads(succeed("report", "db", "status", "--json", home=home).stdout)
        assert (status["state"], status["writable"], status["spool_results"]) == ("ready", False, 1)
        assert accel("report", "db", "migrate", home=home).returncode == 5
        assert succeed("report", "export", "--format", "csv", home=home).stdout.count("\n") == 3
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
