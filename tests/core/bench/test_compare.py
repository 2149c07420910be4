"""New against old with real processes: a real slowdown is found, a change that changes nothing is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import accel as accel_package
from tests.core.bench import parts
from tests.program import accel

pytestmark = pytest.mark.timeout(900)

ENGINE = "evil-plain"
OPTIONS = ("--hw", "cpu", "--engine", ENGINE, "--max-time", "1s", "--precision-target", "3%", "--processes", "3")


def package(folder: Path, deed: str) -> str:
    """PYTHONPATH with a version of the engine; all versions have the same name and number."""
    parts.install(folder, 0, {"plain": deed})
    return str(folder)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of accel, which nobody edits while a test runs."""
    folder = tmp_path_factory.mktemp("frozen")
    shutil.copytree(Path(accel_package.__file__).parent, folder / "accel", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 50 microseconds: short against the slices in which a busy machine hands out its processors."""
    return parts.onnx_model(tmp_path_factory.mktemp("model") / "some.onnx", width=256, layers=8)


@pytest.fixture(scope="module")
def measured(model: Path, frozen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engine in `main`, and in `home` the baseline `main` of it."""
    folder = tmp_path_factory.mktemp("measured")
    done = accel(
        "bench", model, *OPTIONS, "--save-as", "main",
        home=folder / "home", cwd=frozen, PYTHONPATH=package(folder / "main", "pass"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "home" / "frozen").symlink_to(frozen)
    return folder


@pytest.fixture
def home(measured: Path, tmp_path: Path) -> Path:
    """A copy of that home for one test."""
    return Path(shutil.copytree(measured / "home", tmp_path / "home", symlinks=True))


def compare(model: Path, home: Path, path: str, *more: str, code: int = 0) -> dict[str, Any]:
    gate = ("--baseline", "main", "--fail-on-regression", "10%", "--json")
    done = accel("bench", model, *OPTIONS, *gate, *more, home=home, cwd=(home / "frozen").resolve(), PYTHONPATH=path)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def change(home: Path, target: Path, **environment: Any) -> None:
    """Writes the baseline with another environment."""
    data = json.loads((home / "baselines" / "main.json").read_text())
    for machine in data["machines"].values():
        machine["environment"] |= environment
    target.write_text(json.dumps(data))


def test_a_slower_engine_is_found_with_the_old_one_beside_it(model: Path, home: Path, tmp_path: Path) -> None:
    found = compare(model, home, package(tmp_path / "new", parts.slower(0.5)), code=6)
    assert found["baseline"]["old_can_run"]
    (cell,) = found["comparisons"]
    assert (cell["verdict"], cell["how"], cell["confirmed"]) == ("slower", "interleaved", True)
    assert 1.2 < cell["ratio"] < 2.5 and cell["ratio_interval"][0] > 1.1 and cell["p"] < 0.025
    # the control measured the machine and is no cell of the user's
    assert len(found["cells"]) == 1


@pytest.mark.slow
def test_a_change_that_changes_nothing_is_none(model: Path, home: Path, tmp_path: Path) -> None:
    found = compare(model, home, package(tmp_path / "new", "unused = 1"))
    (cell,) = found["comparisons"]
    assert cell["how"] == "interleaved" and cell["verdict"] in ("same", "faster", "undecided")


def test_the_same_software_is_never_a_regression(model: Path, home: Path, measured: Path) -> None:
    found = compare(model, home, str(measured / "main"))
    (cell,) = found["comparisons"]
    assert cell["how"] == "stored" and cell["verdict"] != "slower"
    assert found["baseline"]["differences"] == [] and not found["baseline"]["old_can_run"]


def test_without_the_old_environment_the_stored_numbers_decide_twice(model: Path, home: Path, tmp_path: Path) -> None:
    change(home, home / "baselines" / "main.json", interpreter=str(tmp_path / "gone"))
    found = compare(model, home, package(tmp_path / "new", parts.slower(4.0)), code=6)
    (cell,) = found["comparisons"]
    assert (cell["verdict"], cell["how"], cell["confirmed"]) == ("slower", "stored", True)
    assert cell["ratio"] > 2


def test_a_cell_that_worked_and_crashes_fails_the_gate(model: Path, home: Path, tmp_path: Path) -> None:
    found = compare(model, home, package(tmp_path / "new", parts.DEEDS["crash"]), code=6)
    assert found["comparisons"][0]["verdict"] == "failed"


def test_a_file_from_elsewhere_starts_no_program_of_its_choice(model: Path, home: Path, tmp_path: Path) -> None:
    """A baseline file may name any interpreter; only those of the own home are ever started."""
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    change(home, tmp_path / "theirs.json", interpreter=str(trap), path=["/tmp"], code="other")
    found = compare(model, home, package(tmp_path / "new", "unused = 1"), "--baseline", str(tmp_path / "theirs.json"))
    assert not (tmp_path / "sprung").exists() and found["comparisons"][0]["how"] == "stored"
