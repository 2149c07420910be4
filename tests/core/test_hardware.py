"""A scan survives every kind of probe and puts engines and figures on devices."""

from __future__ import annotations

import time
from typing import Any

import pytest

from accel.core import hardware
from accel.core.contracts import EnginePlugin, HardwarePlugin
from accel.core.errors import InputError, UnavailableError
from accel.core.types import PLATFORMS, Device, PlatformReport


class Fine(HardwarePlugin):
    """Answers at once."""

    name = "fine"
    priority = 1

    def detect_hardware(self) -> PlatformReport:
        return PlatformReport(self.name, True, "here", devices=(Device("fine:0", self.name, "a", "b"),))


class Hanging(Fine):
    """Never answers."""

    name = "hanging"
    time_limit = 0.3

    def detect_hardware(self) -> PlatformReport:
        time.sleep(30)
        raise AssertionError


class Slow(Fine):
    """Answers after a while."""

    name = "slow"

    def detect_hardware(self) -> PlatformReport:
        time.sleep(0.4)
        return super().detect_hardware()


class Broken(Fine):
    """Raises what nobody expects."""

    name = "broken"

    def detect_hardware(self) -> PlatformReport:
        raise KeyError("oops")


class Refusing(Fine):
    """Raises an error of accel's own."""

    name = "refusing"

    def detect_hardware(self) -> PlatformReport:
        raise UnavailableError("the card is busy", "stop the other program")


PLUGINS: dict[str, type[HardwarePlugin]] = {p.name: p for p in (Fine, Hanging, Slow, Broken, Refusing)}


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "platform", lambda name: PLUGINS[name]())


@pytest.mark.usefixtures("plugins")
def test_no_probe_ends_the_scan() -> None:
    start = time.monotonic()
    reports = hardware.scan(["hanging", "fine", "broken", "refusing"])
    assert time.monotonic() - start < 5
    assert [report.name for report in reports] == ["hanging", "fine", "broken", "refusing"]
    assert [report.present for report in reports] == [False, True, False, False]
    hanging, _, broken, refusing = reports
    assert "did not answer within 0.3 s" in hanging.reason
    assert hanging.fix
    assert "KeyError" in broken.reason
    assert (refusing.reason, refusing.fix) == ("the card is busy", "stop the other program")


@pytest.mark.usefixtures("plugins")
def test_probes_run_at_once() -> None:
    start = time.monotonic()
    hardware.scan(["slow"] * 6)
    assert time.monotonic() - start < 1.8


def test_an_unknown_platform_is_wrong_input() -> None:
    with pytest.raises(InputError, match="cudda"):
        hardware.scan(["cudda"])


def test_engines_are_those_of_the_platform_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        platforms = ("fine",)

        def __init__(self, lacks: str | None) -> None:
            self.lacks = lacks

        def missing_on(self, platform: str) -> str | None:
            return self.lacks

    class Other(Engine):
        platforms = ("other",)

    offers: dict[str, Any] = {"good": Engine(None), "absent": Engine("not installed"), "other": Other(None)}

    def offer(name: str) -> EnginePlugin:
        if name == "broken":
            raise ImportError("no such library")
        return offers[name]  # type: ignore[no-any-return]

    monkeypatch.setattr(hardware, "platform", lambda name: PLUGINS[name]())
    monkeypatch.setattr(hardware, "engine_names", lambda: ("absent", "broken", "good", "other"))
    monkeypatch.setattr(hardware, "engine", offer)
    assert hardware.scan(["fine"])[0].devices[0].engines == ("good",)


def test_the_cpu_runs_torch_and_onnx_runtime_here() -> None:
    report = hardware.scan(["cpu"])[0]
    assert {"torch", "onnxruntime"} <= set(report.devices[0].engines)


def test_priorities_of_the_table() -> None:
    ranked = sorted(PLATFORMS, key=lambda name: -hardware.priority(name))
    assert ranked == ["cuda", "openvino", "mps", "rocm", "webgpu", "webnn", "qualcomm", "cpu"]
    assert [hardware.priority(name) for name in ranked] == [100, 90, 85, 80, 70, 65, 60, 50]
