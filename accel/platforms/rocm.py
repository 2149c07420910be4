"""AMD GPUs, told by the kernel's KFD driver: ROCm itself need not be installed, and no context is made on a card."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from accel.core.contracts import HardwarePlugin
from accel.core.probe import has_display, listing, properties, read_int, read_text
from accel.core.types import Device, PlatformReport
from accel.core.visible import visible

AMD = 0x1002
#: kinds of memory banks that lie on the card: public and private frame buffer (kfd_sysfs, `heap_type`)
_ON_CARD = {"1", "2"}


@dataclass(frozen=True)
class Node:
    """One GPU of the KFD topology."""

    gfx: str
    name: str
    names: tuple[str, ...]
    total_bytes: int | None
    free_bytes: int | None
    cores: int | None


def gfx_name(version: int) -> str:
    """`gfx90a` for 90010: major, two digits of minor, two of stepping, the last two as hexadecimal digits."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def fast_precisions(gfx: str) -> list[str]:
    """Precisions that a GPU has matrix or packed instructions for.

    Source: AMD instruction set guides: MFMA from CDNA (gfx908), WMMA from RDNA 3 (gfx11), packed fp16 from Vega (gfx9),
    int8 dot products from gfx906 and RDNA 2 (gfx103).
    """
    matrix = gfx in ("gfx908", "gfx90a") or gfx.startswith(("gfx94", "gfx95", "gfx11", "gfx12"))
    fast = ["fp32"]
    if matrix or gfx.startswith(("gfx9", "gfx10")):
        fast.append("fp16")
    if matrix:
        fast.append("bf16")
    if matrix or gfx == "gfx906" or gfx.startswith("gfx103"):
        fast.append("int8")
    return fast


class RocmPlatform(HardwarePlugin):
    """Cards that HIP would show to this process, in its order."""

    name = "rocm"
    priority = 80

    def __init__(self, root: str = "", environment: Mapping[str, str] = os.environ, system: str = sys.platform) -> None:
        self.root, self.environment, self.system = root, environment, system

    def detect_hardware(self) -> PlatformReport:
        if self.system != "linux":
            return self._absent(
                f"wrong operating system: ROCm is looked for on Linux, and this is {self.system}", "use Linux"
            )
        door = f"{self.root}/dev/kfd"
        if not os.path.exists(door):  # noqa: PTH110 - called at every start
            if has_display(AMD, self.root):
                return self._absent(
                    "no driver: an AMD card is plugged in but /dev/kfd is missing",
                    "load the amdgpu driver (amdgpu-install --usecase=rocm), or give the container --device /dev/kfd",
                )
            return self._absent(
                "no driver and no device: neither an AMD card nor its driver is here",
                "use --hw cpu; in a container, give it --device /dev/kfd --device /dev/dri",
            )
        nodes = self._nodes()
        if not nodes:
            return self._absent(
                "driver without device: the KFD driver is loaded but knows no GPU",
                "check that the card is supported by ROCm, and that /sys/class/kfd is visible here",
            )
        if not os.access(door, os.R_OK | os.W_OK):
            return self._absent(
                "no permission: /dev/kfd is here but this user may not open it",
                "add the user to the groups render and video",
            )
        chosen = self._chosen(nodes)
        if not chosen:
            return self._absent(
                f"hidden: ROCR_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES lets none of {len(nodes)} cards through",
                "unset ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES",
            )
        driver = self._driver()
        devices = tuple(self._device(number, node, driver) for number, node in enumerate(chosen))
        return PlatformReport(
            self.name, True, f"{len(devices)} of {len(nodes)} cards visible, {driver}", devices=devices
        )

    def _absent(self, reason: str, fix: str) -> PlatformReport:
        return PlatformReport(self.name, False, reason, fix)

    def _driver(self) -> str:
        module = read_text(f"{self.root}/sys/module/amdgpu/version", 64)
        rocm = read_text(f"{self.root}/opt/rocm/.info/version", 64)
        driver = f"amdgpu {module}" if module else f"amdgpu of the kernel {os.uname().release}"
        return f"{driver}, ROCm {rocm}" if rocm else driver

    def _chosen(self, nodes: list[Node]) -> list[Node]:
        """ROCr hides cards first; HIP then numbers what is left, and takes CUDA's variable where its own is not set."""
        left = [nodes[n] for n in visible(self.environment.get("ROCR_VISIBLE_DEVICES"), [node.names for node in nodes])]
        value = self.environment.get("HIP_VISIBLE_DEVICES") or self.environment.get("CUDA_VISIBLE_DEVICES")
        if "HIP_VISIBLE_DEVICES" in self.environment and not value:
            value = ""
        return [left[n] for n in visible(value, [node.names for node in left])]

    def _nodes(self) -> list[Node]:
        base = f"{self.root}/sys/class/kfd/kfd/topology/nodes"
        found = []
        for name in sorted(listing(base), key=lambda n: int(n) if n.isdigit() else 0):
            facts = properties(read_text(f"{base}/{name}/properties", 8192))
            number = {key: int(value) for key, value in facts.items() if value.isdigit()}
            version = number.get("gfx_target_version", 0)
            if not number.get("simd_count") or not version:
                continue
            found.append(self._node(f"{base}/{name}", number, gfx_name(version)))
        return found

    def _node(self, folder: str, number: dict[str, int], gfx: str) -> Node:
        card = self._card(number)
        total = read_int(f"{card}/mem_info_vram_total") or self._banks(folder)
        used = read_int(f"{card}/mem_info_vram_used")
        label = read_text(f"{card}/product_name", 128) or read_text(f"{folder}/name", 64)
        unique = number.get("unique_id", 0)
        return Node(
            gfx=gfx,
            name=label or f"AMD {gfx}",
            names=(f"GPU-{unique:016x}",) if unique else (),
            total_bytes=total,
            free_bytes=total - used if total is not None and used is not None else None,
            cores=number["simd_count"] // max(1, number.get("simd_per_cu", 1)),
        )

    def _card(self, number: dict[str, int]) -> str:
        """The PCI folder of a node: `location_id` holds bus, device and function."""
        place = number.get("location_id", 0)
        address = f"{number.get('domain', 0):04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"
        return f"{self.root}/sys/bus/pci/devices/{address}"

    def _banks(self, folder: str) -> int | None:
        sizes = []
        for bank in listing(f"{folder}/mem_banks"):
            facts = properties(read_text(f"{folder}/mem_banks/{bank}/properties", 4096))
            if facts.get("heap_type") in _ON_CARD and facts.get("size_in_bytes", "").isdigit():
                sizes.append(int(facts["size_in_bytes"]))
        return sum(sizes) or None

    def _device(self, number: int, node: Node, driver: str) -> Device:
        return Device(
            id=f"rocm:{number}",
            platform=self.name,
            name=node.name,
            vendor="AMD",
            memory_total_bytes=node.total_bytes,
            memory_free_bytes=node.free_bytes,
            cores=node.cores,
            features=(node.gfx,),
            precisions={"fast": fast_precisions(node.gfx), "possible": ["fp32", "fp16", "bf16", "int8"]},
            driver=driver,
        )


PLUGIN = RocmPlatform
