"""CUDA through NVML. Few test machines have such cards, so the driver's library is a stand-in written in C; the rest is
real: nvidia-ml-py, the dynamic linker, and a process of accel for every case."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accel.platforms.cuda import CudaPlatform, fast_precisions
from tests import machines
from tests.machines import GIB

SOURCES = Path(__file__).parent / "fake_nvml"
A = "GPU-aaaaaaaa-0000-0000-0000-000000000001"
B = "GPU-bbbbbbbb-0000-0000-0000-000000000002"
C = "GPU-cccccccc-0000-0000-0000-000000000003"
H100 = f"NVIDIA H100 80GB HBM3|9|0|{80 * GIB}|{79 * GIB}|16896|0"
T4 = f"Tesla T4|7|5|{16 * GIB}|{15 * GIB}|2560|0"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-ins for libnvidia-ml and libcuda."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("nvidia")
    for source, name in (("nvml.c", "libnvidia-ml.so.1"), ("cuda.c", "libcuda.so.1")):
        subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", folder / name, SOURCES / source], check=True)
    return folder


class Machine:
    """A machine with NVIDIA cards, for processes of accel."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library, self.folder = library, folder

    def run(self, cards: list[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`accel detect` with these cards, driver lines included."""
        described = ["driver 580.65.06", "cuda 13000", *cards]
        machines.write(self.folder, "cards", "\n".join(described) + "\n")
        variables = {**os.environ, "FAKE_NVML": str(self.folder / "cards"), "LD_LIBRARY_PATH": str(self.library)}
        variables.pop("CUDA_VISIBLE_DEVICES", None)
        return subprocess.run(
            [sys.executable, "-m", "accel", "detect", "--hw", "cuda", *arguments],
            env={**variables, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def report(self, cards: list[str], **environment: str) -> dict[str, Any]:
        """The platform's part of the JSON."""
        answer: dict[str, Any] = json.loads(self.run(cards, "--json", **environment).stdout)["platforms"][0]
        return answer

    def names(self, cards: list[str], **environment: str) -> list[str]:
        """The devices as `id name`."""
        return [f"{device['id']} {device['name']}" for device in self.report(cards, **environment)["devices"]]


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path)


def card(uuid: str, facts: str) -> str:
    return f"card {uuid}|{facts}"


def mig(uuid: str, name: str, instance: int) -> str:
    return f"mig {uuid}|{name}|{10 * GIB}|{9 * GIB}|{instance}|0"


def test_a_card_and_all_that_is_told_of_it(machine: Machine) -> None:
    report = machine.report([card(A, H100)])
    assert report["present"] is True
    device = report["devices"][0]
    assert device["engines"]
    del device["engines"]
    assert device == {
        "id": "cuda:0",
        "name": "NVIDIA H100 80GB HBM3",
        "vendor": "NVIDIA",
        "memory_total_bytes": 80 * GIB,
        "memory_free_bytes": 79 * GIB,
        "cores": 16896,
        "threads": None,
        "features": ["sm_90", "tensor_cores", "fp8"],
        "precisions": {"fast": ["fp32", "fp16", "bf16", "int8"], "possible": ["fp32", "fp16", "bf16", "int8"]},
        "driver": "580.65.06, CUDA 13.0",
        "measured": None,
    }


def test_one_card_exits_0_and_quiet_gives_its_id(machine: Machine) -> None:
    done = machine.run([card(A, H100)], "--quiet")
    assert (done.returncode, done.stdout) == (0, "cuda:0\n")


CARDS = [card(A, H100.replace("H100", "A")), card(B, H100.replace("H100", "B")), card(C, H100.replace("H100", "C"))]
ONE, TWO, THREE = (f"NVIDIA {letter} 80GB HBM3" for letter in "ABC")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", [TWO]),
        ("2,0", [THREE, ONE]),
        (B, [TWO]),
        ("GPU-cccc,GPU-aaaa", [THREE, ONE]),
        ("0,9,1", [ONE]),
    ],
)
def test_visible_devices_are_numbered_anew(machine: Machine, value: str, expected: list[str]) -> None:
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    names = machine.names(CARDS, CUDA_VISIBLE_DEVICES=value, **order)
    assert names == [f"cuda:{number} {name}" for number, name in enumerate(expected)]


@pytest.mark.parametrize("value", ["", "-1", "7", "0,0", "GPU-dddd"])
def test_hidden_cards_are_absent_with_the_reason(machine: Machine, value: str) -> None:
    done = machine.run([card(A, H100)], "--json", CUDA_VISIBLE_DEVICES=value)
    report = json.loads(done.stdout)["platforms"][0]
    assert done.returncode == 3
    assert not report["present"]
    assert "CUDA_VISIBLE_DEVICES" in report["reason"]
    assert report["fix"] == "unset CUDA_VISIBLE_DEVICES"


def test_unlike_cards_come_in_the_order_of_cuda(machine: Machine) -> None:
    cards = [card(A, T4), card(B, H100)]
    fastest_first = ",".join(uuid[4:].replace("-", "") for uuid in (B, A))
    names = ["cuda:0 NVIDIA H100 80GB HBM3", "cuda:1 Tesla T4"]
    assert machine.names(cards, FAKE_CUDA=fastest_first) == names
    assert machine.names(cards, CUDA_DEVICE_ORDER="PCI_BUS_ID") == ["cuda:0 Tesla T4", "cuda:1 NVIDIA H100 80GB HBM3"]


def test_unlike_cards_keep_the_order_of_their_slots_where_cuda_does_not_answer(machine: Machine) -> None:
    assert machine.names([card(A, T4), card(B, H100)]) == ["cuda:0 Tesla T4", "cuda:1 NVIDIA H100 80GB HBM3"]


SLICED = [
    card(A, H100[:-1] + "1"),
    mig("MIG-11111111-aaaa", "NVIDIA H100 MIG 1g.10gb", 7),
    mig("MIG-22222222-bbbb", "NVIDIA H100 MIG 1g.10gb (2)", 8),
    card(B, H100),
]
FIRST, SECOND = "cuda:0 NVIDIA H100 MIG 1g.10gb", "cuda:0 NVIDIA H100 MIG 1g.10gb (2)"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [FIRST]),
        ("0", [FIRST]),
        ("1", ["cuda:0 NVIDIA H100 80GB HBM3"]),
        ("MIG-22222222-bbbb", [SECOND]),
        ("MIG-2222", [SECOND]),
        (f"MIG-{A}/8/0", [SECOND]),
        ("MIG-2222,MIG-1111", [SECOND]),
    ],
)
def test_mig(machine: Machine, value: str | None, expected: list[str]) -> None:
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | ({} if value is None else {"CUDA_VISIBLE_DEVICES": value})
    assert machine.names(SLICED, **environment) == expected


def test_a_mig_instance_has_its_own_memory_and_its_cards_capability(machine: Machine) -> None:
    device = machine.report(SLICED[:2])["devices"][0]
    assert (device["memory_total_bytes"], device["cores"]) == (10 * GIB, None)
    assert device["features"] == ["sm_90", "tensor_cores", "fp8", "mig"]


def test_mig_mode_without_an_instance(machine: Machine) -> None:
    report = machine.report([card(A, H100[:-1] + "1")])
    assert not report["present"]
    assert "MIG" in report["reason"]
    assert "nvidia-smi mig" in report["fix"]


def test_a_card_that_shares_memory_says_unknown(machine: Machine) -> None:
    device = machine.report([card(A, "Orin (nvgpu)|8|7|0|0|0|0")])["devices"][0]
    assert (device["memory_total_bytes"], device["memory_free_bytes"], device["cores"]) == (None, None, None)


def test_a_lost_card_is_counted_and_the_others_are_shown(machine: Machine) -> None:
    report = machine.report(["lost", card(A, H100)])
    assert [device["id"] for device in report["devices"]] == ["cuda:0"]
    assert "1 of 2 cards did not answer" in report["reason"]
    assert not machine.report(["lost"])["present"]


@pytest.mark.parametrize(
    ("cards", "reason", "fix"),
    [
        ([], "library without device", "nvidia-smi"),
        (["init 9"], "library without driver", "--gpus all"),
        (["init 18"], "driver and library have different versions", "restart the machine"),
        (["init 999"], "does not answer", "nvidia-smi"),
    ],
)
def test_reasons_are_told_apart(machine: Machine, cards: list[str], reason: str, fix: str) -> None:
    done = machine.run(cards)
    assert done.returncode == 3
    assert reason in done.stderr
    assert fix in done.stderr


def test_a_broken_pynvml_is_a_reason(machine: Machine, tmp_path: Path) -> None:
    machines.write(tmp_path, "shadow/pynvml.py", "raise RuntimeError('half an installation')\n")
    paths = os.pathsep.join([str(tmp_path / "shadow"), *sys.path])
    done = machine.run([card(A, H100)], PYTHONPATH=paths)
    assert done.returncode == 3
    assert "half an installation" in done.stderr


def test_a_pynvml_without_its_functions_is_a_reason(machine: Machine, tmp_path: Path) -> None:
    machines.write(tmp_path, "shadow/pynvml.py", "def nvmlInit(): pass\n")
    done = machine.run([card(A, H100)], PYTHONPATH=os.pathsep.join([str(tmp_path / "shadow"), *sys.path]))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def without_library(root: Path) -> tuple[str, str]:
    class Bare(CudaPlatform):
        def _library_loads(self) -> bool:
            return False

    report = Bare(str(root), {}, "linux").detect_hardware()
    assert not report.present
    return report.reason, report.fix


def test_no_card_no_driver_no_library(tmp_path: Path) -> None:
    reason, fix = without_library(tmp_path)
    assert reason.startswith("no driver and no device")
    assert fix


def test_a_card_without_a_driver(tmp_path: Path) -> None:
    machines.pci(tmp_path, "0000:65:00.0", 0x10DE, 0x030200)
    reason, fix = without_library(tmp_path)
    assert reason.startswith("no driver: an NVIDIA card is plugged in")
    assert "install the NVIDIA driver" in fix


def test_a_driver_without_its_library(tmp_path: Path) -> None:
    machines.nvidia_driver(tmp_path)
    reason, fix = without_library(tmp_path)
    assert reason.startswith("driver without library")
    assert "--gpus all" in fix


def test_macos(tmp_path: Path) -> None:
    report = CudaPlatform(str(tmp_path), {}, "darwin").detect_hardware()
    assert report.reason.startswith("wrong operating system")


@pytest.mark.parametrize(
    ("capability", "fast"),
    [
        ((3, 5), ["fp32"]),
        ((6, 0), ["fp32", "fp16"]),
        ((6, 1), ["fp32", "int8"]),
        ((7, 0), ["fp32", "fp16", "int8"]),
        ((7, 5), ["fp32", "fp16", "int8"]),
        ((8, 0), ["fp32", "fp16", "bf16", "int8"]),
        ((12, 0), ["fp32", "fp16", "bf16", "int8"]),
    ],
)
def test_fast_precisions(capability: tuple[int, int], fast: list[str]) -> None:
    assert fast_precisions(*capability) == fast
