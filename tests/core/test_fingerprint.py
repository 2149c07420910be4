"""The fingerprint changes with what decides speed and with nothing else; versions agree with the installed metadata."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel.core import fingerprint as module
from accel.core.fingerprint import compute, engine_version, fingerprint, torch_build
from tests import machines
from tests.machines import GIB


def server(root: Path, flags: str = machines.EPYC_FLAGS) -> str:
    """A machine with one NVIDIA card, as a root folder."""
    machines.x86(root, 8, flags=flags)
    machines.meminfo(root, 64 * GIB, 40 * GIB)
    machines.nvidia_driver(root)
    return str(root)


def test_it_is_stable_and_short(tmp_path: Path) -> None:
    assert fingerprint() == fingerprint() == compute()
    assert len(fingerprint()) == 16
    assert int(fingerprint(), 16) >= 0
    root = server(tmp_path)
    before = compute(root, {})
    machines.meminfo(tmp_path, 64 * GIB, 1 * GIB)
    assert compute(root, {}) == before


def test_every_process_gives_the_same() -> None:
    code = "from accel.core.fingerprint import fingerprint; print(fingerprint())"
    said = {subprocess.check_output([sys.executable, "-c", code], text=True).strip() for _ in range(2)}
    assert said == {fingerprint()}


def test_what_decides_speed_changes_it(tmp_path: Path) -> None:
    root = server(tmp_path)
    seen = [compute(root, {})]

    def changed(environment: dict[str, str] | None = None) -> bool:
        now = compute(root, environment or {})
        new = now not in seen
        seen.append(now)
        return new

    machines.nvidia_driver(tmp_path, version="590.10")
    assert changed()
    machines.nvidia_driver(tmp_path, cards=("NVIDIA L4",))
    assert changed()
    machines.nvidia_driver(tmp_path, cards=("NVIDIA L4", "NVIDIA L4"))
    assert changed()
    assert changed({"CUDA_VISIBLE_DEVICES": "1"})
    machines.x86(tmp_path, 8, flags=machines.SAPPHIRE_FLAGS)
    assert changed()
    machines.x86(tmp_path, 8, name="AMD EPYC 7763")
    assert changed()
    machines.cgroup2(tmp_path, "/")
    machines.write(tmp_path, "/sys/fs/cgroup/cpu.max", "100000 100000\n")
    assert changed()
    machines.amd_driver(tmp_path)
    machines.amd_gpu(tmp_path, 1, 90402, 3, 77, 192 * GIB, 0)
    assert changed()
    machines.write(tmp_path, "/sys/module/amdgpu/version", "7.0.0")
    assert changed()
    machines.write(tmp_path, "/sys/class/drm/renderD128/device/vendor", "0x8086\n")
    assert changed()
    machines.write(tmp_path, "/sys/class/accel/accel0/device/vendor", "0x8086\n")
    assert changed()


def test_visible_devices_matter_only_where_there_are_devices(tmp_path: Path) -> None:
    machines.x86(tmp_path, 8)
    assert compute(str(tmp_path), {"CUDA_VISIBLE_DEVICES": "0"}) == compute(str(tmp_path), {})


def test_it_costs_less_than_three_milliseconds() -> None:
    times = []
    for _ in range(30):
        start = time.perf_counter()
        compute()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.003


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from accel.core.fingerprint import engine_version, fingerprint, torch_build\n"
        "fingerprint(); engine_version('torch'); torch_build()\n"
        "print(*[m for m in ('torch', 'numpy', 'importlib.metadata', 'psutil', 'cpuinfo', 'subprocess', 'pynvml')"
        " if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


@pytest.mark.parametrize(
    "name", ["torch", "onnxruntime", "transformers", "nvidia-ml-py", "Py-CPUinfo", "typing.extensions"]
)
def test_versions_agree_with_the_metadata(name: str) -> None:
    assert engine_version(name) == importlib.metadata.version(name)


def test_a_missing_distribution_has_no_version() -> None:
    assert engine_version("surely-not-installed") is None
    assert engine_version("torc") is None


def test_a_distribution_that_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert engine_version("late-comer") is None
    folder = tmp_path / "Late_Comer-1.2.3+cu130.dist-info"
    folder.mkdir()
    assert engine_version("late-comer") == "1.2.3+cu130"
    folder.rmdir()
    assert engine_version("late-comer") is None


def test_what_torch_was_built_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert torch_build() == {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "hip": getattr(torch.version, "hip", None) or "",
    }
    text = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.1'\n"
    machines.write(tmp_path, "torch/version.py", text)
    monkeypatch.syspath_prepend(tmp_path)
    module.torch_build.cache_clear()
    try:
        assert torch_build() == {"version": "2.13.0+cpu", "cuda": "", "hip": "7.1"}
    finally:
        module.torch_build.cache_clear()
