"""Results under many processes, killed processes, locks, and disks that are full or read-only."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from accel.core import results, spool
from accel.core.errors import TransferError
from tests import disks

ROOT = Path(__file__).parents[2]
RECORD = {"kind": "run", "model_name": "bert-base", "hardware_type": "cpu", "inference_time": 0.01}


def start(code: str, **more: object) -> subprocess.Popen[str]:
    """A process that runs Python code with `results` at hand."""
    whole = "import os, signal, sys, time\nfrom accel.core import results, merging, schema, spool\n" + textwrap.dedent(
        code
    )
    return subprocess.Popen(
        [sys.executable, "-c", whole], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def stored() -> list[str]:
    with results.open_reader(wait_s=30) as con:
        return [str(row[0]) for row in con.execute("SELECT id FROM benchmark_results ORDER BY seq").fetchall()]


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("spool.Spool.finish = lambda *_: KILL", id="between commit and removal from the spool"),
        pytest.param("merging._insert = lambda *_: KILL", id="between taking the spool and the first row"),
        pytest.param(
            "insert = merging._insert\nmerging._insert = lambda *a: (insert(*a), KILL)", id="rows in, not committed"
        ),
        pytest.param("schema._take = lambda *_, **__: KILL", id="database without a table"),
        pytest.param(
            "take = schema._take\nschema._take = lambda *a, **k: (take(*a, **k), KILL)",
            id="database of the first schema",
        ),
        pytest.param("os.fsync = lambda _: KILL", id="database made, not in its place"),
    ],
)
def test_a_merge_killed_at_a_bad_moment_loses_and_doubles_nothing(moment: str) -> None:
    made = results.append_all([RECORD] * 50)
    child = start(moment.replace("KILL", KILL) + "\nresults.merge()")
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    made.append(results.append(RECORD))
    results.merge()
    assert sorted(stored()) == sorted(made)
    assert results.spool_size() == 0


def random_kills(rounds: int, seed: int) -> None:
    """Kills an appending and a merging process at random moments; every acknowledged result has to be there once."""
    moments = random.Random(seed)
    said = Path(os.environ["IPFS_ACCELERATE_HOME"]).parent / f"acknowledged-{seed}"
    for _ in range(rounds):
        with said.open("a") as acknowledged:
            before = said.stat().st_size
            writer = start(
                f"record = {RECORD!r}\nwhile True: os.write(3, (results.append(record) + '\\n').encode())",
                preexec_fn=lambda to=acknowledged.fileno(): os.dup2(to, 3),
                pass_fds=(3,),
            )
            merger = start("while True: results.merge(wait_s=30)")
            while said.stat().st_size == before and writer.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.4))
            for child in (merger, writer) if moments.random() < 0.5 else (writer, merger):
                child.kill()
            assert (writer.communicate(timeout=60), merger.communicate(timeout=60)) == (("", ""), ("", ""))
    promised = [line for line in said.read_text().splitlines() if len(line) == 36]
    found = stored()
    assert len(found) == len(set(found))
    assert set(promised) <= set(found)
    # a writer may be killed between its record and its word that it is there
    assert len(found) - len(promised) <= rounds


def test_kills_at_random_moments_lose_nothing() -> None:
    random_kills(8, seed=1)


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments_lose_nothing() -> None:
    random_kills(100, seed=2)


def crowd(writers: int, readers: int, each: int) -> None:
    going = Path(os.environ["IPFS_ACCELERATE_HOME"]) / "going"
    going.parent.mkdir(parents=True, exist_ok=True)
    going.touch()
    watching = [
        start(
            f"""
            seen = 0
            rounds = 0
            while True:
                last = not os.path.exists({str(going)!r})
                with results.open_reader(wait_s=60) as con:
                    now = con.execute("SELECT count(*) FROM benchmark_results").fetchone()[0]
                assert now >= seen, (now, seen)
                seen, rounds = now, rounds + 1
                if last:
                    break
            print(seen, rounds)
            """
        )
        for _ in range(readers)
    ]
    writing = [
        start(
            f"""
            ids = [results.append({RECORD!r}) for _ in range({each})]
            if {number} % 8 == 0:
                results.merge(wait_s=60)
            print(" ".join(ids))
            """
        )
        for number in range(writers)
    ]
    made = []
    for child in writing:
        out, err = child.communicate(timeout=200)
        assert (child.returncode, err) == (0, "")
        made += out.split()
    going.unlink()
    for child in watching:
        out, err = child.communicate(timeout=200)
        assert (child.returncode, err) == (0, "")
        assert int(out.split()[0]) == len(made)
    assert len(made) == writers * each
    assert sorted(stored()) == sorted(made)


def test_eight_writers_and_two_readers_at_once() -> None:
    crowd(8, 2, 10)


@pytest.mark.slow
def test_thirty_two_writers_and_four_readers_at_once() -> None:
    crowd(32, 4, 25)


def test_a_merge_waits_until_another_program_closes_the_database() -> None:
    results.append(RECORD)
    results.merge()
    results.append(RECORD)
    holder = start(
        f"import duckdb\ncon = duckdb.connect({str(results.database())!r})\nprint('open', flush=True)\ntime.sleep(0.7)"
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    assert results.merge(wait_s=30) == results.Merged(stored=1)
    holder.communicate(timeout=30)


def test_a_database_that_stays_locked_is_a_clear_error_and_nothing_is_lost() -> None:
    results.append(RECORD)
    results.merge()
    made = results.append(RECORD)
    code = (
        f"import duckdb\ncon = duckdb.connect({str(results.database())!r})\nprint('open', flush=True)\ntime.sleep(60)"
    )
    holder = start(code)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        started = time.monotonic()
        with pytest.raises(TransferError, match=rf"locked.*PID {holder.pid}") as caught:
            results.merge(wait_s=0.5)
        with pytest.raises(TransferError, match="locked"), results.open_reader(wait_s=0.5):
            pass
        assert time.monotonic() - started < 10
        assert caught.value.exit_code == 5
        another = results.append(RECORD)  # writers do not care
    finally:
        holder.kill()
        holder.communicate()
    assert stored()[1:] == [made, another]


def test_a_reader_can_read_while_others_read(isolated_home: Path) -> None:
    results.append(RECORD)
    results.merge()
    code = "with results.open_reader() as con: print('open', flush=True); sys.stdin.read()"
    other = start(code, stdin=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    results.append(RECORD)
    # the record cannot be merged while the other one reads, and is read where it waits
    with results.open_reader(wait_s=0.5) as con:
        assert con.execute("SELECT count(*), count(DISTINCT seq) FROM benchmark_results").fetchone() == (2, 2)
    assert results.spool_size() > 0
    other.communicate("")
    assert len(stored()) == 2


def test_a_stopped_writer_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "LOCK_WAIT_S", 0.2)
    first = results.append(RECORD)
    path = results.spool().folder / spool.INCOMING
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        second = results.append(RECORD)
        # what waits behind the lock is read where it lies
        assert sorted(stored()) == sorted([first, second])
        assert results.spool_size() > 0
    finally:
        os.close(handle)
    assert sorted(stored()) == sorted([first, second])
    assert results.spool_size() == 0


def limited(bytes_: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def test_a_record_that_the_disk_has_no_room_for_leaves_the_spool_whole() -> None:
    first = results.append(RECORD)
    size = results.spool_size()
    child = start(
        f"""
        from accel.core.errors import TransferError
        try:
            results.append({RECORD!r})
        except TransferError as error:
            print(error.exit_code, error.message, bool(error.hint))
        """,
        preexec_fn=lambda: limited(size + 50),
    )
    out, err = child.communicate(timeout=60)
    assert out.startswith("5 cannot keep the result"), err
    assert results.spool_size() == size
    second = results.append(RECORD)
    assert stored() == [first, second]


def test_a_merge_that_the_disk_has_no_room_for_keeps_the_spool() -> None:
    made = results.append_all([{**RECORD, "samples": [random.random() for _ in range(5000)]} for _ in range(20)])
    child = start(
        """
        from accel.core.errors import TransferError
        try:
            results.merge()
        except TransferError as error:
            print(error.exit_code, error.message)
        """,
        preexec_fn=lambda: limited(300_000),
    )
    out, err = child.communicate(timeout=60)
    assert out.startswith("5 there is no space to write the results database"), (out, err)
    assert sorted(stored()) == sorted(made)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.mounted(tmp_path / "disk", "3m") as folder:
        yield folder


def test_a_disk_that_fills_up_loses_nothing_that_was_acknowledged(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(small_disk / "home"))
    made = [results.append(RECORD)]
    results.merge()
    made += [results.append({**RECORD, "samples": [random.random() for _ in range(2000)]})]
    results.merge()
    ballast = disks.fill(small_disk)
    with pytest.raises(TransferError, match="No space left") as caught:
        while True:
            made.append(results.append({**RECORD, "metadata": {"text": "x" * 2000}}))
    assert caught.value.exit_code == 5
    with pytest.raises(TransferError):
        results.append_all([{**RECORD, "samples": [random.random() for _ in range(50000)]}])
    ballast.unlink()
    made.append(results.append(RECORD))
    assert sorted(stored()) == sorted(made)


def test_a_merge_on_a_full_disk_fails_clearly_and_works_once_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(small_disk / "home"))
    made = results.append_all([{**RECORD, "samples": [random.random() for _ in range(2000)]} for _ in range(10)])
    ballast = disks.fill(small_disk)
    with pytest.raises(TransferError, match="space"):
        results.merge()
    ballast.unlink()
    assert sorted(stored()) == sorted(made)


def test_a_read_only_home_can_be_read_and_refuses_results_clearly(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(small_disk / "home"))
    made = [results.append(RECORD)]
    results.merge()
    made.append(results.append(RECORD))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        assert stored() == made  # what waits cannot be merged, and is read where it waits
        with pytest.raises(TransferError, match="Read-only") as caught:
            results.append(RECORD)
        assert "IPFS_ACCELERATE_HOME" in caught.value.hint
        with pytest.raises(TransferError, match=r"(?i)read-only|cannot lock"):
            results.merge()
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert len(stored()) == 2


def test_a_cron_job_keeps_its_result(isolated_home: Path) -> None:
    code = (
        "from accel.core import results; results.append({'kind': 'run', 'model_name': 'gr\\u00fcn'}); results.merge()"
    )
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "IPFS_ACCELERATE_HOME": str(isolated_home)}
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    done = subprocess.run(command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with duckdb.connect(str(results.database()), read_only=True) as con:
        assert con.execute("SELECT model_name FROM benchmark_results").fetchall() == [("grün",)]
