"""The CPU as this process may use it: model, instruction sets, cores and threads, memory.

Affinity and the limits of cgroup v1 and v2 are applied, so that a container of two CPUs on a machine of 128 says two.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from accel.core.cgroup import memory_bounds, quota
from accel.core.probe import ProbeError, kept, properties, read_text, run_child, system_key


def table(words: str) -> dict[str, str]:
    """`key=value` words as a dictionary."""
    return dict(word.split("=") for word in words.split())


#: instruction sets that decide how fast arithmetic is, in the order they are shown
FEATURES = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512dq", "avx512bw", "avx512vl"),
    *("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2", "sme"),
    *("rvv", "vsx", "vx"),
)
#: other names of the same instruction sets: Linux on Arm, macOS, CPUID as py-cpuinfo spells it
_ALIASES = table(
    """asimd=neon asimdhp=fp16 asimddp=dotprod svei8mm=i8mm svebf16=bf16 feat_bf16=bf16 feat_fp16=fp16
    feat_dotprod=dotprod feat_i8mm=i8mm feat_sme=sme advsimd=neon neon_hpfp=fp16 sse4.2=sse4_2 avx1.0=avx
    avxvnni=avx_vnni avx512vnni=avx512_vnni avx512bf16=avx512_bf16 avx512fp16=avx512_fp16 amxtile=amx_tile
    amxint8=amx_int8 amxbf16=amx_bf16 amxfp16=amx_fp16 v=rvv"""
)
#: CPUID vendor strings, and implementer codes of the Arm Architecture Reference Manual (MIDR_EL1)
_VENDORS = table(
    """GenuineIntel=Intel AuthenticAMD=AMD HygonGenuine=Hygon IBM/S390=IBM 0x41=Arm 0x42=Broadcom 0x43=Cavium
    0x46=Fujitsu 0x48=HiSilicon 0x4e=NVIDIA 0x50=APM 0x51=Qualcomm 0x53=Samsung 0x61=Apple 0x6d=Microsoft 0xc0=Ampere"""
)
#: `implementer:part` of the same register
_PARTS = table(
    """0x41:0xd03=Cortex-A53 0x41:0xd05=Cortex-A55 0x41:0xd07=Cortex-A57 0x41:0xd08=Cortex-A72 0x41:0xd0b=Cortex-A76
    0x41:0xd0c=Neoverse-N1 0x41:0xd40=Neoverse-V1 0x41:0xd41=Cortex-A78 0x41:0xd42=Cortex-A78AE 0x41:0xd44=Cortex-X1
    0x41:0xd48=Cortex-X2 0x41:0xd49=Neoverse-N2 0x41:0xd4b=Cortex-A78C 0x41:0xd4f=Neoverse-V2 0x41:0xd84=Neoverse-V3
    0x41:0xd8e=Neoverse-N3 0xc0:0xac3=Ampere-1 0xc0:0xac4=Ampere-1a 0x46:0x001=A64FX 0x48:0xd01=Kunpeng-920
    0x51:0x001=Oryon"""
)


@dataclass(frozen=True)
class Cpu:
    """What decides the speed of the CPU. `cores` and `threads` are those this process may use."""

    name: str
    vendor: str
    features: tuple[str, ...]
    cores: int
    threads: int


@dataclass(frozen=True)
class Memory:
    """Bytes this process may use and bytes of them that are free; None where the system does not tell."""

    total_bytes: int | None
    free_bytes: int | None


def canonical(flags: list[str]) -> tuple[str, ...]:
    """The names of `FEATURES` among an operating system's own flag names, in that order."""
    known = {_ALIASES.get(flag.lower(), flag.lower()) for flag in flags}
    return tuple(feature for feature in FEATURES if feature in known)


def precisions(features: tuple[str, ...]) -> dict[str, list[str]]:
    """Precisions a CPU has instructions for (`fast`), among those that run on it at all (`possible`).

    Instructions are no promise of speed: bf16 has been measured slower than fp32 on CPUs that have them.
    """
    has = set(features)
    fast = ["fp32"]
    if has & {"avx512_fp16", "amx_fp16", "fp16"}:
        fast.append("fp16")
    if has & {"avx512_bf16", "amx_bf16", "bf16"}:
        fast.append("bf16")
    if has & {"avx512_vnni", "avx_vnni", "amx_int8", "dotprod", "i8mm"}:
        fast.append("int8")
    return {"fast": fast, "possible": ["fp32", "fp16", "bf16", "int8"]}


def _identity(root: str) -> tuple[str, str, tuple[str, ...]]:
    # one block describes one CPU, and the kernel makes the text as it is read: 128 CPUs need not be paid for
    first = properties(read_text(f"{root}/proc/cpuinfo", 16384).partition("\n\n")[0])
    features = canonical(
        (first.get("flags") or first.get("Features") or first.get("features") or _riscv(first)).split()
    )
    implementer = first.get("CPU implementer", "").lower()
    vendor = first.get("vendor_id") or implementer or ("IBM" if "POWER" in first.get("cpu", "") else "")
    name = first.get("model name") or first.get("uarch") or first.get("cpu") or ""
    name = name or _PARTS.get(f"{implementer}:{first.get('CPU part', '').lower()}", "")
    return " ".join(name.split()), _VENDORS.get(vendor, vendor), features


def _riscv(block: dict[str, str]) -> str:
    """Single-letter extensions of a RISC-V `isa` string such as `rv64imafdcv_zicbom`, apart."""
    isa = block.get("isa", "")
    return " ".join(isa.partition("_")[0][4:])


def _library_identity() -> dict[str, object] | None:
    """What py-cpuinfo says, in a process of its own: it takes over a second and starts processes itself."""
    import json
    import sys

    try:
        data = json.loads(run_child([sys.executable, "-P", "-m", "cpuinfo", "--json"], 8.0))
    except (ProbeError, ValueError):
        return None
    return {
        "name": str(data.get("brand_raw", "")),
        "vendor": str(data.get("vendor_id_raw", "")),
        "flags": [str(flag) for flag in data.get("flags", [])],
    }


def _sysctl() -> dict[str, str]:
    """`sysctl hw machdep.cpu` of macOS as a dictionary; empty elsewhere."""
    try:
        return properties(run_child(["/usr/sbin/sysctl", "hw", "machdep.cpu"], 5.0))
    except ProbeError:
        return {}


def mac_identity(keys: dict[str, str]) -> tuple[str, str, tuple[str, ...]]:
    """Name, vendor and instruction sets from the output of `sysctl hw machdep.cpu`."""
    flags = f"{keys.get('machdep.cpu.features', '')} {keys.get('machdep.cpu.leaf7_features', '')}".split()
    for key, value in keys.items():
        if key.startswith("hw.optional.") and value == "1":
            flags.append(key.rpartition(".")[2])
    name = keys.get("machdep.cpu.brand_string", "")
    apple = name.startswith("Apple")
    vendor = "Apple" if apple else _VENDORS.get(keys.get("machdep.cpu.vendor", ""), "")
    return name, vendor, canonical([*flags, "neon"] if apple else flags)


def _kept_identity(known: tuple[str, str, tuple[str, ...]]) -> tuple[str, str, tuple[str, ...]]:
    """Fills what `/proc/cpuinfo` left out, asking slowly once per start of the machine."""
    import sys

    if sys.platform == "darwin":
        keys = kept("cpu-sysctl", system_key(), lambda: _sysctl() or None) or {}
        name, vendor, features = mac_identity(keys)
    else:
        data = kept("cpu-library", [*system_key(), *map(str, known)], _library_identity) or {}
        name, vendor = str(data.get("name", "")), str(data.get("vendor", ""))
        features = canonical(data.get("flags", []))
    return known[0] or name, known[1] or _VENDORS.get(vendor, vendor), known[2] or features


def allowed_cpus() -> frozenset[int]:
    """Logical CPUs that the affinity of this process allows."""
    if hasattr(os, "sched_getaffinity"):
        try:
            return frozenset(os.sched_getaffinity(0))
        except OSError:
            pass
    return frozenset(range(os.cpu_count() or 1))


def parse_list(text: str) -> set[int]:
    """CPU numbers of a kernel list such as `0-3,8,10-11`; empty where it is none."""
    found: set[int] = set()
    try:
        for part in text.split(","):
            low, _, high = part.partition("-")
            found.update(range(int(low), int(high or low) + 1))
    except ValueError:
        return set()
    return found


def limits(root: str = "", allowed: AbstractSet[int] | None = None) -> tuple[int, int]:
    """Physical cores and hardware threads that this process may use, at least one each.

    A fractional quota is rounded up, as the JVM and Go do: the spare part of the last thread costs less than none.
    """
    cpus = allowed_cpus() if allowed is None else allowed
    seen: set[int] = set()
    cores = 0
    for cpu in sorted(cpus):
        if cpu in seen:
            continue
        siblings = read_text(f"{root}/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", 256)
        seen |= parse_list(siblings) or {cpu}
        cores += 1
    threads = len(cpus)
    share = quota(root)
    if share is not None:
        threads = min(threads, max(1, -int(-share // 1)))
    return max(1, min(cores, threads)), max(1, threads)


def describe(root: str = "", allowed: AbstractSet[int] | None = None) -> Cpu:
    """The CPU and what of it this process may use. Milliseconds, unless `/proc/cpuinfo` leaves something out."""
    identity = _identity(root)
    if not all(identity) and not root:
        identity = _kept_identity(identity)
    cores, threads = limits(root, allowed)
    return Cpu(identity[0] or "CPU", identity[1] or "unknown", identity[2], cores, threads)


def memory(root: str = "") -> Memory:
    """Memory of the machine, cut to what the cgroups allow. Always fresh.

    Free memory counts what the kernel can take back from caches (`MemAvailable`, less a cgroup's inactive file pages).
    """
    values = properties(read_text(f"{root}/proc/meminfo"))

    def kibibytes(key: str) -> int | None:
        number = values.get(key, "").partition(" ")[0]
        return int(number) * 1024 if number.isdigit() else None

    total = kibibytes("MemTotal")
    free = kibibytes("MemAvailable") or kibibytes("MemFree")
    if total is None and not root:
        return _library_memory()
    # an unlimited cgroup of version 1 says a number beyond any machine
    bounds = [(bound, left) for bound, left in memory_bounds(root) if total is None or bound < total]
    if bounds:
        total = min(bound for bound, _ in bounds)
        free = min([left for _, left in bounds] + ([] if free is None else [free]))
    return Memory(total, free if free is None or total is None else min(free, total))


def _library_memory() -> Memory:
    try:
        import psutil

        now = psutil.virtual_memory()
    except (ImportError, OSError, RuntimeError):
        return Memory(None, None)
    return Memory(int(now.total), int(now.available))
