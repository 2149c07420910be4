"""`accel run` in real browsers, as a user types it: the same answer as torch, the truth about it, and a clean end."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browsers import SHELL, browser, share_runtime
from tests.program import ACCEL, accel, answers, environment

MODEL = ("all-minilm", "--input", "hello world")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the model is prepared once."""
    folder = tmp_path_factory.mktemp("web-home")
    share_runtime(folder)
    return folder


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for profiles that no other test uses; its name is short enough for a browser."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="web-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield


@pytest.fixture(scope="module")
def expected(home: Path) -> Any:
    (answer,) = answers("run", *MODEL, "--hw", "cpu", "--engine", "torch", home=home)
    return np.array(answer["output"]["embedding"])


def leftovers() -> set[Path]:
    return set(Path(os.environ["TMPDIR"]).glob("accel-browser-*"))


PLACES = [("cpu", "chromium"), ("webgpu:chromium", "chromium"), ("webgpu:firefox", "firefox"), ("webnn", "shell")]


@pytest.mark.parametrize(("hw", "kind"), PLACES, ids=["wasm", "chromium", "firefox", "webnn"])
def test_the_same_answer_as_torch(home: Path, expected: Any, hw: str, kind: str) -> None:
    browser(kind)
    extra = {"IPFS_ACCELERATE_HARDWARE_BROWSER": str(SHELL)} if kind == "shell" else {}
    before = leftovers()
    (answer,) = answers("run", *MODEL, "--hw", hw, "--engine", "ort-web", "--strict", home=home, **extra)
    found = np.array(answer["output"]["embedding"])
    assert np.abs(found - expected).max() <= 1e-4
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) >= 0.9999
    facts = answer["execution"]
    assert facts["browser"] == {"shell": "chromium"}.get(kind, kind) or hw == "cpu"
    assert answer["engine"] == "ort-web"
    if kind == "shell":
        assert list(facts["nodes"]) == ["webnn"]
        assert facts["webnn_devices"] == ["cpu"]
    if hw.startswith("webgpu") and not Path("/dev/dri").exists():
        assert facts["adapter"]["software"]
    assert leftovers() <= before


def test_a_browser_that_is_missing(home: Path) -> None:
    done = accel("run", *MODEL, "--hw", "webgpu", home=home, IPFS_ACCELERATE_HARDWARE_BROWSER="/nowhere/chromium")
    assert done.returncode == 3
    assert "hardware.browser" in done.stderr


def test_a_browser_that_cannot_do_it(home: Path, expected: Any, tmp_path: Path) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho 'no luck today' >&2\nexit 1\n")
    broken.chmod(0o755)
    before = leftovers()
    done = accel("run", *MODEL, "--hw", "webgpu", home=home, IPFS_ACCELERATE_HARDWARE_BROWSER=str(broken))
    assert done.returncode == 3
    assert "no luck today" in done.stderr
    assert leftovers() <= before


def start(home: Path, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    command = [*ACCEL, "run", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home, **extra)
    )


def test_two_at_once(home: Path, expected: Any) -> None:
    both = [start(home, *MODEL, "--hw", "cpu", "--engine", "ort-web", "--quiet") for _ in range(2)]
    for one in both:
        out, err = one.communicate(timeout=200)
        assert one.returncode == 0, err
        assert np.abs(np.array(out.split(), float) - expected).max() <= 1e-4


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_interrupted_in_the_middle(home: Path, expected: Any, signum: signal.Signals, status: int) -> None:
    """Software WebGPU takes seconds for an inference, so the signal meets the browser running."""
    browser("chromium")
    before = leftovers()
    with start(home, *MODEL, "--hw", "webgpu:chromium") as running:
        deadline = time.monotonic() + 100
        while not leftovers() - before and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert leftovers() - before
        time.sleep(0.5)
        running.send_signal(signum)
        running.communicate(timeout=60)
    assert running.returncode == status
    deadline = time.monotonic() + 20
    while leftovers() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers() <= before


def test_waiting_for_a_browser_that_somebody_opens(home: Path, expected: Any) -> None:
    running = start(home, *MODEL, "--hw", "webgpu", "--wait-for-browser")
    try:
        assert running.stderr is not None
        line = ""
        while "http://127.0.0.1:" not in line:
            line = running.stderr.readline()
            assert line, "it ended without an address"
        address = next(word for word in line.split() if word.startswith("http://"))
        with urllib.request.urlopen(address, timeout=20) as page:
            assert b"main.js" in page.read()
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
        assert running.returncode == 130
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--hw", "cpu", "--wait-for-browser"), "--hw webgpu or --hw webnn"),
        (("--hw", "webgpu", "--show", "--wait-for-browser"), "choose one"),
        (("--hw", "webgpu", "--show"), "--wait-for-browser"),
    ],
)
def test_options_that_make_no_sense(home: Path, options: tuple[str, ...], words: str) -> None:
    variables = {name: "" for name in ("DISPLAY", "WAYLAND_DISPLAY") if name in os.environ}
    done = accel("run", *MODEL, *options, home=home, **variables)
    assert done.returncode == 2
    assert words in done.stderr
