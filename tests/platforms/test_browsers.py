"""WebGPU and WebNN: browsers are looked for, and never started."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.core.browsers import Browser, find
from accel.core.contracts import HardwarePlugin
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
def test_browsers_are_devices_that_nothing_runs_on_yet(plugin: HardwarePlugin, ids: list[str]) -> None:
    report = plugin.detect_hardware()
    assert report.present
    assert [device.id for device in report.devices] == ids
    assert "not built in yet" in report.reason
    assert all(device.engines == () and device.precisions["possible"] == [] for device in report.devices)


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
