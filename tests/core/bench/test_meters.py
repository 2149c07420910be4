"""Energy and device memory: read where the machine tells them, and otherwise said to be not measured."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from accel.core.bench import meters
from accel.core.bench.meters import Meter, Reading, used


def zone(root: Path, name: str, energy: int | str, kind: str = "package-0", limit: int | None = 1_000_000) -> Path:
    """A RAPL zone of the kernel's powercap folder."""
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    if limit is not None:
        (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder


def test_the_packages_of_a_processor_are_added_up(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", 100_000)
    second = zone(tmp_path, "intel-rapl:1", 900_000, "package-1")
    # parts of a package, and the whole platform, would count the same energy twice
    zone(tmp_path, "intel-rapl:0:0", 5, "core")
    zone(tmp_path, "intel-rapl:2", 7, "psys")
    meter = Meter("cpu:0", str(tmp_path))
    before = meter.read()
    assert meter.missing == "" and before == Reading((0.1, 0.9), (1.0, 1.0))
    (first / "energy_uj").write_text("350000\n")
    (second / "energy_uj").write_text("150000\n")  # it has wrapped round
    assert used(before, meter.read()) == pytest.approx(0.25 + 0.25)
    assert Meter("openvino:CPU", str(tmp_path)).missing == ""


def test_a_counter_that_is_gone_or_closed_is_not_measured(tmp_path: Path) -> None:
    assert Meter("cpu:0", str(tmp_path)).missing == meters.NO_RAPL
    folder = zone(tmp_path, "intel-rapl:0", 1)
    meter = Meter("cpu:0", str(tmp_path))
    before = meter.read()
    (folder / "energy_uj").unlink()
    assert meter.read() is None and used(before, meter.read()) is None
    zone(tmp_path, "intel-rapl:0", "not a number")
    assert Meter("cpu:0", str(tmp_path)).missing == meters.NO_RAPL


def test_readings_that_tell_nothing() -> None:
    assert used(None, Reading((1.0,), (None,))) is None and used(Reading((1.0,), (None,)), None) is None
    assert used(Reading((1.0,), (None,)), Reading((1.0, 2.0), (None, None))) is None
    # a counter that goes back without a known end was reset
    assert used(Reading((9.0,), (None,)), Reading((1.0,), (None,))) is None
    assert used(Reading((1.0,), (None,)), Reading((1.0,), (None,))) == 0.0


@pytest.mark.parametrize("device", ["openvino:GPU", "mps:0", "webgpu:chromium", "rocm:0"])
def test_devices_without_a_meter_say_so(device: str, tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 1)
    meter = Meter(device, str(tmp_path))
    assert meter.missing == meters.NO_CARD and meter.read() is None


class Cards:
    """A driver with two cards; the second is too old to count energy."""

    def __init__(self) -> None:
        self.millijoules = 5_000

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}{handle}{handle}{handle}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if handle == 1:
            raise RuntimeError("Not Supported")
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        if handle == 1:
            raise RuntimeError("Insufficient Permissions")
        return [SimpleNamespace(pid=7, usedGpuMemory=123), SimpleNamespace(pid=8, usedGpuMemory=None)]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    made = Cards()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


def test_a_card_counts_its_own_energy(cards: Cards) -> None:
    meter = Meter("cuda:0")
    before = meter.read()
    cards.millijoules += 2_500
    assert meter.missing == "" and used(before, meter.read()) == pytest.approx(2.5)


def test_a_card_that_counts_none(cards: Cards) -> None:
    meter = Meter("cuda:1")
    assert meter.missing == meters.NO_CARD and meter.read() is None


def test_cards_are_numbered_as_cuda_does(cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert meters.card("cuda:0") == 1 and meters.card("cuda:1") == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert meters.card("cuda:1") is None


def test_the_memory_of_one_process_on_a_card(cards: Cards) -> None:
    assert meters.card_memory(0, 7) == 123
    # in a container the driver may know it by another number, or not tell
    assert meters.card_memory(0, 8) is None and meters.card_memory(0, 9) is None
    assert meters.card_memory(1, 7) is None and meters.card_memory(None, 7) is None


def test_a_machine_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert meters.card("cuda:0") is None and Meter("cuda:0").missing == meters.NO_CARD
