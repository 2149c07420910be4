"""A stable name for what decides speed on this machine, and versions of installed libraries without importing them.

Evidence, kept plans and measurements belong to a fingerprint: an upgrade of a driver, another CPU, a tighter container
or other visible GPUs give another one. Free memory, load and the kernel's patch level do not.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Mapping

from accel.core.cpu import describe
from accel.core.probe import listing, properties, read_text

#: raised when the meaning of a fingerprint changes
VERSION = 1
_GPU_VENDORS = {"0x1002", "0x8086"}


def accelerators(root: str = "", environment: Mapping[str, str] = os.environ) -> list[str]:
    """One line per GPU or NPU and per driver, read from `/proc` and `/sys` alone; hidden devices change it too."""
    found = []
    driver = read_text(f"{root}/proc/driver/nvidia/version", 4096).partition("\n")[0]
    if driver:
        found.append(driver)
        for address in listing(f"{root}/proc/driver/nvidia/gpus"):
            card = properties(read_text(f"{root}/proc/driver/nvidia/gpus/{address}/information", 4096))
            found.append(f"{address} {card.get('Model', '')}")
    # under WSL the driver lives on the Windows side and shows as a folder of its own version
    found += [f"wsl {name}" for name in listing(f"{root}/usr/lib/wsl/drivers") if name.startswith("nv")]
    kernel = ".".join(os.uname().release.split(".")[:2]) if hasattr(os, "uname") else ""
    nodes = f"{root}/sys/class/kfd/kfd/topology/nodes"
    for node in listing(nodes):
        facts = properties(read_text(f"{nodes}/{node}/properties", 8192))
        if facts.get("simd_count", "0") != "0":
            version = read_text(f"{root}/sys/module/amdgpu/version", 64) or kernel
            wanted = ("gfx_target_version", "simd_count", "device_id")
            found.append(f"kfd {version} {[facts.get(key, '') for key in wanted]}")
    for kind, prefix in (("drm", "renderD"), ("accel", "accel")):
        for name in listing(f"{root}/sys/class/{kind}"):
            device = f"{root}/sys/class/{kind}/{name}/device"
            vendor = read_text(f"{device}/vendor", 16)
            if name.startswith(prefix) and vendor in _GPU_VENDORS:
                found.append(f"{kind} {vendor} {read_text(f'{device}/device', 16)} {kernel}")
    if found:
        names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
        found += [f"{name}={environment[name]}" for name in names if name in environment]
    return found


def compute(root: str = "", environment: Mapping[str, str] = os.environ) -> str:
    """The fingerprint of the machine under `root`; see `fingerprint`."""
    import hashlib

    cpu = describe(root)
    facts = [str(VERSION), sys.platform, cpu.name, cpu.vendor, " ".join(cpu.features), str(cpu.cores), str(cpu.threads)]
    text = "\n".join([*facts, *accelerators(root, environment)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def fingerprint() -> str:
    """16 hexadecimal digits that stand for CPU, usable cores and threads, GPUs and drivers of this machine.

    Costs about a millisecond once per process and imports nothing heavy.
    """
    return compute()


@functools.lru_cache(maxsize=64)
def _distributions(folder: str, _modified: int) -> dict[str, str]:
    found = {}
    for name in listing(folder):
        stem, _, kind = name.rpartition(".")
        if kind in ("dist-info", "egg-info") and "-" in stem:
            project, _, version = stem.partition("-")
            found[_normal(project)] = version.partition("-py")[0]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def engine_version(dist_name: str) -> str | None:
    """Version of an installed distribution, or None, from the names of metadata folders on `sys.path`.

    Some twenty times cheaper than `importlib.metadata`, whose import alone takes longer than everything else here.
    """
    wanted = _normal(dist_name)
    for folder in sys.path:
        try:
            modified = os.stat(folder or ".").st_mtime_ns  # noqa: PTH116 - called at every start
        except OSError:
            continue
        version = _distributions(folder or ".", modified).get(wanted)
        if version:
            return version
    return None


@functools.cache
def torch_build() -> dict[str, str]:
    """What the installed torch was built for: `{"version": "2.13.0+cu130", "cuda": "13.0", "hip": ""}`; empty if none.

    Reads `torch/version.py` as text: importing torch takes over a second.
    """
    for folder in sys.path:
        text = read_text(os.path.join(folder or ".", "torch", "version.py"), 8192)  # noqa: PTH118 - called at every start
        if text:
            found = dict(re.findall(r"^(\w+)[^=\n]*= *'([^']*)'", text, re.MULTILINE))
            return {"version": found.get("__version__", ""), "cuda": found.get("cuda", ""), "hip": found.get("hip", "")}
    return {}
