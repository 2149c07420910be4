"""Fewer threads are advised where they were measured and are faster."""

from __future__ import annotations

import json

import pytest

from accel.core.cpu import limits
from accel.core.fingerprint import fingerprint
from accel.core.paths import ensure, home
from accel.core.performance import calibration, predict
from accel.core.performance.advice import recommendations
from accel.core.performance.machines import Machine
from accel.core.performance.operators import Operator, OperatorGraph, Tensor
from tests.core.performance.figures import figures

WEIGHT = Tensor((1024, 1024), 4, parameter=True)
PRODUCT = Operator("matmul", "aten::addmm", "model", (Tensor((16, 1024)), WEIGHT), (Tensor((16, 1024)),))
GRAPH = OperatorGraph("m", "", "text-encoder", "t", 1, 8, (PRODUCT,) * 4, 0, {"model": 0}, calls={"model": 1})


def test_fewer_threads_are_advised_where_they_were_measured_and_are_faster() -> None:
    """Not where they are slower, and not where nobody measured them."""
    here = Machine(
        "cpu:0", "a processor", "cpu", {"fp32": 300.0}, 20.0, "measured", True, ("torch",), memory_bytes=8 << 30
    )
    if limits()[1] < 2:
        pytest.skip("one thread is all that there is")
    for slowness, advised in ((0.5, True), (2.0, False), (None, False)):
        found = {"torch": figures("torch")}
        if slowness is not None:
            found["torch/1"] = {**figures("torch", slowness), "threads": 1}
        (ensure(home()) / "calibration.json").write_text(json.dumps({fingerprint(): found}))
        told = recommendations(predict.latency(GRAPH, here, "torch"), GRAPH, here)
        gains = [one["gain"] for one in told if one["option"] == "--threads 1"]
        assert bool(gains) == advised
        assert all(gain > 1.3 for gain in gains)


def test_figures_of_fewer_threads_take_the_place_of_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are kept, and each is used for its own number of threads."""
    if limits()[1] < 2:
        pytest.skip("one thread is all that there is")
    monkeypatch.setattr(calibration, "_measure", lambda engine, threads, *_: figures(engine, 2.0 / max(1, threads)))
    for threads in (limits()[1], 1):
        calibration.calibrate(["torch"], threads, lambda *_: None)
    both = [calibration.kept("torch", threads) for threads in (0, 1)]
    assert [one["threads"] for one in both if one] == [limits()[1], 1]
    assert calibration.threads_kept("torch") == [1]
