"""Copies, checks, exports, merges and bundles: nothing twice, nothing lost, nothing taken on trust."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from accel.core import results, schema
from accel.core.errors import InputError, TransferError
from accel.core.report import bundling, exporting, joining, maintenance, reading, runs
from accel.core.report.reading import Filter
from tests.core.report.history import keep, record, sweep_id

ONE, TWO = sweep_id("one"), sweep_id("two")


def ids() -> list[str]:
    with results.open_reader() as con:
        return [row[0] for row in con.execute("SELECT id::VARCHAR FROM benchmark_results ORDER BY seq").fetchall()]


def series() -> int:
    with results.open_reader() as con:
        row = con.execute("SELECT count(*) FROM samples").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def elsewhere(tmp_path: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of another machine with two sweeps; this one has the first of them."""
    first = [record(0.010, ONE, timestamp=1.7e9), record(0.020, ONE, engine="torch", timestamp=1.7e9)]
    keep(first)
    other = tmp_path / "other"
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(other))
    keep(first)
    keep([record(0.011, TWO, environment={"fingerprint": "e" * 16}), record(None, TWO, batch=8, cause="crash")])
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(isolated_home))
    return other


def test_merging_takes_what_is_new_once(elsewhere: Path) -> None:
    before = ids()
    done = joining.join(str(elsewhere / "results.duckdb"))
    assert (done.stored, done.known) == (2, 2)
    after = ids()
    assert after[:2] == before
    assert len(set(after)) == len(after) == 4
    with_samples = series()
    again = joining.join(str(elsewhere))  # the home folder will do as well
    assert (again.stored, again.known) == (0, 4)
    assert (ids(), series()) == (after, with_samples)


def test_merging_takes_what_waits_in_the_spool_beside_it(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.setenv("IPFS_ACCELERATE_HOME", str(elsewhere))
        waiting = results.append(record(0.012, sweep_id("three")))
    assert joining.join(str(elsewhere)).stored == 3
    assert waiting in ids()


def test_merging_an_older_database_leaves_that_file_as_it_was(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.setenv("IPFS_ACCELERATE_HOME", str(elsewhere))
        with results.open_writer() as con:
            schema.migrate(con, 2)
    path = elsewhere / "results.duckdb"
    before = path.read_bytes()
    assert joining.join(str(path)).stored == 2
    assert path.read_bytes() == before
    with results.open_reader() as con:
        assert con.execute("SELECT cause FROM benchmark_results WHERE status <> 'ok'").fetchall() == [("crash",)]


def test_merging_into_nothing_makes_a_database(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "fresh"))
    assert joining.join(str(elsewhere)).stored == 4


def truncated(path: Path) -> None:
    os.truncate(path, 15_000)


def newer(path: Path) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute("INSERT INTO schema_version VALUES (99, 'm0099', now())")


def foreign(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE theirs (i INTEGER)")


def text(path: Path) -> None:
    path.write_text("this is no database")


@pytest.mark.parametrize("harm", [truncated, newer, foreign, text])
def test_a_database_that_cannot_be_merged_changes_nothing(elsewhere: Path, harm: Any) -> None:
    path = elsewhere / "results.duckdb"
    harm(path)
    before = ids()
    with pytest.raises(TransferError) as caught:
        joining.join(str(path))
    if harm in (truncated, text):
        assert str(path) in caught.value.message
    assert ids() == before


def test_a_database_that_somebody_writes_is_not_merged(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    path = elsewhere / "results.duckdb"
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    monkeypatch.setattr(joining, "WAIT_S", 0.2)
    try:
        with pytest.raises(TransferError, match="locked"):
            joining.join(str(path))
    finally:
        holder.communicate("")
    assert joining.join(str(path)).stored == 2


def test_our_own_database_and_what_is_none_are_refused(isolated_home: Path, tmp_path: Path) -> None:
    keep([record(0.01, ONE)])
    for other in (results.database(), isolated_home, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError):
            joining.join(str(other))


def made(name: str = "last") -> bundling.Bundle:
    found, _ = reading.read(lambda con: bundling.gather(con, [runs.find(con, name, samples=False)]))
    return bundling.make(found)


def test_the_same_results_make_the_same_content_id_on_every_machine(
    elsewhere: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bundling.store(made(ONE))
    with monkeypatch.context() as there:
        there.setenv("IPFS_ACCELERATE_HOME", str(elsewhere))
        assert bundling.store(made(ONE)).cid == here.cid
        assert bundling.store(made(TWO)).cid != here.cid
    assert here.cid.startswith("baf")


def test_a_bundle_is_pinned_and_merged_elsewhere(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setenv("IPFS_ACCELERATE_HOME", str(elsewhere))
        stored = bundling.store(made(TWO), tmp_path / "bundle")
        from accel.core.content import pinning

        assert [item.pin.name for item in pinning.listing()] == [f"bundle-{TWO[:12]}"]
    assert stored.manifest["models"][0]["digest"] == "d" * 64
    assert stored.manifest["environments"][0]["fingerprint"] == "e" * 16
    shutil.copytree(elsewhere / "content", results.database().parent / "content")
    by_cid = joining.join(stored.cid, offline=True)
    assert (by_cid.stored, by_cid.known) == (2, 0)
    by_folder = joining.join(str(tmp_path / "bundle"))
    assert (by_folder.stored, by_folder.known) == (0, 2)
    found, _ = reading.read(lambda con: runs.find(con, TWO))
    assert [len(cell.samples["inference_time"]) > 100 for cell in found.measured] == [True]


def test_a_bundle_names_the_content_of_models_that_are_pinned(isolated_home: Path, tmp_path: Path) -> None:
    from accel.core.content import pinning
    from accel.core.content.settings import Settings

    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(b"w" * 1000)
    pinned = pinning.pin(pinning.Request(str(model)), Settings.current(offline=True))
    keep(
        [
            record(0.01, ONE, model=str(model)),
            record(0.01, ONE, model=str(model), weights="random"),
            record(0.01, ONE, model="another"),
        ]
    )
    assert {(m["model"], m["weights"]): m["cid"] for m in made().manifest["models"]} == {
        (str(model), "pretrained"): pinned.pin.cid,
        (str(model), "random"): None,
        ("another", "pretrained"): None,
    }


def test_a_bundle_that_was_tampered_with_is_refused(isolated_home: Path, tmp_path: Path) -> None:
    keep([record(0.01, ONE)])
    bundle = made()
    folder = tmp_path / "bundle"
    bundling.store(bundle, folder)
    lines = folder / bundling.RECORDS
    lines.write_bytes(lines.read_bytes().replace(b'"batch":1', b'"batch":2'))
    with pytest.raises(TransferError, match="not those"):
        joining.join(str(folder))
    # a manifest that fits does not make a record of what is none
    record_ = json.loads(bundle.lines)
    wrong = bundling.Bundle({**bundle.manifest}, json.dumps({**record_, "batch": "many"}).encode() + b"\n")
    import hashlib

    wrong.manifest["sha256"] = hashlib.sha256(wrong.lines).hexdigest()
    wrong.write(folder)
    with pytest.raises(TransferError, match="batch is not a whole number"):
        joining.join(str(folder))
    assert len(ids()) == 1


def test_paths_of_this_machine_do_not_travel(isolated_home: Path) -> None:
    keep([record(0.01, ONE, environment={"interpreter": "/home/me/bin/python", "path": ["/home/me/lib"]})])
    bundle = made()
    assert b"/home/me" not in bundle.lines
    assert "/home/me" not in json.dumps(bundle.manifest)


def test_exports_hold_every_result(isolated_home: Path, tmp_path: Path) -> None:
    keep([record(0.010, ONE), record(None, ONE, batch=8, cause="crash", reason='it said "no",\nand | left')])

    def write(form: str, **more: Any) -> Path:
        path = tmp_path / f"out.{form}"
        reading.read(lambda con: exporting.write(con, Filter(), form, path, **more))
        return path

    with write("csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert float(good["latency_ms"]) == pytest.approx(10.0, rel=0.01)
    assert float(good["latency_low_ms"]) < float(good["latency_ms"]) < float(good["latency_high_ms"])
    assert (bad["status"], bad["reason"]) == ("failed", 'it said "no",\nand | left')
    document = json.loads(write("json", samples=True).read_text())
    assert document["schema"] == "accel.results/1"
    assert [len(entry["samples"].get("inference_time", [])) > 100 for entry in document["results"]] == [True, False]
    parquet = write("parquet", samples=True)
    rows = duckdb.sql(
        f"SELECT batch, len(samples_s['inference_time']) > 100 FROM '{parquet}' ORDER BY batch"
    ).fetchall()
    assert rows == [(1, True), (8, None)]
    lines = write("markdown").read_text().splitlines()
    assert len(lines) == 4
    assert all(line.replace("\\|", "").count("|") == 11 for line in lines)


def test_what_is_exported_to_json_can_be_appended_again(isolated_home: Path, tmp_path: Path) -> None:
    keep([record(0.010, ONE)])
    path = tmp_path / "out.json"
    reading.read(lambda con: exporting.write(con, Filter(), "json", path, samples=True))
    results.append_all(json.loads(path.read_text())["results"])
    assert results.merge().known == 1


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), exporting.replacing(target) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_backup_is_a_whole_database(isolated_home: Path, tmp_path: Path) -> None:
    keep([record(0.010, ONE)])
    results.append(record(0.010, TWO))
    done = maintenance.backup(tmp_path / "copy.duckdb")
    assert done.results == 2
    with pytest.raises(InputError, match="already"):
        maintenance.backup(tmp_path / "copy.duckdb")
    keep([record(0.010, sweep_id("three"))])
    assert maintenance.backup(tmp_path / "copy.duckdb", force=True).results == 3
    with pytest.raises(InputError):
        maintenance.backup(results.database(), force=True)
    automatic = maintenance.backup()
    assert automatic.path.parent == isolated_home / "backups"
    assert maintenance.status()["backups"] == [str(automatic.path)]
    results.database().unlink()
    shutil.copy(automatic.path, results.database())
    assert len(ids()) == 3


def test_a_backup_of_a_damaged_database_is_none(isolated_home: Path, tmp_path: Path) -> None:
    keep([record(0.010, ONE)])
    os.truncate(results.database(), 30_000)
    with pytest.raises(TransferError):
        maintenance.backup(tmp_path / "copy.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_a_check_finds_flipped_bytes_and_what_does_not_fit(isolated_home: Path) -> None:
    keep([record(0.010, ONE), record(0.020, ONE, batch=8)])
    assert maintenance.check().sound
    with results.open_writer() as con:
        con.execute("DELETE FROM samples WHERE id IN (SELECT id FROM benchmark_results WHERE batch = 8)")
    found = maintenance.check()
    assert [problem for problem in found.problems if "1 results lack the samples" in problem]
    path = results.database()
    data = bytearray(path.read_bytes())
    place = data.find(b"steady")
    assert place > 0
    data[place] ^= 0xFF
    path.write_bytes(data)
    assert any("damaged" in problem for problem in maintenance.check().problems)


def test_a_way_down_is_copied_before(isolated_home: Path) -> None:
    keep([record(0.010, ONE)])
    done = maintenance.migrate(1)
    assert done.steps == ((3, 2), (2, 1))
    assert done.backup is not None
    assert maintenance.status()["state"] == "old"
    up = maintenance.migrate()
    assert (up.steps, up.backup) == (((1, 2), (2, 3)), None)
    with pytest.raises(InputError):
        maintenance.migrate(99)
    assert series() == 0  # samples have no place in schema 1
    shutil.copy(done.backup, results.database())
    assert series() > 0
