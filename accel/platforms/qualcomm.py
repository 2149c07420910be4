"""Qualcomm NPUs, through the package onnxruntime-qnn. On x86 its library is an emulator."""

from __future__ import annotations

import os
import platform
import sys

from accel.core.contracts import HardwarePlugin
from accel.core.cpu import memory
from accel.core.fingerprint import engine_version
from accel.core.probe import listing
from accel.core.types import Device, PlatformReport

_INSTALL = "pip install 'ipfs-accel[qualcomm]'"


class QualcommPlatform(HardwarePlugin):
    """The Hexagon processor of a Snapdragon, or its emulator."""

    name = "qualcomm"
    priority = 60

    def __init__(self, root: str = "", system: str = sys.platform, machine: str = "") -> None:
        self.root, self.system = root, system
        self.machine = (machine or platform.machine()).lower()

    def detect_hardware(self) -> PlatformReport:
        if self.system not in ("linux", "win32"):
            reason = f"wrong operating system: onnxruntime-qnn is for Linux and Windows, and this is {self.system}"
            return self._absent(reason, "use a Snapdragon machine with Windows or Linux")
        version = engine_version("onnxruntime-qnn")
        npu = self._npu()
        if version is None:
            if npu:
                return self._absent(
                    "driver without library: an NPU is here but onnxruntime-qnn is not installed", _INSTALL
                )
            return self._absent("not installed: neither a Qualcomm NPU nor onnxruntime-qnn is here", _INSTALL)
        if not self._library():
            reason = f"library without backend: onnxruntime-qnn {version} brings no QnnHtp library for {self.machine}"
            return self._absent(reason, f"{_INSTALL} --force-reinstall")
        emulated = self.machine in ("x86_64", "amd64")
        if not emulated and not npu:
            reason = f"library without device: onnxruntime-qnn {version} is here but no Hexagon NPU answers"
            return self._absent(reason, "install the FastRPC driver of the board, or use --hw cpu")
        room = memory()
        device = Device(
            id="qualcomm:0",
            platform=self.name,
            name="Hexagon NPU (emulated on this CPU)" if emulated else "Hexagon NPU",
            vendor="Qualcomm",
            memory_total_bytes=room.total_bytes,
            memory_free_bytes=room.free_bytes,
            features=("htp", "emulated") if emulated else ("htp",),
            precisions={
                "fast": [] if emulated else ["fp16", "int8"],
                "possible": ["int8"] if emulated else ["fp16", "int8"],
            },
            driver=f"onnxruntime-qnn {version}",
        )
        reason = "emulator: correct, but its speed means nothing" if emulated else "NPU of this machine"
        return PlatformReport(self.name, True, reason, devices=(device,))

    def _absent(self, reason: str, fix: str) -> PlatformReport:
        return PlatformReport(self.name, False, reason, fix)

    def _npu(self) -> bool:
        """Whether the processor's own driver is here: FastRPC on Linux, a Snapdragon on Windows."""
        if self.system == "win32":
            return self.machine == "arm64" and "qualcomm" in os.environ.get("PROCESSOR_IDENTIFIER", "").lower()
        return any(name.startswith(("fastrpc-cdsp", "adsprpc-smd")) for name in listing(f"{self.root}/dev"))

    def _library(self) -> bool:
        name = "QnnHtp.dll" if self.system == "win32" else "libQnnHtp.so"
        for folder in sys.path:
            for _, _, names in os.walk(os.path.join(folder or ".", "onnxruntime_qnn")):  # noqa: PTH118
                if name in names:
                    return True
        return False


PLUGIN = QualcommPlatform
