"""AMD GPUs from a copy of what the KFD driver shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accel.core.types import PlatformReport
from accel.platforms.rocm import RocmPlatform, fast_precisions, gfx_name
from tests import machines
from tests.machines import GIB

ONE, TWO = 0x1111, 0x2222


def report(root: Path, **environment: str) -> PlatformReport:
    return RocmPlatform(str(root), environment, "linux").detect_hardware()


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Two cards: an MI300X and an RX 7900."""
    machines.amd_driver(tmp_path)
    machines.amd_gpu(tmp_path, 1, 90402, 3, ONE, 192 * GIB, 2 * GIB, name="AMD Instinct MI300X")
    machines.amd_gpu(tmp_path, 10, 110000, 0x43, TWO, 24 * GIB, 0)
    machines.write(tmp_path, "/opt/rocm/.info/version", "7.1.0\n")
    return tmp_path


def test_cards_with_all_that_is_told_of_them(server: Path) -> None:
    found = report(server)
    assert found.present
    first, second = found.devices
    assert (first.id, first.name, first.vendor) == ("rocm:0", "AMD Instinct MI300X", "AMD")
    assert (first.memory_total_bytes, first.memory_free_bytes) == (192 * GIB, 190 * GIB)
    assert (first.cores, first.threads) == (304, None)
    assert first.features == ("gfx942",)
    assert first.precisions["fast"] == ["fp32", "fp16", "bf16", "int8"]
    assert first.driver == "amdgpu 6.12.12, ROCm 7.1.0"
    assert (second.id, second.name, second.features) == ("rocm:1", "AMD gfx1100", ("gfx1100",))


@pytest.mark.parametrize(
    ("environment", "features"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, ["gfx1100"]),
        ({"HIP_VISIBLE_DEVICES": "1,0"}, ["gfx1100", "gfx942"]),
        ({"ROCR_VISIBLE_DEVICES": "1"}, ["gfx1100"]),
        ({"ROCR_VISIBLE_DEVICES": f"GPU-{TWO:016x}"}, ["gfx1100"]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, ["gfx1100"]),
        ({"CUDA_VISIBLE_DEVICES": "0"}, ["gfx942"]),
        ({"CUDA_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"}, ["gfx1100"]),
    ],
)
def test_visible_devices(server: Path, environment: dict[str, str], features: list[str]) -> None:
    devices = report(server, **environment).devices
    assert [device.features[0] for device in devices] == features
    assert [device.id for device in devices] == [f"rocm:{n}" for n in range(len(features))]


@pytest.mark.parametrize(
    "environment",
    [
        {"HIP_VISIBLE_DEVICES": ""},
        {"ROCR_VISIBLE_DEVICES": "-1"},
        {"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"},
    ],
)
def test_hidden_cards(server: Path, environment: dict[str, str]) -> None:
    found = report(server, **environment)
    assert not found.present
    assert found.reason.startswith("hidden")
    assert "HIP_VISIBLE_DEVICES" in found.fix


def test_no_card_and_no_driver(tmp_path: Path) -> None:
    assert report(tmp_path).reason.startswith("no driver and no device")


def test_a_card_without_a_driver(tmp_path: Path) -> None:
    machines.pci(tmp_path, "0000:03:00.0", 0x1002, 0x030000)
    found = report(tmp_path)
    assert found.reason.startswith("no driver: an AMD card is plugged in")
    assert "amdgpu" in found.fix


def test_a_driver_without_a_card(tmp_path: Path) -> None:
    machines.amd_driver(tmp_path)
    assert report(tmp_path).reason.startswith("driver without device")


def test_no_permission(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = report(server)
    assert found.reason.startswith("no permission")
    assert "render" in found.fix


def test_another_system(tmp_path: Path) -> None:
    assert RocmPlatform(str(tmp_path), {}, "darwin").detect_hardware().reason.startswith("wrong operating system")


def test_memory_banks_where_the_card_does_not_tell(server: Path) -> None:
    for name in ("mem_info_vram_total", "mem_info_vram_used"):
        (server / f"sys/bus/pci/devices/0000:03:00.0/{name}").unlink()
    device = report(server).devices[0]
    assert (device.memory_total_bytes, device.memory_free_bytes) == (192 * GIB, None)


def test_damaged_files(server: Path) -> None:
    machines.write(server, "/sys/class/kfd/kfd/topology/nodes/1/properties", "simd_count many\n\0gfx_target_version\n")
    assert [device.features for device in report(server).devices] == [("gfx1100",)]


@pytest.mark.parametrize(
    ("version", "name"),
    [(90010, "gfx90a"), (90402, "gfx942"), (100300, "gfx1030"), (110001, "gfx1101"), (90006, "gfx906")],
)
def test_names_of_targets(version: int, name: str) -> None:
    assert gfx_name(version) == name


@pytest.mark.parametrize(
    ("gfx", "fast"),
    [
        ("gfx900", ["fp32", "fp16"]),
        ("gfx906", ["fp32", "fp16", "int8"]),
        ("gfx90a", ["fp32", "fp16", "bf16", "int8"]),
        ("gfx1030", ["fp32", "fp16", "int8"]),
        ("gfx1201", ["fp32", "fp16", "bf16", "int8"]),
        ("gfx803", ["fp32"]),
    ],
)
def test_fast_precisions(gfx: str, fast: list[str]) -> None:
    assert fast_precisions(gfx) == fast
