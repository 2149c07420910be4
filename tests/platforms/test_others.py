"""CPU, Metal, OpenVINO and Qualcomm."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.core.fingerprint import engine_version
from accel.platforms import openvino, qualcomm
from accel.platforms.cpu import CpuPlatform
from accel.platforms.mps import MpsPlatform
from accel.platforms.openvino import OpenVinoPlatform
from accel.platforms.qualcomm import QualcommPlatform
from tests import machines
from tests.machines import GIB


def test_the_cpu_of_another_machine(tmp_path: Path) -> None:
    machines.x86(tmp_path, 2, "Intel(R) Xeon(R) Platinum 8480+", machines.SAPPHIRE_FLAGS, "GenuineIntel")
    machines.meminfo(tmp_path, 512 * GIB, 500 * GIB)
    device = CpuPlatform(str(tmp_path)).detect_hardware().devices[0]
    assert (device.id, device.name, device.vendor) == ("cpu:0", "Intel(R) Xeon(R) Platinum 8480+", "Intel")
    assert {"amx_int8", "avx512_fp16"} <= set(device.features)
    assert device.precisions["fast"] == ["fp32", "fp16", "bf16", "int8"]
    assert (device.memory_total_bytes, device.memory_free_bytes) == (512 * GIB, 500 * GIB)


def test_metal() -> None:
    report = MpsPlatform("darwin", "arm64", "15.1").detect_hardware()
    assert [device.id for device in report.devices] == ["mps:0"]
    assert "int8" not in report.devices[0].precisions["possible"]


@pytest.mark.parametrize(
    ("system", "machine", "release", "reason"),
    [
        ("linux", "x86_64", "", "wrong operating system"),
        ("win32", "AMD64", "", "wrong operating system"),
        ("darwin", "x86_64", "14.0", "no device"),
        ("darwin", "arm64", "12.6", "driver too old"),
        ("darwin", "arm64", "", "driver too old"),
    ],
)
def test_no_metal(system: str, machine: str, release: str, reason: str) -> None:
    report = MpsPlatform(system, machine, release).detect_hardware()
    assert not report.present
    assert report.reason.startswith(reason)
    assert report.fix


@pytest.fixture
def has_openvino() -> None:
    if engine_version("openvino") is None:
        pytest.skip("needs openvino")


@pytest.mark.usefixtures("has_openvino")
def test_openvino_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    real = openvino.run_child

    def counted(arguments: list[str], seconds: float) -> str:
        asked.append(arguments)
        return real(arguments, seconds)

    monkeypatch.setattr(openvino, "run_child", counted)
    first = OpenVinoPlatform().detect_hardware()
    assert "openvino:CPU" in [device.id for device in first.devices]
    cpu = next(device for device in first.devices if device.id == "openvino:CPU")
    here = CpuPlatform().detect_hardware().devices[0]
    assert (cpu.cores, cpu.threads, cpu.features) == (here.cores, here.threads, here.features)
    assert [d.id for d in OpenVinoPlatform().detect_hardware().devices] == [d.id for d in first.devices]
    assert len(asked) == 1
    monkeypatch.setenv("ZE_AFFINITY_MASK", "0")
    OpenVinoPlatform().detect_hardware()
    assert len(asked) == 2


@pytest.mark.usefixtures("has_openvino")
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "signal 6"),
        ("raise ImportError('libze_loader.so.1 is missing')", "libze_loader.so.1"),
        ("print('warning: no JSON')", "something else than JSON"),
        ("print('[1]')", "no list of devices"),
        ("print('{}')", "library without device"),
    ],
)
def test_an_openvino_that_fails_is_a_reason_and_not_kept(
    code: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "_ASK", code)
    report = OpenVinoPlatform().detect_hardware()
    assert not report.present
    assert reason in report.reason
    assert report.fix


@pytest.mark.usefixtures("has_openvino")
def test_a_failure_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = openvino._ASK
    monkeypatch.setattr(openvino, "_ASK", "raise SystemExit(1)")
    assert not OpenVinoPlatform().detect_hardware().present
    monkeypatch.setattr(openvino, "_ASK", whole)
    assert OpenVinoPlatform().detect_hardware().present


GPU_AND_NPU = {
    "CPU": {"FULL_DEVICE_NAME": "Intel Core Ultra", "OPTIMIZATION_CAPABILITIES": ["FP32", "INT8", "BIN"]},
    "GPU": {
        "FULL_DEVICE_NAME": "Intel Arc Graphics (iGPU)",
        "OPTIMIZATION_CAPABILITIES": ["FP32", "BIN", "FP16", "INT8", "GPU_HW_MATMUL"],
        "GPU_DEVICE_TOTAL_MEM_SIZE": 16 * GIB,
    },
    "NPU": {
        "FULL_DEVICE_NAME": "Intel AI Boost",
        "OPTIMIZATION_CAPABILITIES": ["FP16", "INT8", "EXPORT_IMPORT"],
        "NPU_DRIVER_VERSION": "1688",
    },
}


@pytest.mark.usefixtures("has_openvino")
def test_gpu_and_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_ASK", f"import json; print(json.dumps({GPU_AND_NPU!r}))")
    cpu, gpu, npu = OpenVinoPlatform().detect_hardware().devices
    assert [device.id for device in (cpu, gpu, npu)] == ["openvino:CPU", "openvino:GPU", "openvino:NPU"]
    assert cpu.precisions["possible"] == ["fp32", "int8"]
    assert (gpu.memory_total_bytes, gpu.vendor, gpu.features) == (16 * GIB, "Intel", ("gpu_hw_matmul",))
    assert gpu.precisions["fast"] == ["fp32", "fp16", "int8"]
    assert npu.precisions["possible"] == ["fp16", "int8"]
    assert npu.driver is not None
    assert npu.driver.endswith("NPU driver 1688")


@pytest.mark.usefixtures("has_openvino")
@pytest.mark.parametrize(("kind", "missing"), [(0x030000, "intel-opencl-icd"), (0x120000, "intel-level-zero-npu")])
def test_intel_hardware_whose_driver_is_missing(kind: int, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = (("0000:00:02.0", 0x8086, 0x1234, kind),)
    monkeypatch.setattr(openvino, "pci_devices", lambda: cards)
    monkeypatch.setattr(openvino, "has_display", lambda vendor: kind == 0x030000)
    report = OpenVinoPlatform().detect_hardware()
    assert report.present
    assert missing in report.fix


def test_openvino_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "engine_version", lambda name: None)
    report = OpenVinoPlatform().detect_hardware()
    assert report.reason.startswith("not installed")
    assert "[openvino]" in report.fix


@pytest.fixture
def with_qnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed onnxruntime-qnn, as far as its files tell."""
    (tmp_path / "onnxruntime_qnn-2.7.0.dist-info").mkdir()
    machines.write(tmp_path, "onnxruntime_qnn/libQnnHtp.so", "")
    monkeypatch.setattr(qualcomm.sys, "path", [str(tmp_path)])
    return tmp_path


@pytest.mark.usefixtures("with_qnn")
def test_the_emulator_says_what_it_is(tmp_path: Path) -> None:
    report = QualcommPlatform(str(tmp_path), "linux", "x86_64").detect_hardware()
    assert report.present
    assert report.reason == "emulator: correct, but its speed means nothing"
    device = report.devices[0]
    assert "emulated" in device.features
    assert device.precisions == {"fast": [], "possible": ["int8"]}
    assert device.driver == "onnxruntime-qnn 2.7.0"


@pytest.mark.usefixtures("with_qnn")
def test_a_board_with_an_npu(tmp_path: Path) -> None:
    absent = QualcommPlatform(str(tmp_path), "linux", "aarch64").detect_hardware()
    assert absent.reason.startswith("library without device")
    machines.write(tmp_path, "/dev/fastrpc-cdsp", "")
    report = QualcommPlatform(str(tmp_path), "linux", "aarch64").detect_hardware()
    assert report.devices[0].precisions["fast"] == ["fp16", "int8"]
    assert "emulated" not in report.devices[0].features


def test_qnn_without_its_backend(with_qnn: Path) -> None:
    (with_qnn / "onnxruntime_qnn/libQnnHtp.so").unlink()
    report = QualcommPlatform(str(with_qnn), "linux", "x86_64").detect_hardware()
    assert report.reason.startswith("library without backend")


def test_qnn_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qualcomm.sys, "path", [str(tmp_path)])
    assert QualcommPlatform(str(tmp_path), "linux", "x86_64").detect_hardware().reason.startswith("not installed")
    machines.write(tmp_path, "/dev/adsprpc-smd", "")
    report = QualcommPlatform(str(tmp_path), "linux", "aarch64").detect_hardware()
    assert report.reason.startswith("driver without library")
    assert "[qualcomm]" in report.fix


def test_qnn_on_a_mac(tmp_path: Path) -> None:
    report = QualcommPlatform(str(tmp_path), "darwin", "arm64").detect_hardware()
    assert report.reason.startswith("wrong operating system")
