"""`accel detect` as a process: what it prints, how it ends, and what it does on odd machines."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accel.core.types import PLATFORMS

DEVICE: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "name": (str,),
    "vendor": (str,),
    "memory_total_bytes": (int, type(None)),
    "memory_free_bytes": (int, type(None)),
    "cores": (int, type(None)),
    "threads": (int, type(None)),
    "features": (list,),
    "precisions": (dict,),
    "driver": (str, type(None)),
    "engines": (list,),
    "measured": (dict, type(None)),
}


def accel(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """A process of accel; a variable that is None is left out."""
    variables = {**os.environ, "COLUMNS": "80"}
    for name, value in environment.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    return subprocess.run(
        [sys.executable, "-m", "accel", "detect", *arguments], env=variables, capture_output=True, text=True, timeout=90
    )


def document(*arguments: str, **environment: str | None) -> dict[str, Any]:
    """The JSON of a run that ends well and says nothing else."""
    done = accel("--json", *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_document() -> None:
    data = document()
    assert set(data) == {"schema", "fingerprint", "platforms"}
    assert data["schema"] == "accel.detect/1"
    assert [platform["name"] for platform in data["platforms"]] == list(PLATFORMS)
    for platform in data["platforms"]:
        assert set(platform) == {"name", "present", "reason", "fix", "devices"}
        assert platform["present"] == bool(platform["devices"])
        assert platform["reason"]
        assert platform["present"] or platform["fix"]
        for device in platform["devices"]:
            assert {key: isinstance(device[key], DEVICE[key]) for key in device} == dict.fromkeys(DEVICE, True)
            assert set(device["precisions"]) == {"fast", "possible"}
    cpu = data["platforms"][0]["devices"][0]
    assert cpu["id"] == "cpu:0"
    assert cpu["threads"] == len(os.sched_getaffinity(0)) or cpu["threads"] < len(os.sched_getaffinity(0))
    assert "torch" in cpu["engines"]


def test_hw_narrows() -> None:
    assert [platform["name"] for platform in document("--hw", "cpu,cuda")["platforms"]] == ["cpu", "cuda"]
    assert [platform["name"] for platform in document("--hw", "cpu:0")["platforms"]] == ["cpu"]


def test_quiet_gives_ids() -> None:
    done = accel("--quiet")
    ids = [device["id"] for platform in document()["platforms"] for device in platform["devices"]]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ids, "")


def absent_platform() -> str:
    return next(platform["name"] for platform in document()["platforms"] if not platform["present"])


def test_an_absent_platform_exits_3_with_reason_and_fix() -> None:
    name = absent_platform()
    report = next(platform for platform in document()["platforms"] if platform["name"] == name)
    done = accel("--hw", name)
    assert (done.returncode, done.stdout) == (3, "")
    assert report["reason"] in done.stderr
    assert report["fix"] in done.stderr
    done = accel("--hw", name, "--quiet")
    assert (done.returncode, done.stdout) == (3, "")


def test_an_absent_platform_as_json() -> None:
    name = absent_platform()
    done = accel("--hw", name, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["platforms"][0]["present"] is False
    error = json.loads(done.stderr)
    assert (error["schema"], error["error"], error["exit_code"]) == ("accel.error/1", "unavailable", 3)
    assert error["details"]["platform"] == name


def test_one_of_several_is_enough() -> None:
    done = accel("--hw", f"{absent_platform()},cpu")
    assert done.returncode == 0
    assert "absent: " in done.stdout


def test_a_device_that_is_not_here() -> None:
    done = accel("--hw", "cpu:7")
    assert done.returncode == 3
    assert "cpu has cpu:0" in done.stderr


@pytest.mark.parametrize(
    ("text", "hint"), [("cudda", "did you mean cuda"), ("gpu", "cuda, rocm"), ("cpu,,", "--hw auto")]
)
def test_wrong_usage_exits_2(text: str, hint: str) -> None:
    done = accel("--hw", text)
    assert (done.returncode, done.stdout) == (2, "")
    assert hint in done.stderr


def test_the_page_fits_80_columns() -> None:
    done = accel()
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in done.stdout
    for name in PLATFORMS:
        assert any(line.startswith(name) for line in lines)
    assert "--hw auto" in lines[-2] + lines[-1]
    assert done.stderr == ""


def in_terminal(**environment: str) -> str:
    """What a terminal of 80 columns shows."""
    near, far = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", **environment}
    with subprocess.Popen([sys.executable, "-m", "accel", "detect"], stdout=far, stderr=far, env=variables) as child:
        os.close(far)
        shown = b""
        while True:
            try:
                piece = os.read(near, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        child.wait(60)
    os.close(near)
    return shown.decode()


def test_a_terminal_gets_bold_names_and_no_color_is_honoured() -> None:
    assert "\x1b[1mcpu" in in_terminal()
    assert "\x1b" not in in_terminal(NO_COLOR="1")


def test_a_closed_pipe_is_silent() -> None:
    command = f"{sys.executable} -m accel detect | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_affinity_is_honoured() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os, sys; os.sched_setaffinity(0, {{{one}}})\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'accel', 'detect', '--hw', 'cpu', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    device = json.loads(done.stdout)["platforms"][0]["devices"][0]
    assert (device["cores"], device["threads"]) == (1, 1)


def test_it_loads_no_framework() -> None:
    document()
    code = (
        "import sys; sys.argv = ['accel', 'detect', '--quiet']\n"
        "from accel.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'transformers', 'numpy', 'onnxruntime', 'openvino', 'huggingface_hub', 'duckdb', 'rich', "
        "'psutil', 'cpuinfo', 'pydantic', 'importlib.metadata')\n"
        "sys.stderr.write(' '.join(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": None, "IPFS_ACCELERATE_HOME": None},
        {"HOME": "/nonexistent", "IPFS_ACCELERATE_HOME": None},
        {"IPFS_ACCELERATE_HOME": "/dev/null/home"},
        {"PATH": ""},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"},
        {"CUDA_VISIBLE_DEVICES": ",,x"},
    ],
)
def test_odd_environments(environment: dict[str, str | None]) -> None:
    data = document(**environment)
    assert data["platforms"][0]["present"]


def test_a_home_full_of_rubbish(isolated_home: Path) -> None:
    document()
    for file in [*(isolated_home / "cache").iterdir(), isolated_home / "deep.json"]:
        file.write_bytes(b"\x00rubbish")
    assert document()["platforms"][0]["present"]


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/usr/bin/unshare").exists(), reason="needs root and unshare")
@pytest.mark.parametrize("folder", ["/proc", "/sys"])
def test_without_proc_or_sys(folder: str, tmp_path: Path) -> None:
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        f"mount --bind {tmp_path} {folder} && exec {sys.executable} -m accel detect --json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()[:80]}")
    assert done.returncode == 0, done.stderr
    cpu = json.loads(done.stdout)["platforms"][0]
    assert cpu["present"]
    assert cpu["devices"][0]["threads"] >= 1


def test_two_first_looks_at_once() -> None:
    command = [sys.executable, "-m", "accel", "detect", "--json"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [child.communicate(timeout=90) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    ids = [[d["id"] for p in json.loads(out)["platforms"] for d in p["devices"]] for out, _ in answers]
    assert ids[0] == ids[1] == ids[2]


def test_a_platform_of_a_third_party_by_name(tmp_path: Path) -> None:
    metadata = tmp_path / "accel_abacus-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: accel-abacus\nVersion: 1.0\n")
    package = "tests.thirdparty.accel_abacus"
    (metadata / "entry_points.txt").write_text(
        f"[accel.platforms]\nabacus = {package}:Abacus\n[accel.engines]\nbeads = {package}:Beads\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    data = document("--hw", "abacus,cpu", PYTHONPATH=paths)
    assert [device["id"] for platform in data["platforms"] for device in platform["devices"]] == ["abacus:0", "cpu:0"]
    assert data["platforms"][0]["devices"][0]["engines"] == ["beads"]
    assert "abacus" not in accel("--quiet", PYTHONPATH=paths).stdout
    near = accel("--hw", "abacsu", PYTHONPATH=paths)
    assert near.returncode == 2
    assert "abacus" in near.stderr


def test_deep_of_something_that_cannot_be_measured() -> None:
    done = accel("--hw", "null", "--deep", "--json")
    assert done.returncode == 0
    measured = json.loads(done.stdout)["platforms"][0]["devices"][0]["measured"]
    assert measured["gflops"] == {}
    assert measured["not_measured"]


def test_deep_within_a_time_limit() -> None:
    done = accel("--hw", "cpu", "--deep", "--timeout", "1.2")
    assert done.returncode == 124
    assert "--timeout" in done.stderr


@pytest.mark.slow
def test_deep_shows_and_keeps_its_figures() -> None:
    first = accel("--hw", "cpu", "--deep")
    assert first.returncode == 0
    assert "measuring cpu:0" in first.stderr
    assert "GFLOP/s" in first.stdout
    assert "GB/s" in first.stdout
    rates = document("--hw", "cpu")["platforms"][0]["devices"][0]["measured"]["gflops"]
    assert f"fp32 {rates['fp32']:.0f}" in first.stdout
