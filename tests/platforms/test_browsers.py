"""WebGPU and WebNN: browsers are looked for without being started, and what was seen in them counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from accel.core.browser import probing
from accel.core.browser.finding import Browser, find
from accel.core.contracts import HardwarePlugin
from accel.core.devices import find_devices
from accel.core.types import PLATFORMS, PlatformReport
from accel.platforms.webgpu import WebGpuPlatform
from accel.platforms.webnn import WebNnPlatform
from tests import machines


def program(root: Path, path: str) -> Path:
    """A program that would leave a trace if it were started."""
    file = machines.write(root, path, f"#!/bin/sh\ntouch {root}/started\n")
    file.chmod(0o755)
    return file


def test_linux_folders(tmp_path: Path) -> None:
    program(tmp_path, "/usr/bin/chromium")
    program(tmp_path, "/snap/bin/chromium")
    program(tmp_path, "/usr/bin/firefox-esr")
    program(tmp_path, "/usr/bin/microsoft-edge")
    machines.write(tmp_path, "/usr/bin/application.ini", "[App]\nName=Firefox\nVersion=153.0\n")
    machines.write(tmp_path, "/usr/bin/google-chrome", "not executable")
    found = {browser.kind: browser for browser in find("linux", str(tmp_path))}
    assert set(found) == {"chromium", "firefox", "edge"}
    assert found["chromium"].path == f"{tmp_path}/usr/bin/chromium"
    assert found["firefox"].version == "153.0"
    assert not (tmp_path / "started").exists()


def test_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "/tools/google-chrome")
    monkeypatch.setenv("PATH", f"{tmp_path}/none:{tmp_path}/tools")
    assert Browser("chrome", f"{tmp_path}/tools/google-chrome", None) in find("linux")


def test_macos_applications(tmp_path: Path) -> None:
    contents = "/Applications/Google Chrome.app/Contents"
    program(tmp_path, f"{contents}/MacOS/Google Chrome")
    program(tmp_path, "/Applications/Firefox.app/Contents/MacOS/firefox")
    machines.write(
        tmp_path,
        f"{contents}/Info.plist",
        "<dict><key>CFBundleShortVersionString</key>\n\t<string>156.0.1</string></dict>",
    )
    found = {browser.kind: browser.version for browser in find("darwin", str(tmp_path))}
    assert found == {"chrome": "156.0.1", "firefox": None}


def test_nothing(tmp_path: Path) -> None:
    assert find("linux", str(tmp_path)) == []
    assert find("darwin", str(tmp_path)) == []


@pytest.mark.parametrize(("wanted", "kinds"), [("firefox", ["firefox"]), ("Chromium", ["chromium"]), ("opera", [])])
def test_a_wanted_name(tmp_path: Path, wanted: str, kinds: list[str]) -> None:
    program(tmp_path, "/usr/bin/chromium")
    program(tmp_path, "/usr/bin/firefox")
    assert [browser.kind for browser in find("linux", str(tmp_path), wanted)] == kinds


def test_a_wanted_path(tmp_path: Path) -> None:
    path = str(program(tmp_path, "/opt/my/chrome-headless-shell"))
    assert find("linux", "", path) == [Browser("chrome", path, None)]
    assert find("linux", "", f"{path}-not-there") == []


CHROMIUM, FIREFOX = Browser("chromium", "/usr/bin/chromium", None), Browser("firefox", "/usr/bin/firefox", "153.0")


@pytest.mark.parametrize(
    ("plugin", "ids"),
    [
        (WebGpuPlatform([CHROMIUM, FIREFOX]), ["webgpu:chromium", "webgpu:firefox"]),
        (WebNnPlatform([CHROMIUM, FIREFOX]), ["webnn:chromium"]),
    ],
)
def test_browsers_are_devices_before_anyone_looked_into_them(plugin: HardwarePlugin, ids: list[str]) -> None:
    report = plugin.detect_hardware()
    assert report.present
    assert [device.id for device in report.devices] == ids
    assert "detect --deep" in report.reason
    assert all(device.features == ("unproven",) for device in report.devices)


ADAPTER = {"present": True, "reason": "", "vendor": "nvidia", "architecture": "hopper", "features": ["shader-f16"],
           "limits": {"maxStorageBufferBindingSize": 1 << 30}, "version": "156.0", "software": False}  # fmt: skip
CPU_ONLY = {"executes": True, "devices": ["cpu"]}


def test_what_was_seen_in_a_browser_is_said_until_it_changes(tmp_path: Path) -> None:
    browser = Browser("chromium", str(program(tmp_path, "/usr/bin/chromium")), None)
    probing.remember(browser, "webgpu", ADAPTER)
    (device,) = WebGpuPlatform([browser]).detect_hardware().devices
    assert device.name.endswith("nvidia hopper, buffers up to 1024 MB")
    assert device.features == ("shader-f16",)
    assert device.driver == "156.0"
    Path(browser.path).write_text("another version")
    (device,) = WebGpuPlatform([browser]).detect_hardware().devices
    assert device.features == ("unproven",)


def test_a_software_adapter_is_marked(tmp_path: Path) -> None:
    browser = Browser("chromium", str(program(tmp_path, "/usr/bin/chromium")), None)
    probing.remember(browser, "webgpu", {**ADAPTER, "software": True})
    (device,) = WebGpuPlatform([browser]).detect_hardware().devices
    assert "software" in device.features
    assert "a software renderer" in device.name


@pytest.mark.parametrize(
    ("adapter", "software"),
    [
        ({"vendor": "google", "architecture": "swiftshader", "fallback": False}, True),
        ({"vendor": "", "architecture": "", "fallback": True}, True),
        ({"vendor": "mesa", "description": "llvmpipe (LLVM 15.0.6, 256 bits)"}, True),
        ({"vendor": "nvidia", "architecture": "hopper", "fallback": False}, False),
        ({"vendor": None, "architecture": None}, False),
    ],
)
def test_which_adapters_are_programs(adapter: dict[str, Any], software: bool) -> None:
    assert probing.is_software(adapter) is software


def test_webnn_says_where_it_really_executes(tmp_path: Path) -> None:
    browser = Browser("chromium", str(program(tmp_path, "/usr/bin/chromium")), None)
    refused = {"executes": False, "reason": "not supported"}
    found = {"present": True, "reason": "", "types": {"npu": refused, "gpu": CPU_ONLY, "cpu": CPU_ONLY}}
    probing.remember(browser, "webnn", found)
    (device,) = WebNnPlatform([browser]).detect_hardware().devices
    assert device.name.endswith("executes on the cpu, but gpu runs on the cpu")
    assert device.features == ("cpu", "software")


def test_a_browser_that_offers_nothing_is_no_device(tmp_path: Path) -> None:
    browser = Browser("chromium", str(program(tmp_path, "/usr/bin/chromium")), None)
    probing.remember(browser, "webnn", {"present": False, "reason": "built without it", "types": {}})
    report = WebNnPlatform([browser]).detect_hardware()
    assert not report.present
    assert "built without it" in report.reason
    assert "hardware.browser" in report.fix


def test_auto_leaves_browsers_alone_that_it_would_waste_its_trial_on(tmp_path: Path) -> None:
    browser = Browser("chromium", str(program(tmp_path, "/usr/bin/chromium")), None)

    def automatic() -> list[str]:
        report = WebGpuPlatform([browser]).detect_hardware()
        devices = tuple(dataclasses.replace(device, engines=("ort-web",)) for device in report.devices)
        reports = [PlatformReport(name, False, "") for name in PLATFORMS if name != "webgpu"]
        return [d.id for d in find_devices("auto", reports=[*reports, dataclasses.replace(report, devices=devices)])]

    assert automatic() == []
    probing.remember(browser, "webgpu", {**ADAPTER, "software": True})
    assert automatic() == []
    probing.remember(browser, "webgpu", ADAPTER)
    assert automatic() == ["webgpu:chromium"]


def test_webnn_needs_a_relative_of_chromium() -> None:
    report = WebNnPlatform([FIREFOX]).detect_hardware()
    assert not report.present
    assert "install Chromium" in report.fix


@pytest.mark.parametrize("plugin", [WebGpuPlatform, WebNnPlatform])
def test_the_setting_names_the_browser(
    plugin: type[HardwarePlugin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path, "/opt/chromium/chromium")
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_BROWSER", str(path))
    report = plugin().detect_hardware()
    assert [device.id for device in report.devices] == [f"{plugin.name}:chromium"]
    assert str(path) in report.devices[0].name
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_BROWSER", str(tmp_path / "gone"))
    report = plugin().detect_hardware()
    assert not report.present
    assert "hardware.browser" in report.reason
    assert "hardware.browser" in report.fix
