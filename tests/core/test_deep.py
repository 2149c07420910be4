"""`--deep`: figures that were measured, checked and kept, and reasons where there are none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from accel.core import deep, deep_worker, results
from accel.core.deep_worker import NotMeasured, TorchBench
from accel.core.fingerprint import engine_version
from accel.core.hardware import scan
from accel.core.types import Device

FIGURE: dict[str, Any] = {
    "gflops": {"fp32": 100.0},
    "matrix": {"fp32": 1024},
    "copy_gb_per_s": 20.0,
    "to_device_gb_per_s": None,
    "not_measured": {},
    "library": "torch",
    "threads": 2,
}
CPU = Device(
    "cpu:0", "cpu", "A CPU", "vendor", memory_total_bytes=8 << 30, memory_free_bytes=4 << 30, cores=2, threads=4
)


def answering(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[dict[str, Any]]:
    """Replaces the worker process and records what it is asked."""
    asked: list[dict[str, Any]] = []

    def child(arguments: list[str], seconds: float, environment: object) -> str:
        asked.append(json.loads(arguments[-1]))
        return json.dumps(answer)

    monkeypatch.setattr(deep, "run_child", child)
    return asked


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One precision, so that a real measurement takes seconds."""
    monkeypatch.setattr(deep, "PRECISIONS", ("fp32",))


@pytest.mark.usefixtures("quick")
def test_a_real_cpu(isolated_home: Path) -> None:
    said: list[str] = []
    # one thread, so that a busy machine does not make the threads wait for each other
    device = dataclasses.replace(scan(["cpu"])[0].devices[0], cores=1)
    figure = deep.measure([device], said.append)["cpu:0"]
    assert figure["not_measured"] == {}
    assert 0.0 < figure["gflops"]["fp32"] < 1e6
    assert 0.1 < figure["copy_gb_per_s"] < 1e5
    assert figure["matrix"]["fp32"] >= 256
    assert figure["threads"] == 1
    assert figure["library"] == f"torch {__import__('torch').__version__}"
    assert said == [f"measuring cpu:0 ({device.name})"]
    # later scans show it, and the results hold it
    assert scan(["cpu"])[0].devices[0].measured == figure
    assert results.spool_size() > 0


@pytest.mark.usefixtures("quick")
def test_a_real_openvino_cpu() -> None:
    if engine_version("openvino") is None:
        pytest.skip("needs openvino")
    device = dataclasses.replace(scan(["openvino"])[0].devices[0], cores=1)
    figure = deep.measure([device])[device.id]
    assert figure["gflops"]["fp32"] > 0
    assert set(figure["not_measured"]) == {"copy"}
    assert figure["library"].startswith("OpenVINO 20")


def test_openvino_tells_when_it_computed_in_something_else() -> None:
    if engine_version("openvino") is None:
        pytest.skip("needs openvino")
    bench = deep_worker.OpenVinoBench("CPU", 1)
    bench.RUNTIME = {**bench.RUNTIME, "fp32": ("f64",)}  # type: ignore[misc]
    with pytest.raises(NotMeasured, match="when asked for fp32"):
        bench.product("fp32", 256)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_product_is_checked(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = TorchBench("cpu", 1)
    bench.product(precision, 256)()
    monkeypatch.setitem(deep_worker.TOLERANCE, precision, -1.0)
    with pytest.raises(NotMeasured, match="wrong"):
        bench.product(precision, 256)


def test_what_torch_cannot_multiply_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = TorchBench("cpu", 1)

    def refuse(*_: object) -> None:
        raise RuntimeError("not implemented for this device\nwith a long trace")

    monkeypatch.setattr(bench.torch, "_int_mm", refuse)
    with pytest.raises(NotMeasured, match=r"^torch: not implemented for this device$"):
        bench.product("int8", 256)


def test_memory_that_runs_out_ends_the_growth() -> None:
    def make(size: int) -> Any:
        if size > 512:
            raise MemoryError
        return lambda: None

    rate, size = deep_worker.grow(make, [256, 512, 1024])
    assert size in (256, 512)
    assert rate > 0
    with pytest.raises(NotMeasured, match="too little free memory"):
        deep_worker.grow(make, [1024])
    with pytest.raises(NotMeasured, match="too little free memory"):
        TorchBench("cpu", 1).copy(1 << 20)


def test_a_little_memory_leaves_the_rest_measured() -> None:
    request = {"platform": "cpu", "device": "cpu", "threads": 1, "precisions": ["fp32", "int8"], "room_bytes": 4 << 20}
    answer = deep_worker.measure(request)
    assert answer["gflops"]["int8"] > 0
    assert set(answer["not_measured"]) >= {"copy"}


def test_best_time_is_the_best() -> None:
    import time

    waits = iter([0.0, 0.0, 0.05, 0.01, 0.03] + [0.05] * 100)
    assert 0.01 <= deep_worker.best_time(lambda: time.sleep(next(waits))) < 0.03


def test_what_the_worker_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, FIGURE)
    cuda = Device("cuda:1", "cuda", "GPU", "NVIDIA", memory_total_bytes=8 << 30, memory_free_bytes=6 << 30)
    rocm = Device("rocm:2", "rocm", "GPU", "AMD")
    ov = Device("openvino:GPU.0", "openvino", "GPU", "Intel")
    monkeypatch.setattr(deep, "torch_build", lambda: {"version": "2.13.0", "cuda": "13.0", "hip": "7.0"})
    deep.measure([CPU, cuda, rocm, ov])
    assert [(a["platform"], a["device"], a["room_bytes"]) for a in asked] == [
        ("cpu", "cpu", 4 << 30),
        ("cuda", "cuda:1", 6 << 30),
        ("rocm", "cuda:2", 1 << 30),
        ("openvino", "GPU.0", 1 << 30),
    ]
    assert asked[0]["threads"] == 2


@pytest.mark.parametrize(
    ("device", "build", "reason"),
    [
        (Device("qualcomm:0", "qualcomm", "n", "v", features=("htp", "emulated")), {}, "emulator"),
        (Device("webgpu:chromium", "webgpu", "n", "v"), {}, "no product is timed in it"),
        (Device("cuda:0", "cuda", "n", "v"), {"version": "2.13.0+cpu", "cuda": "", "hip": ""}, "built without cuda"),
        (Device("rocm:0", "rocm", "n", "v"), {"version": "2.13.0", "cuda": "13.0", "hip": ""}, "built without rocm"),
        (CPU, {}, "torch is not installed"),
    ],
)
def test_what_cannot_be_measured_says_why(
    device: Device, build: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch, isolated_home: Path
) -> None:
    monkeypatch.setattr(deep, "torch_build", lambda: build)
    figure = deep.measure([device])[device.id]
    assert figure["gflops"] == {}
    assert reason in figure["not_measured"]["device"]
    assert not (isolated_home / "deep.json").exists()


def test_a_worker_that_takes_too_long() -> None:
    figure = deep.measure([CPU], time_limit=0.2)["cpu:0"]
    assert figure["not_measured"] == {"device": "no answer within 0.2 s"}


def test_figures_belong_to_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FIGURE)
    deep.measure([CPU])
    assert deep.kept([CPU])["cpu:0"]["gflops"] == {"fp32": 100.0}
    monkeypatch.setattr(deep, "fingerprint", lambda: "another")
    assert deep.kept([CPU]) == {}


def test_newer_figures_replace_older_ones_and_leave_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Device("openvino:CPU", "openvino", "n", "v")
    answering(monkeypatch, FIGURE)
    deep.measure([CPU, other])
    answering(monkeypatch, {**FIGURE, "copy_gb_per_s": 30.0})
    deep.measure([CPU])
    kept = deep.kept([CPU, other])
    assert [kept[d.id]["copy_gb_per_s"] for d in (CPU, other)] == [30.0, 20.0]


def test_a_bounded_number_of_machines_is_kept(monkeypatch: pytest.MonkeyPatch, isolated_home: Path) -> None:
    answering(monkeypatch, FIGURE)
    for number in range(deep.MACHINES + 5):
        monkeypatch.setattr(deep, "fingerprint", lambda number=number: f"machine {number}")
        deep.measure([CPU])
    machines = list(json.loads((isolated_home / "deep.json").read_text()))
    assert len(machines) == deep.MACHINES
    assert machines[-1] == f"machine {deep.MACHINES + 4}"


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"x": 1}'])
def test_damaged_figures_are_none(damage: str, isolated_home: Path) -> None:
    (isolated_home / "deep.json").write_text(damage)
    assert deep.kept([CPU]) == {}


def test_a_home_that_cannot_be_written_still_gives_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "file" / "home"))
    answering(monkeypatch, FIGURE)
    said: list[str] = []
    assert deep.measure([CPU], said.append)["cpu:0"]["gflops"] == {"fp32": 100.0}
    assert any("not kept" in line for line in said)


def test_a_worker_that_answers_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "run_child", lambda *_: "not JSON")
    assert deep.measure([CPU])["cpu:0"]["not_measured"] == {"device": "its answer is no JSON"}


@pytest.mark.slow
def test_every_precision_of_this_cpu() -> None:
    figure = deep.measure([scan(["cpu"])[0].devices[0]])["cpu:0"]
    assert set(figure["gflops"]) | set(figure["not_measured"]) == {"fp32", "fp16", "bf16", "int8"}
    assert figure["gflops"]["fp32"] > 0
