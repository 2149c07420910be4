"""What the browser bridge costs, against the same work done another way in the same run (`-m perf`)."""

from __future__ import annotations

import base64
import gc
import json
import statistics
import subprocess
import sys
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


def test_from_command_to_first_answer(isolated_home: Path) -> None:
    browser("chromium")
    share_runtime(isolated_home)
    command = [sys.executable, "-m", "accel", "run", "all-minilm", "-i", "hello", "--hw", "cpu", "--engine", "ort-web"]
    times = []
    for _ in range(4):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        times.append(time.perf_counter() - started)
    print(f"\ncommand to first answer: first {times[0]:.2f} s, then {[round(t, 2) for t in times[1:]]}")
    assert statistics.median(times[1:]) < 4


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
