"""Devices of OpenVINO: CPU, Intel GPU and NPU, as its own core lists them.

Starting the core takes over a third of a second and loads drivers that may crash or hang, so it happens in a process of
its own and its answer is kept until something that could change it does.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from accel.core.contracts import HardwarePlugin
from accel.core.cpu import describe, memory, precisions
from accel.core.fingerprint import engine_version
from accel.core.probe import ProbeError, has_display, kept, listing, pci_devices, run_child, system_key
from accel.core.types import Device, PlatformReport

INTEL = 0x8086
_ASK = """
import json, openvino
core = openvino.Core()
def ask(device, key):
    try:
        value = core.get_property(device, key)
    except Exception:
        return None
    if isinstance(value, list):
        return [str(item) for item in value]
    return value if isinstance(value, int) else str(value)
keys = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES", "GPU_DEVICE_TOTAL_MEM_SIZE", "NPU_DEVICE_TOTAL_MEM_SIZE",
        "NPU_DRIVER_VERSION", "DEVICE_TYPE")
print(json.dumps({device: {key: ask(device, key) for key in keys} for device in core.available_devices}))
"""
#: environment variables that decide which devices the drivers show
_VARIABLES = ("OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR", "LD_LIBRARY_PATH")


class OpenVinoPlatform(HardwarePlugin):
    """OpenVINO also runs on AMD and Arm processors: there its CPU is the only device."""

    name = "openvino"
    priority = 90
    time_limit = 35.0

    def detect_hardware(self) -> PlatformReport:
        version = engine_version("openvino")
        if version is None:
            return PlatformReport(
                self.name, False, "not installed: the package openvino", "pip install 'ipfs-accel[openvino]'"
            )
        failure = "gave no list of devices"

        def ask() -> Any:
            nonlocal failure
            try:
                return json.loads(run_child([sys.executable, "-P", "-c", _ASK], 30.0))
            except ProbeError as error:
                failure = str(error)
            except ValueError:
                failure = "answered something else than JSON"
            return None

        found = kept("openvino-devices", self._key(version), ask)
        if not isinstance(found, dict) or not all(isinstance(facts, dict) for facts in found.values()):
            reason = f"library does not answer: OpenVINO {version} {failure}"
            return PlatformReport(
                self.name, False, reason, "pip install --force-reinstall openvino; update the GPU driver"
            )
        if not found:
            return PlatformReport(
                self.name, False, f"library without device: OpenVINO {version} lists none", "reinstall openvino"
            )
        devices = tuple(self._device(name, facts, version) for name, facts in found.items())
        reason, fix = self._left_out(list(found))
        return PlatformReport(self.name, True, reason or f"its core lists {', '.join(found)}", fix, devices)

    def _key(self, version: str) -> list[Any]:
        folders = [listing(folder) for folder in ("/dev/dri", "/dev/accel", "/etc/OpenCL/vendors")]
        return [*system_key(), version, sys.prefix, folders, [os.environ.get(name) for name in _VARIABLES]]

    def _left_out(self, names: list[str]) -> tuple[str, str]:
        """Intel hardware that is plugged in but that OpenVINO does not show, with what is missing for it."""
        if has_display(INTEL) and not any(name.startswith("GPU") for name in names):
            return (
                "an Intel GPU is here but its compute driver is not",
                "install intel-opencl-icd, and add the user to the group render",
            )
        npu = any(vendor == INTEL and kind >> 16 == 0x12 for _, vendor, _, kind in pci_devices())
        if npu and "NPU" not in names:
            return (
                "an Intel NPU is here but its driver is not",
                "install intel-driver-compiler-npu and intel-level-zero-npu",
            )
        return "", ""

    def _device(self, name: str, facts: dict[str, Any], version: str) -> Device:
        on_cpu = name.startswith("CPU")
        capabilities = [str(c) for c in facts.get("OPTIMIZATION_CAPABILITIES") or []]
        room = memory()
        total = facts.get("GPU_DEVICE_TOTAL_MEM_SIZE") or facts.get("NPU_DEVICE_TOTAL_MEM_SIZE")
        cpu = describe() if on_cpu else None
        label = str(facts.get("FULL_DEVICE_NAME") or name)
        driver = facts.get("NPU_DRIVER_VERSION")
        return Device(
            id=f"openvino:{name}",
            platform=self.name,
            name=cpu.name if cpu else label,
            vendor=cpu.vendor if cpu else "Intel",
            memory_total_bytes=room.total_bytes if cpu else (total if isinstance(total, int) else None),
            memory_free_bytes=room.free_bytes if cpu else None,
            cores=cpu.cores if cpu else None,
            threads=cpu.threads if cpu else None,
            features=cpu.features if cpu else tuple(c.lower() for c in capabilities if c.startswith("GPU_")),
            precisions=_precisions(capabilities, cpu.features if cpu else None),
            driver=f"OpenVINO {version}" + (f", NPU driver {driver}" if driver else ""),
        )


def _precisions(capabilities: list[str], cpu_features: tuple[str, ...] | None) -> dict[str, list[str]]:
    """What a device computes in, by what it says of itself; a CPU claims int8 with or without instructions for it."""
    names = {"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "INT8": "int8"}
    said = [short for long, short in names.items() if long in capabilities]
    if cpu_features is None:
        return {"fast": said, "possible": said}
    fast = precisions(cpu_features)["fast"]
    return {"fast": [p for p in said if p in fast], "possible": said}


PLUGIN = OpenVinoPlatform
