"""What `--hw` means, and what it says when it means nothing here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from accel.core import config, hardware
from accel.core.devices import Selection, Target, find_devices, parse_hw, usable
from accel.core.errors import InputError, UnavailableError
from accel.core.types import PLATFORMS, Device, PlatformReport


def device(name: str, *features: str, engines: tuple[str, ...] = ("torch",)) -> Device:
    return Device(name, name.partition(":")[0], "a device", "a vendor", features=features, engines=engines)


REPORTS = [
    PlatformReport("cpu", True, "", devices=(device("cpu:0"),)),
    PlatformReport("cuda", True, "", devices=(device("cuda:0"), device("cuda:1"))),
    PlatformReport("openvino", True, "", devices=(device("openvino:CPU"), device("openvino:GPU"))),
    PlatformReport("rocm", False, "no driver: the card is there", "install the driver"),
    PlatformReport("qualcomm", True, "", devices=(device("qualcomm:0", "htp", "emulated"),)),
    PlatformReport("webgpu", True, "", devices=(device("webgpu:chromium", engines=()),)),
]


@pytest.mark.parametrize("text", ["auto", "all", "AUTO", " all "])
def test_auto_and_all_are_every_platform(text: str) -> None:
    selection = parse_hw(text)
    assert selection.platforms == PLATFORMS
    assert not selection.named


def test_a_list() -> None:
    selection = parse_hw(" cpu, CUDA:1 ,openvino:GPU.0,cuda:1")
    assert selection == Selection((Target("cpu"), Target("cuda", "1"), Target("openvino", "GPU.0")), named=True)
    assert selection.platforms == ("cpu", "cuda", "openvino")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cudda", "cuda"),
        ("openvinno", "openvino"),
        ("cup", "cpu"),
        ("gpu", "cuda, rocm, mps or openvino:GPU"),
        ("nvidia:0", "cuda"),
        ("metal", "mps"),
        ("npu", "qualcomm"),
        ("aut", "auto"),
        ("zzz", "known: "),
    ],
)
def test_unknown_names_get_near_ones(text: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_hw(text)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
    assert "null" not in caught.value.hint


@pytest.mark.parametrize(
    "text", ["", " ", ",", "cpu,", ",cpu", "cpu,,cuda", "auto,cpu", "cpu,all", "cuda:", ":0", "auto:0"]
)
def test_lists_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError):
        parse_hw(text)


def ids(text: str) -> list[str]:
    return [found.id for found in find_devices(text, reports=REPORTS)]


def test_auto_goes_by_priority_and_leaves_out_what_cannot_run() -> None:
    assert ids("auto") == ["cuda:0", "cuda:1", "openvino:CPU", "openvino:GPU", "cpu:0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu,cuda", ["cpu:0", "cuda:0", "cuda:1"]),
        ("cuda:1,cpu", ["cuda:1", "cpu:0"]),
        ("cuda:1,cuda", ["cuda:1", "cuda:0"]),
        ("openvino:GPU.0", ["openvino:GPU"]),
        ("openvino:gpu", ["openvino:GPU"]),
        ("qualcomm", ["qualcomm:0"]),
        ("webgpu", ["webgpu:chromium"]),
    ],
)
def test_named_ones_keep_their_order(text: str, expected: list[str]) -> None:
    assert ids(text) == expected


def test_two_gpus_of_openvino() -> None:
    report = PlatformReport("openvino", True, "", devices=(device("openvino:GPU.0"), device("openvino:GPU.1")))
    assert [d.id for d in find_devices("openvino:GPU", reports=[report])] == ["openvino:GPU.0"]
    assert [d.id for d in find_devices("openvino:gpu.1", reports=[report])] == ["openvino:GPU.1"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("rocm", "no driver: the card is there", "install the driver"),
        ("cpu,rocm", "no driver: the card is there", "install the driver"),
        ("cuda:7", "cuda has cuda:0, cuda:1", "--hw cuda:0"),
        ("cuda:h100", "no device cuda:h100 here", "--hw cuda:0"),
        ("openvino:NPU", "openvino has openvino:CPU, openvino:GPU", "--hw openvino:CPU"),
    ],
)
def test_what_is_not_here_says_why(text: str, message: str, hint: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        find_devices(text, reports=REPORTS)
    assert message in caught.value.message
    assert caught.value.hint == hint
    assert caught.value.exit_code == 3


def test_null_works_by_name() -> None:
    assert [d.id for d in find_devices("null")] == ["null:0"]


def test_usable_looks_at_hardware_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scans: list[tuple[str, ...]] = []
    real = hardware.scan

    def counted(names: tuple[str, ...]) -> list[PlatformReport]:
        scans.append(tuple(names))
        return real(names)

    monkeypatch.setattr(hardware, "scan", counted)
    first = usable("auto")
    assert ("cpu", "cpu:0") in first
    assert usable("auto") == first
    assert usable("cpu") == (("cpu", "cpu:0"),)
    assert usable("cpu:0") == (("cpu", "cpu:0"),)
    assert len(scans) == 1
    assert usable("null") == (("null", "null:0"),)
    assert scans[1:] == [("null",)]


def test_usable_sees_a_change_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    usable("auto")
    monkeypatch.setattr("accel.core.fingerprint.fingerprint", lambda: "another machine")
    reports = {report.name: report for report in REPORTS}
    monkeypatch.setattr(
        hardware, "scan", lambda names: [reports.get(n, PlatformReport(n, False, "none")) for n in names]
    )
    assert [name for _, name in usable("auto")] == ["cuda:0", "cuda:1", "openvino:CPU", "openvino:GPU", "cpu:0"]
    assert [name for _, name in usable("openvino:gpu")] == ["openvino:GPU"]


def test_the_configuration_steers_auto_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = {report.name: report for report in REPORTS}
    monkeypatch.setattr(
        hardware, "scan", lambda names: [reports.get(n, PlatformReport(n, False, "none")) for n in names]
    )
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_ALLOW_OPENVINO", "false")
    assert [name for _, name in usable("auto")] == ["cuda:0", "cuda:1", "cpu:0"]
    assert [name for _, name in usable("openvino")] == ["openvino:CPU", "openvino:GPU"]
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_PREFER_CUDA", "true")
    assert [name for _, name in usable("auto")] == ["cuda:0", "cuda:1"]
    assert [name for _, name in usable("cpu")] == ["cpu:0"]
    assert config.get("hardware.prefer_cuda") is True


def test_nothing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "scan", lambda names: [PlatformReport(n, False, "none") for n in names])
    with pytest.raises(UnavailableError, match="no device"):
        usable("auto")


def test_usable_works_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "file" / "home"))
    assert ("cpu", "cpu:0") in usable("auto")


def test_a_target_is_told_as_it_was_given() -> None:
    assert [str(t) for t in parse_hw("cpu,cuda:1").targets] == ["cpu", "cuda:1"]
    assert dataclasses.is_dataclass(Target)
