"""`accel config`: a real process, in the three forms of output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import program

ROOT = Path(__file__).parents[2]


def accel(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command from any working directory, installed or not."""
    return program.accel(*words, PYTHONPATH=str(ROOT), **options)


def test_show_says_where_a_value_comes_from(tmp_path: Path, isolated_home: Path) -> None:
    (tmp_path / "ipfs_accelerate.json").write_text('{"ipfs": {"timeout": 4}}')
    (isolated_home / "config.json").write_text('{"hardware": {"memory_limit": "6GB"}}')
    done = accel(
        *("config", "show", "--json", "--set", "logging.level=error"),
        cwd=tmp_path,
        IPFS_ACCELERATE_HARDWARE_PRECISION="bf16",
    )
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert data["schema"] == "accel.config/1"
    found: dict[str, Any] = {s["key"]: s for s in data["settings"]}
    expected = {
        "logging.level": ("error", "command line", "--set"),
        "hardware.precision": ("bf16", "environment", "IPFS_ACCELERATE_HARDWARE_PRECISION"),
        "hardware.memory_limit": (6 * 10**9, "user", str(isolated_home / "config.json")),
        "ipfs.timeout": (4.0, "project", str(tmp_path / "ipfs_accelerate.json")),
        "hardware.prefer_cuda": (False, "default", None),
    }
    assert {k: (found[k]["value"], found[k]["origin"], found[k]["where"]) for k in expected} == expected


def test_show_one_value() -> None:
    assert accel("config", "show", "ipfs.timeout", "--quiet").stdout == "30.0\n"
    human = accel("config", "show", "performance.cache_size").stdout
    assert "50GB" in human
    assert "Allowed:" in human
    missing = accel("config", "show", "ipfs.timout")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "did you mean ipfs.timeout?" in missing.stderr


def test_set_then_show(isolated_home: Path) -> None:
    done = accel("config", "set", "hardware.memory_limit", "8GiB")
    assert (done.returncode, done.stderr) == (0, "")
    assert "8GiB" in done.stdout
    assert accel("config", "show", "hardware.memory_limit", "-q").stdout == f"{8 * 2**30}\n"
    assert json.loads((isolated_home / "config.json").read_text()) == {"hardware": {"memory_limit": 8 * 2**30}}
    wrong = accel("config", "set", "hardware.memory_limit", "lots", "--json")
    assert wrong.returncode == 2
    error = json.loads(wrong.stderr)
    assert (error["error"], error["details"]["key"]) == ("input", "hardware.memory_limit")


def test_set_warns_when_something_stronger_stays_in_effect() -> None:
    done = accel("config", "set", "hardware.precision", "fp16", IPFS_ACCELERATE_HARDWARE_PRECISION="bf16")
    assert done.returncode == 0
    assert "stays bf16" in done.stderr
    assert "IPFS_ACCELERATE_HARDWARE_PRECISION" in done.stderr


def test_path_shows_the_files_even_when_one_is_broken(tmp_path: Path, isolated_home: Path) -> None:
    (tmp_path / "ipfs_accelerate.json").write_text('{"ipfs": {"timeout": 4}}')
    (isolated_home / "config.json").write_text("{broken")
    done = accel("config", "path", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    files = {Path(f["path"]).name: f for f in json.loads(done.stdout)["files"] if f["exists"]}
    assert files["ipfs_accelerate.json"]["used"]
    assert not files["config.json"]["used"]
    assert "not valid JSON" in files["config.json"]["note"]
    assert accel("config", "path", "-q", cwd=tmp_path).stdout == f"{tmp_path / 'ipfs_accelerate.json'}\n"
    # everything else refuses it
    assert accel("config", "show", cwd=tmp_path).returncode == 2


def test_prepared_and_clear_without_any_plan() -> None:
    done = accel("config", "prepared", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert (data["prepared"], data["total_bytes"], data["limit_bytes"]) == ([], 0, 20 * 10**9)
    assert accel("config", "clear", "--quiet").stdout == "0\n"


def test_prepared_lists_and_clear_frees(isolated_home: Path) -> None:
    from accel.core import prepared

    folder = isolated_home / "prepared" / "model-0123456789abcdef"
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "tokenizer.json").write_bytes(b"x" * 5000)
    (folder / prepared.RECIPE).write_text(json.dumps({"schema": prepared.SCHEMA, "model": {"name": "all-minilm"}}))
    listed = json.loads(accel("config", "prepared", "--json").stdout)
    assert [entry["model"] for entry in listed["prepared"]] == ["all-minilm"]
    assert listed["total_bytes"] >= 5000
    assert "all-minilm" in accel("config", "prepared").stdout
    wrong = accel("config", "clear", "all-minlm")
    assert wrong.returncode == 2 and "all-minilm" in wrong.stderr and folder.exists()
    assert accel("config", "clear", "../..").returncode == 2 and isolated_home.exists()
    assert int(accel("config", "clear", "all-minilm", "-q").stdout) >= 5000
    assert not folder.exists()


@pytest.mark.parametrize("words", [("show",), ("path",), ("prepared",)])
def test_no_command_of_the_group_loads_a_heavy_library(words: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom accel.cli import main\nsys.argv = ['accel', 'config', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally:\n"
        " heavy = {'torch', 'transformers', 'numpy', 'duckdb', 'pydantic'} & set(sys.modules)\n"
        " print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
