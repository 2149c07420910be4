"""Every platform in the folder keeps the contract, on whatever machine this is."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time

import pytest

from accel.core.contracts import HardwarePlugin
from accel.core.registry import builtin_names, platform, plugin_class
from accel.core.types import PLATFORMS, PRECISIONS, Device, PlatformReport

NAMES = builtin_names("platforms")


def test_the_folder_holds_the_eight_and_the_null_platform() -> None:
    assert set(NAMES) == {*PLATFORMS, "null"}


@pytest.mark.parametrize("name", NAMES)
def test_the_class(name: str) -> None:
    plugin = plugin_class("platforms", name)
    assert issubclass(plugin, HardwarePlugin)
    assert plugin.name == name
    assert isinstance(plugin.priority, int)
    assert plugin.time_limit > 0
    assert plugin.__doc__


def test_priorities_differ() -> None:
    assert len({plugin_class("platforms", name).priority for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_report(name: str) -> None:
    report = platform(name).detect_hardware()
    assert isinstance(report, PlatformReport)
    assert report.name == name
    assert report.reason
    assert report.present == bool(report.devices)
    assert report.present or report.fix
    for text in (report.reason, report.fix):
        assert text == text.strip()
        assert "\n" not in text
    json.dumps(dataclasses.asdict(report), allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_devices(name: str) -> None:
    devices = platform(name).detect_hardware().devices
    assert len({device.id for device in devices}) == len(devices)
    for device in devices:
        check(device, name)


def check(device: Device, name: str) -> None:
    assert device.platform == name
    assert re.fullmatch(rf"{name}:[A-Za-z0-9.]+", device.id)
    assert device.name.strip() == device.name != ""
    assert device.vendor
    for size in (device.memory_total_bytes, device.memory_free_bytes, device.cores, device.threads):
        assert size is None or (type(size) is int and size >= 0)
    if device.memory_total_bytes is not None and device.memory_free_bytes is not None:
        assert device.memory_free_bytes <= device.memory_total_bytes
    assert set(device.precisions) == {"fast", "possible"}
    assert set(device.precisions["fast"]) <= set(device.precisions["possible"]) <= set(PRECISIONS)
    assert all(feature == feature.lower() for feature in device.features)
    assert isinstance(device.features, tuple)
    assert device.driver is None or isinstance(device.driver, str)


@pytest.mark.parametrize("name", NAMES)
def test_two_looks_agree(name: str) -> None:
    def fixed(report: PlatformReport) -> list[Device]:
        return [dataclasses.replace(device, memory_free_bytes=None) for device in report.devices]

    assert fixed(platform(name).detect_hardware()) == fixed(platform(name).detect_hardware())


@pytest.mark.parametrize("name", NAMES)
def test_a_second_look_is_quick(name: str) -> None:
    platform(name).detect_hardware()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        platform(name).detect_hardware()
        times.append(time.perf_counter() - start)
    # a driver may take its time; reading files may not
    assert min(times) < (1.0 if name in ("cuda", "rocm") else 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_look_loads_no_framework(name: str) -> None:
    code = (
        f"import sys; from accel.core.registry import platform; platform({name!r}).detect_hardware()\n"
        "print(*[m for m in ('torch', 'transformers', 'numpy', 'onnxruntime', 'openvino', 'rich', 'psutil', 'typer')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.strip() == ""
    assert done.stderr == ""
