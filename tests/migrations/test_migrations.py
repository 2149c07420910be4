"""Every step goes up, down and up again without losing rows that the older schema can hold."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from accel.core import results, schema
from accel.core.contracts import Migration
from accel.core.errors import TransferError

STEPS = schema.migrations()
DATA = Path(__file__).parents[1] / "data" / "results"


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        yield opened


def shape(con: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Tables, columns, types, constraints and indexes, as far as they are ours."""
    columns = con.execute(
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM duckdb_columns()"
        " WHERE NOT internal AND table_name <> 'schema_version' ORDER BY ALL"
    ).fetchall()
    constraints = con.execute(
        "SELECT table_name, constraint_type, constraint_column_names::VARCHAR FROM duckdb_constraints()"
        " WHERE table_name <> 'schema_version' ORDER BY ALL"
    ).fetchall()
    sequences = con.execute("SELECT sequence_name FROM duckdb_sequences() ORDER BY ALL").fetchall()
    return [*columns, *constraints, *sequences]


def insert(con: duckdb.DuckDBPyConnection, count: int) -> None:
    con.execute(
        "INSERT INTO benchmark_results (id, timestamp, kind, model_name, metadata)"
        f" SELECT uuid(), now(), 'run', 'model ' || i, '{{}}' FROM range({count}) t(i)"
    )


def test_numbers_are_whole_and_without_a_gap() -> None:
    assert [step.number for step in STEPS] == list(range(1, len(STEPS) + 1))


def test_the_newest_schema_has_what_the_design_names(con: duckdb.DuckDBPyConnection) -> None:
    schema.migrate(con)
    types = dict(
        con.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'benchmark_results'"
        ).fetchall()
    )
    wanted = {
        "id": "UUID",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
        "model_name": "VARCHAR",
        "hardware_type": "VARCHAR",
        "inference_time": "DOUBLE",
        "throughput": "DOUBLE",
        "memory_usage": "BIGINT",
        "accuracy_score": "DOUBLE",
        "metadata": "JSON",
        "batch": "BIGINT",
        "precision": "VARCHAR",
        "engine": "VARCHAR",
        "fingerprint": "VARCHAR",
        "model_cid": "VARCHAR",
        "samples_id": "UUID",
    }
    assert {name: types.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("number", [step.number for step in STEPS])
def test_up_down_up(con: duckdb.DuckDBPyConnection, number: int) -> None:
    schema.migrate(con, number - 1)
    before = shape(con)
    if number > 1:
        insert(con, 3)
    rows = con.execute("SELECT id FROM benchmark_results ORDER BY seq").fetchall() if number > 1 else []
    assert schema.migrate(con, number) == [(number - 1, number)]
    after = shape(con)
    assert after != before
    assert schema.migrate(con, number - 1) == [(number, number - 1)]
    assert shape(con) == before
    schema.migrate(con, number)
    assert shape(con) == after
    if number > 1:
        assert con.execute("SELECT id FROM benchmark_results ORDER BY seq").fetchall() == rows
        insert(con, 2)
        assert con.execute("SELECT count(DISTINCT seq) FROM benchmark_results").fetchone() == (5,)


def test_all_the_way_down_and_up(con: duckdb.DuckDBPyConnection) -> None:
    schema.migrate(con)
    insert(con, 2)
    schema.migrate(con, 0)
    assert shape(con) == []
    assert schema.version(con) == 0
    schema.migrate(con)
    assert schema.version(con) == schema.latest()


def test_each_step_leaves_its_mark(con: duckdb.DuckDBPyConnection) -> None:
    schema.migrate(con)
    rows = con.execute("SELECT number, name, applied_at <= now() FROM schema_version ORDER BY number").fetchall()
    assert rows == [(step.number, type(step).__module__.rpartition(".")[2], True) for step in STEPS]
    assert schema.migrate(con) == []


class Failing(Migration):
    """Makes a table, then fails, both ways."""

    number = 3

    def up(self, con: Any) -> None:
        """Fails half way."""
        con.execute("CREATE TABLE half (i INTEGER)")
        con.execute("SELECT * FROM nowhere")

    def down(self, con: Any) -> None:
        """Fails half way."""
        con.execute("DROP TABLE half")
        con.execute("SELECT * FROM nowhere")


class Working(Failing):
    """The same without the failure."""

    def up(self, con: Any) -> None:
        """Makes a table."""
        con.execute("CREATE TABLE half (i INTEGER)")


def test_a_step_that_fails_changes_nothing(con: duckdb.DuckDBPyConnection) -> None:
    schema.migrate(con, 1)
    with pytest.raises(TransferError, match="up to schema 3"):
        schema.migrate(con, 3, [*STEPS[:2], Failing()])
    # the step before it is done and recorded, the failed one is neither
    assert schema.version(con) == 2
    assert not con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'half'").fetchall()
    schema.migrate(con, 3, [*STEPS[:2], Working()])
    with pytest.raises(TransferError, match="down from schema 3"):
        schema.migrate(con, 2, [*STEPS[:2], Failing()])
    assert schema.version(con) == 3
    assert con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'half'").fetchall() == [(1,)]


def test_an_unknown_version_is_refused(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(TransferError, match="no schema 99"):
        schema.migrate(con, 99)


def test_records_of_a_downgraded_database_survive_the_way_back() -> None:
    made = results.append({"kind": "run", "model_name": "a", "samples": [1.0, 2.0]})
    with results.open_writer() as con:
        schema.migrate(con, 1)
        assert [str(row[0]) for row in con.execute("SELECT id FROM benchmark_results").fetchall()] == [made]
    with results.open_reader() as con:
        assert schema.version(con) == schema.latest()
        assert con.execute("SELECT model_name FROM benchmark_results").fetchall() == [("a",)]


@pytest.mark.parametrize("number", [1, 2])
def test_a_real_older_file_is_brought_up_with_all_that_it_holds(number: int, isolated_home: Path) -> None:
    """The files were written by the accel of that schema, before reports existed."""
    old = gzip.decompress((DATA / f"schema-{number}.duckdb.gz").read_bytes())
    isolated_home.joinpath("results.duckdb").write_bytes(old)
    with results.open_as_it_is() as opened:
        assert schema.version(opened) == number
    with results.open_reader() as opened:
        assert schema.version(opened) == schema.latest()
        rows = opened.execute(
            "SELECT model_name, status, cause, sweep, cell, variant, weights, inference_time FROM benchmark_results"
            " ORDER BY seq"
        ).fetchall()
        samples = opened.execute("SELECT count(*) FROM samples").fetchone()
    sweep, key = "a" * 32, "bert-base / embedding / cpu:0 / "
    assert rows == [
        ("bert-base", "ok", None, sweep, f"{key}onnxruntime / fp32 / batch 1 / length 128", "", "pretrained", 0.01),
        ("bert-base", "failed", "crash", sweep, f"{key}torch / int8 / dynamic / batch 1", "dynamic", "random", None),
        ("grün", "ok", None, None, None, "weights", None, 0.5),
    ]
    assert samples == ((0,) if number == 1 else (2,))
    results.append({"kind": "run", "model_name": "new"})
    with results.open_writer() as opened:
        schema.migrate(opened, number)
        assert shape(opened) == shape_of(number)
        assert opened.execute("SELECT count(*) FROM benchmark_results").fetchone() == (4,)


def shape_of(number: int) -> list[tuple[Any, ...]]:
    with duckdb.connect(":memory:") as fresh:
        schema.migrate(fresh, number)
        return shape(fresh)
