"""Results of bulk runs on disk: whole lines, resumable, never overwritten."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from accel.core.errors import InputError
from accel.core.outputs import dumps, open_writer

SCHEMA = "test/1"


def fill(path: Path, first: int, count: int, *, resume: bool = False) -> int:
    writer = open_writer(path, SCHEMA, resume=resume)
    for index in range(first, first + count):
        writer.write(index, {"text": f"answer {index}"}, None)
    writer.write(first + count, None, InputError("bad\nline", "mend it"))
    writer.close(complete=True)
    return writer.done


def test_json_lines_hold_answers_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    fill(path, 0, 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert lines[0] == {"schema": SCHEMA, "index": 0, "output": {"text": "answer 0"}}
    assert lines[2]["output"] is None and lines[2]["error"]["message"] == "bad\nline"


@pytest.mark.parametrize("name", ["o.jsonl", "o.csv"])
def test_a_torn_last_line_is_cut_off_and_the_run_goes_on_after_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    fill(path, 0, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    writer = open_writer(path, SCHEMA, resume=True)
    assert writer.done == 3
    writer.write(3, {"text": "again"}, None)
    writer.close(complete=True)
    assert path.read_bytes().startswith(whole[: whole[:-5].rindex(b"\n") + 1])
    assert b"again" in path.read_bytes().splitlines()[-1]


def test_csv_stays_one_line_per_input(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    writer = open_writer(path, SCHEMA, resume=False)
    writer.write(0, {"text": 'two\nlines, "quoted"'}, None)
    writer.write(1, {"labels": [{"label": "a", "score": 0.5}]}, None)
    writer.close(complete=True)
    assert len(path.read_text().splitlines()) == 3
    rows = list(csv.DictReader(path.open()))
    assert json.loads(rows[0]["output"])["text"] == 'two\nlines, "quoted"'
    assert json.loads(rows[1]["output"])["labels"][0]["label"] == "a"


def test_parquet_appears_when_complete(tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    path = tmp_path / "o.parquet"
    writer = open_writer(path, SCHEMA, resume=False)
    writer.write(0, {"text": "a"}, None)
    writer.flush()
    writer.write(1, None, InputError("bad", ""))
    assert not path.exists()
    writer.close(complete=True)
    assert parquet.read_table(path).to_pylist() == [
        {"index": 0, "output": {"text": "a"}, "error": None},
        {"index": 1, "output": None, "error": "bad"},
    ]


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("precious\n")
    with pytest.raises(InputError, match="exists already"):
        open_writer(path, SCHEMA, resume=False)
    assert path.read_text() == "precious\n"


@pytest.mark.parametrize("name", ["o.xyz", "o", "missing/o.jsonl"])
def test_unusable_destinations_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        open_writer(tmp_path / name, SCHEMA, resume=False)


def test_numbers_keep_their_precision() -> None:
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    back = np.asarray(json.loads(dumps({"v": values}))["v"], np.float32)
    assert (back == values).all()
