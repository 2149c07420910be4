"""The CPU as a process may use it, on machines of many kinds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.core import cpu
from tests import machines
from tests.machines import GIB

ALL128 = frozenset(range(128))


def in_child(code: str, **options: object) -> str:
    """Output of a Python process that runs the code."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, **options
    )  # type: ignore[call-overload]
    return str(done.stdout).strip()


def test_a_server_of_128_threads(tmp_path: Path) -> None:
    machines.x86(tmp_path, 128)
    machines.topology(tmp_path, 128, 2)
    found = cpu.describe(str(tmp_path), ALL128)
    assert (found.name, found.vendor, found.cores, found.threads) == ("AMD EPYC 9754", "AMD", 64, 128)
    assert {"avx2", "avx512_vnni", "avx512_bf16"} <= set(found.features)
    assert "amx_int8" not in found.features


@pytest.mark.parametrize(
    ("allowed", "cores", "threads"),
    [({0, 64}, 1, 2), ({0, 1}, 2, 2), ({5}, 1, 1), (set(range(64)), 64, 64), ({0, 64, 1}, 2, 3)],
)
def test_affinity_counts_cores_not_only_threads(tmp_path: Path, allowed: set[int], cores: int, threads: int) -> None:
    machines.x86(tmp_path, 128)
    machines.topology(tmp_path, 128, 2)
    assert cpu.limits(str(tmp_path), allowed) == (cores, threads)


@pytest.mark.parametrize(
    ("limit", "threads"), [("max 100000", 128), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1)]
)
def test_quota_of_cgroup_2(tmp_path: Path, limit: str, threads: int) -> None:
    machines.topology(tmp_path, 128, 2)
    machines.cgroup2(tmp_path, "/system.slice/work.service")
    machines.write(tmp_path, "/sys/fs/cgroup/system.slice/work.service/cpu.max", f"{limit}\n")
    assert cpu.limits(str(tmp_path), ALL128) == (min(64, threads), threads)


def test_the_tightest_cgroup_above_counts(tmp_path: Path) -> None:
    machines.cgroup2(tmp_path, "/a/b/c")
    machines.write(tmp_path, "/sys/fs/cgroup/a/b/c/cpu.max", "800000 100000\n")
    machines.write(tmp_path, "/sys/fs/cgroup/a/cpu.max", "300000 100000\n")
    assert cpu.quota(str(tmp_path)) == 3.0


@pytest.mark.parametrize(("own", "inside"), [("/", "/"), ("/docker/abc", "/docker/abc"), ("/../other", "/docker/abc")])
def test_a_container_sees_its_limits_at_the_mount_point(tmp_path: Path, own: str, inside: str) -> None:
    machines.cgroup2(tmp_path, own, inside)
    machines.write(tmp_path, "/sys/fs/cgroup/cpu.max", "400000 100000\n")
    machines.write(tmp_path, "/sys/fs/cgroup/memory.max", f"{2 * GIB}\n")
    machines.meminfo(tmp_path, 64 * GIB, 60 * GIB)
    assert cpu.quota(str(tmp_path)) == 4.0
    assert cpu.memory(str(tmp_path)).total_bytes == 2 * GIB


@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("250000", 2.5)])
def test_quota_of_cgroup_1(tmp_path: Path, quota: str, expected: float | None) -> None:
    machines.cgroup1(tmp_path, "/docker/abc", "/docker/abc")
    machines.write(tmp_path, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", f"{quota}\n")
    machines.write(tmp_path, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cpu.quota(str(tmp_path)) == expected


def test_memory_of_a_machine_without_limits(tmp_path: Path) -> None:
    machines.meminfo(tmp_path, 64 * GIB, 40 * GIB)
    assert cpu.memory(str(tmp_path)) == cpu.Memory(64 * GIB, 40 * GIB)


def test_memory_of_cgroup_2_counts_inactive_files_as_free(tmp_path: Path) -> None:
    machines.meminfo(tmp_path, 64 * GIB, 40 * GIB)
    machines.cgroup2(tmp_path, "/box")
    machines.write(tmp_path, "/sys/fs/cgroup/box/memory.max", f"{8 * GIB}\n")
    machines.write(tmp_path, "/sys/fs/cgroup/box/memory.current", f"{7 * GIB}\n")
    machines.write(tmp_path, "/sys/fs/cgroup/box/memory.stat", f"anon {5 * GIB}\ninactive_file {2 * GIB}\n")
    assert cpu.memory(str(tmp_path)) == cpu.Memory(8 * GIB, 3 * GIB)


def test_memory_high_is_a_limit_too(tmp_path: Path) -> None:
    machines.meminfo(tmp_path, 64 * GIB, 40 * GIB)
    machines.cgroup2(tmp_path, "/box")
    machines.write(tmp_path, "/sys/fs/cgroup/box/memory.max", "max\n")
    machines.write(tmp_path, "/sys/fs/cgroup/box/memory.high", f"{4 * GIB}\n")
    assert cpu.memory(str(tmp_path)) == cpu.Memory(4 * GIB, 4 * GIB)


def test_neighbours_in_a_common_cgroup_take_free_memory(tmp_path: Path) -> None:
    machines.meminfo(tmp_path, 64 * GIB, 40 * GIB)
    machines.cgroup2(tmp_path, "/team/mine")
    machines.write(tmp_path, "/sys/fs/cgroup/team/mine/memory.max", f"{4 * GIB}\n")
    machines.write(tmp_path, "/sys/fs/cgroup/team/memory.max", f"{16 * GIB}\n")
    machines.write(tmp_path, "/sys/fs/cgroup/team/memory.current", f"{15 * GIB}\n")
    assert cpu.memory(str(tmp_path)) == cpu.Memory(4 * GIB, 1 * GIB)


def test_memory_of_cgroup_1(tmp_path: Path) -> None:
    machines.meminfo(tmp_path, 64 * GIB, 40 * GIB)
    machines.cgroup1(tmp_path, "/box")
    machines.write(tmp_path, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    machines.write(tmp_path, "/sys/fs/cgroup/memory/memory.usage_in_bytes", f"{50 * GIB}\n")
    assert cpu.memory(str(tmp_path)) == cpu.Memory(64 * GIB, 40 * GIB)
    machines.write(tmp_path, "/sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{6 * GIB}\n")
    machines.write(tmp_path, "/sys/fs/cgroup/memory/box/memory.usage_in_bytes", f"{5 * GIB}\n")
    machines.write(tmp_path, "/sys/fs/cgroup/memory/box/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB}\n")
    assert cpu.memory(str(tmp_path)) == cpu.Memory(6 * GIB, 2 * GIB)


def test_arm_server(tmp_path: Path) -> None:
    machines.write(tmp_path, "/proc/cpuinfo", machines.GRAVITON3 * 64)
    found = cpu.describe(str(tmp_path), frozenset(range(64)))
    assert (found.name, found.vendor) == ("Neoverse-V1", "Arm")
    assert found.features == ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve")
    assert cpu.precisions(found.features)["fast"] == ["fp32", "fp16", "bf16", "int8"]


def test_small_arm_board(tmp_path: Path) -> None:
    machines.write(tmp_path, "/proc/cpuinfo", machines.RASPBERRY)
    found = cpu.describe(str(tmp_path), frozenset(range(4)))
    assert (found.name, found.features) == ("Cortex-A72", ("neon",))
    assert cpu.precisions(found.features)["fast"] == ["fp32"]


def test_riscv(tmp_path: Path) -> None:
    machines.write(tmp_path, "/proc/cpuinfo", machines.RISCV)
    found = cpu.describe(str(tmp_path), frozenset({0}))
    assert (found.name, found.features) == ("sifive,x280", ("rvv",))


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("sse4_2 avx avx2 fma", ["fp32"]),
        ("avx2 avx_vnni", ["fp32", "int8"]),
        (machines.EPYC_FLAGS, ["fp32", "bf16", "int8"]),
        (machines.SAPPHIRE_FLAGS, ["fp32", "fp16", "bf16", "int8"]),
    ],
)
def test_fast_precisions_follow_instructions(flags: str, fast: list[str]) -> None:
    assert cpu.precisions(cpu.canonical(flags.split()))["fast"] == fast


def test_apple_silicon() -> None:
    from accel.core.probe import properties

    name, vendor, features = cpu.mac_identity(properties(machines.APPLE_SYSCTL))
    assert (name, vendor) == ("Apple M2", "Apple")
    assert features == ("neon", "fp16", "dotprod", "i8mm", "bf16")


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = cpu.describe(str(tmp_path), frozenset({0, 1, 2}))
    assert (found.name, found.vendor, found.features, found.cores, found.threads) == ("CPU", "unknown", (), 3, 3)
    assert cpu.memory(str(tmp_path)) == cpu.Memory(None, None)


@pytest.mark.parametrize("text", ["", "garbage", "::::", "\0\0", "processor", "flags\t:"])
def test_damaged_files_are_no_crash(tmp_path: Path, text: str) -> None:
    for path in ("cpuinfo", "meminfo", "self/cgroup", "self/mountinfo"):
        machines.write(tmp_path, f"/proc/{path}", text)
    cpu.describe(str(tmp_path), frozenset({0}))
    cpu.memory(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_this_machine_agrees_with_the_kernel() -> None:
    found = cpu.describe()
    assert found.threads <= len(os.sched_getaffinity(0))
    assert 1 <= found.cores <= found.threads
    assert found.name in Path("/proc/cpuinfo").read_text() or found.name == "CPU"
    room = cpu.memory()
    assert room.total_bytes and room.free_bytes and 0 < room.free_bytes <= room.total_bytes


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_real_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from accel.core import cpu; print(cpu.limits())"
    assert in_child(code) == "(1, 1)"


@contextlib.contextmanager
def real_cgroup() -> Iterator[tuple[Path, Path]]:
    """A fresh cgroup of this machine with a quota of half a CPU and 512 MiB; skips where none can be made."""
    cpu_base, memory_base = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/memory")
    if not (cpu_base / "cpu.cfs_quota_us").exists() or os.geteuid() != 0:
        pytest.skip("needs root and cgroup v1")
    folders = (cpu_base / f"accel-test-{os.getpid()}", memory_base / f"accel-test-{os.getpid()}")
    try:
        for folder in folders:
            folder.mkdir()
        (folders[0] / "cpu.cfs_period_us").write_text("100000")
        (folders[0] / "cpu.cfs_quota_us").write_text("50000")
        (folders[1] / "memory.limit_in_bytes").write_text(str(512 << 20))
    except OSError as error:
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        yield folders
    finally:
        for folder in folders:
            folder.rmdir()


def test_a_real_cgroup() -> None:
    with real_cgroup() as folders:
        joins = "".join(f"open({str(f / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));" for f in folders)
        code = (
            f"import os; {joins} from accel.core import cpu; print(cpu.quota(), cpu.limits(), cpu.memory().total_bytes)"
        )
        assert in_child(code) == f"0.5 (1, 1) {512 << 20}"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_py_cpuinfo_fills_only_what_is_missing_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = cpu._library_identity

    def counted() -> dict[str, object] | None:
        asked.append(1)
        return real()

    monkeypatch.setattr(cpu, "_library_identity", counted)
    whole = cpu.describe()
    name, vendor, features = cpu._kept_identity(("", "", ()))
    assert name == whole.name
    assert set(whole.features) & {"avx2", "neon"} <= set(features)
    assert cpu._kept_identity(("", "", ())) == (name, vendor, features)
    assert len(asked) == 1
    assert cpu._kept_identity(("My CPU", "", ()))[0] == "My CPU"
