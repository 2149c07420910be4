"""`accel compat` as its user meets it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from accel.core.catalogue import DATA
from tests.program import accel, succeed

KEYS = {"model", "device", "verdict", "score", "confidence", "reasons", "requirements", "change", "memory_bytes"}
VERDICTS = {"runs", "runs with changes", "does not"}


def folder(where: Path, name: str, **changes: Any) -> Path:
    """A small BERT's configuration, without weights."""
    config = json.loads((DATA / "configs" / "bert-base" / "config.json").read_text())
    config |= {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config |= {"vocab_size": 1000, "max_position_embeddings": 128} | changes
    path = where / name
    path.mkdir()
    config = {key: value for key, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the operators of the small model are known."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def small(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, looked at once."""
    path = folder(tmp_path_factory.mktemp("models"), "small")
    succeed("compat", path, "--hw", "cpu", "--quiet", home=shared)
    return path


def cells(*arguments: object, home: Path, status: int = 0) -> list[dict[str, Any]]:
    done = accel("compat", *arguments, "--json", home=home)
    assert done.returncode == status, done.stderr
    data = json.loads(done.stdout)
    assert data["schema"] == "accel.compat/1"
    found: list[dict[str, Any]] = data["cells"]
    return found


def test_cells(shared: Path, small: Path) -> None:
    """Every model on every device, with the keys that the document promises."""
    found = cells(small, "--hw", "cpu,cuda:h100,mps:m4", home=shared)
    assert {cell["device"] for cell in found} == {"cpu:0", "cuda:h100", "mps:m4"}
    for cell in found:
        assert cell.keys() >= KEYS and cell["verdict"] in VERDICTS
        assert 0 <= cell["score"] <= 1 and 0 <= cell["confidence"] <= 1 and cell["reasons"]
    assert all(cell["verdict"] == "runs" for cell in found)


def test_people_get_eighty_columns(shared: Path, small: Path) -> None:
    """No line of the result is longer, commands apart, which have to be copied."""
    done = accel("compat", small, "--hw", "cpu,cuda:h100", "--memory-limit", "1GB", home=shared, COLUMNS="80")
    lines = [line for line in done.stdout.splitlines() if not line.strip().startswith("accel run")]
    assert max(map(len, lines)) <= 80
    assert "cuda:h100" in done.stdout and "verdict" in done.stdout


def test_a_limit_that_nothing_fits_into_is_status_4(shared: Path, small: Path) -> None:
    """Everything is printed first; the error names the model and the devices."""
    done = accel("compat", small, "--hw", "cpu", "--memory-limit", "40MB", "--json", home=shared)
    assert done.returncode == 4
    assert [cell["verdict"] for cell in json.loads(done.stdout)["cells"]] == ["does not"]
    error = json.loads(done.stderr.strip().splitlines()[-1])
    assert error["exit_code"] == 4 and "cpu:0" in error["message"]


def test_one_device_is_enough(shared: Path, small: Path) -> None:
    """A model that runs somewhere is no failure of a CI step."""
    found = cells(small, "--hw", "cpu,webnn:npu-155h", home=shared)
    assert {cell["device"]: cell["verdict"] for cell in found}["webnn:npu-155h"] == "does not"


def test_a_model_that_cannot_be_is_a_row_of_its_own(shared: Path, small: Path, tmp_path: Path) -> None:
    """Unknown architectures, absurd sizes, missing fields and remote code do not stop the others."""
    broken = [
        folder(tmp_path, "unknown", model_type="florgle", architectures=["FlorgleModel"]),
        folder(tmp_path, "absurd", num_hidden_layers=10**9),
        folder(tmp_path, "missing", model_type=None, architectures=None),
        folder(tmp_path, "remote", auto_map={"AutoModel": "evil.Model"}),
    ]
    (broken[3] / "evil.py").write_text("raise SystemExit('it ran')\n")
    found = cells(small, *broken, "--hw", "cpu", home=shared, status=4)
    by_name = {Path(cell["model"]).name: cell for cell in found}
    assert by_name["small"]["verdict"] == "runs"
    said = {"unknown": "florgle", "absurd": "num_hidden_layers", "missing": "model_type", "remote": "Python code"}
    for name, words in said.items():
        assert by_name[name]["verdict"] == "does not"
        assert words in " ".join(by_name[name]["reasons"]), by_name[name]["reasons"]


def test_names_that_nobody_knows(shared: Path, small: Path) -> None:
    """What is near is named: status 2, or 3 where a hub might have had it."""
    for arguments, near in (
        ((small, "--hw", "cuda:h10"), "cuda:h100"),
        ((small, "--engine", "tourch"), "torch"),
        ((small, "--precision", "fp31"), "fp32"),
        (("bert-bse",), "bert-base"),
    ):
        done = accel("compat", *arguments, home=shared)
        assert done.returncode in (2, 3) and near in done.stderr, done.stderr


def test_the_change_that_is_printed_runs(shared: Path, small: Path) -> None:
    """torch in int8 is not there; the command that is printed instead is run as it stands."""
    (cell,) = cells(small, "--hw", "cpu", "--engine", "torch", "--precision", "int8", home=shared)
    assert cell["verdict"] == "runs with changes" and cell["change"]["kinds"] in (["engine"], ["precision"])
    words = shlex.split(cell["change"]["command"])
    assert words[:2] == ["accel", "run"]
    done = accel(*words[1:], "--json", home=shared)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[0])
    assert (answer["engine"], answer["precision"]) == (cell["change"]["engine"], cell["change"]["precision"])


def test_preparing_takes_more_than_running(shared: Path, tmp_path: Path) -> None:
    """A limit that holds for the run and not for the export: prepared first, it runs under the limit as printed."""
    path = folder(tmp_path, "fresh")
    (cell,) = cells(path, "--hw", "cpu", "--engine", "onnxruntime", "--memory-limit", "500MB", home=shared)
    assert cell["verdict"] == "runs with changes" and cell["change"]["kinds"] == ["prepared"]
    first, last = cell["change"]["command"].split(" && ")
    assert "--memory-limit" not in first and last.endswith("--memory-limit 500000000")
    for command in (first, last):
        done = accel(*shlex.split(command)[1:], home=shared)
        assert done.returncode == 0, done.stderr
    (again,) = cells(path, "--hw", "cpu", "--engine", "onnxruntime", "--memory-limit", "500MB", home=shared)
    assert again["verdict"] == "runs"


def test_plan(shared: Path, small: Path) -> None:
    """Where it goes, how it is run there, where else, and what if that is lost."""
    pytest.importorskip("ortools", reason="the planning extra is not installed")
    done = succeed("compat", small, "--hw", "cpu,cuda:t4", "--plan", "--json", home=shared)
    plan = json.loads(done.stdout)["plan"]
    assert plan["feasible"] and plan["proven"]
    (placed,) = plan["placements"]
    assert {placed["device"], *placed["fallbacks"]} == {"cpu:0", "cuda:t4"}
    assert placed["command"].startswith("accel run ")
    (lost,) = plan["losses"]
    assert lost["moved"] == {str(small): placed["fallbacks"][0]} and not lost["homeless"]


def test_a_plan_that_cannot_be_names_the_conflict(shared: Path, small: Path) -> None:
    """Status 4, and the limit is named."""
    pytest.importorskip("ortools", reason="the planning extra is not installed")
    done = accel("compat", small, "--hw", "cuda:t4", "--plan", "--latency", "0.001ms", "--json", home=shared)
    assert done.returncode == 4
    plan = json.loads(done.stdout)["plan"]
    assert not plan["feasible"] and any("may take 0.001 ms" in reason for reason in plan["conflict"])
