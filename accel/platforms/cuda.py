"""NVIDIA GPUs, told by NVML: neither CUDA nor torch has to be there, and no context is made on a card.

`cuda:N` is the number that CUDA gives a card in this process, so `CUDA_VISIBLE_DEVICES` is applied by UUID.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accel.core.contracts import HardwarePlugin
from accel.core.fingerprint import engine_version
from accel.core.probe import ProbeError, has_display, kept, read_text, run_child, system_key
from accel.core.types import Device, PlatformReport
from accel.core.visible import visible

NVIDIA = 0x10DE
_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
#: prints the UUIDs of the devices in the order of CUDA, one a line
_ASK_CUDA = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
count = ctypes.c_int()
if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
    raise SystemExit(1)
ask = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
for number in range(count.value):
    uuid = (ctypes.c_ubyte * 16)()
    if ask(ctypes.byref(uuid), number):
        raise SystemExit(1)
    print(bytes(uuid).hex())
"""


@dataclass(frozen=True)
class Card:
    """A GPU or a MIG instance as NVML tells of it. `capability` belongs to the GPU, also for an instance."""

    uuid: str
    name: str
    names: tuple[str, ...]
    capability: tuple[int, int]
    memory: tuple[int | None, int | None]
    cores: int | None
    mig: bool = False


def fast_precisions(major: int, minor: int) -> list[str]:
    """Precisions that a compute capability has full-rate instructions for.

    Source: CUDA programming guide, arithmetic throughput; fp16 is crippled on 6.1, bf16 begins with 8.0, the int8 dot
    product with 6.1.
    """
    version = (major, minor)
    fast = ["fp32"]
    if version >= (7, 0) or version in ((5, 3), (6, 0), (6, 2)):
        fast.append("fp16")
    if version >= (8, 0):
        fast.append("bf16")
    if version >= (7, 0) or version == (6, 1):
        fast.append("int8")
    return fast


class CudaPlatform(HardwarePlugin):
    """Cards that CUDA would show to this process."""

    name = "cuda"
    priority = 100
    time_limit = 30.0  # a driver without persistence wakes every card first

    def __init__(self, root: str = "", environment: Mapping[str, str] = os.environ, system: str = sys.platform) -> None:
        self.root, self.environment, self.system = root, environment, system

    def detect_hardware(self) -> PlatformReport:
        if self.system == "darwin":
            return self._absent("wrong operating system: macOS has no CUDA", "use --hw mps or --hw cpu")
        driver = read_text(f"{self.root}/proc/driver/nvidia/version", 4096) != ""
        if not self._library_loads():
            return self._without_library(driver)
        if engine_version("nvidia-ml-py") is None:
            return self._absent("not installed: nvidia-ml-py, which reads the driver", "pip install nvidia-ml-py")
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception as error:  # a broken package or driver may raise anything; each is a reason, not a crash
            return self._failed(error)
        try:
            return self._report(pynvml)
        except Exception as error:
            return self._failed(error)
        finally:
            _optional(pynvml.nvmlShutdown)

    def _absent(self, reason: str, fix: str) -> PlatformReport:
        return PlatformReport(self.name, False, reason, fix)

    def _library_loads(self) -> bool:
        import ctypes

        try:
            ctypes.CDLL(_LIBRARY)
        except OSError:
            return False
        return True

    def _without_library(self, driver: bool) -> PlatformReport:
        if driver:
            return self._absent(
                f"driver without library: the NVIDIA driver is loaded but {_LIBRARY} cannot be opened",
                "install the user-space part of the driver (libnvidia-compute), or start the container with --gpus all",
            )
        if has_display(NVIDIA, self.root):
            return self._absent(
                "no driver: an NVIDIA card is plugged in but its driver is not loaded",
                "install the NVIDIA driver for this kernel and restart",
            )
        return self._absent(
            "no driver and no device: neither an NVIDIA card nor its driver is here",
            "use --hw cpu; in a container or virtual machine, pass the GPU through",
        )

    def _failed(self, error: Exception) -> PlatformReport:
        text = str(error) or type(error).__name__
        code = getattr(error, "value", None)
        if code == 9:  # NVML_ERROR_DRIVER_NOT_LOADED
            return self._absent(
                f"library without driver: {_LIBRARY} is here but the NVIDIA driver is not loaded",
                "load the driver (nvidia-smi should list a card), or start the container with --gpus all",
            )
        if code == 18:  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
            return self._absent(
                "driver and library have different versions (the driver was updated since the start)",
                "restart the machine, or reload the nvidia kernel modules",
            )
        return self._absent(f"the NVIDIA driver does not answer: {text[:200]}", "see what nvidia-smi says")

    def _report(self, nvml: Any) -> PlatformReport:
        version = _text(_optional(nvml.nvmlSystemGetDriverVersion))
        cuda = _optional(nvml.nvmlSystemGetCudaDriverVersion) or 0
        driver = f"{version or 'unknown'}, CUDA {cuda // 1000}.{cuda % 1000 // 10}"
        count = nvml.nvmlDeviceGetCount()
        cards, broken = _cards(nvml, count)
        if not cards and not broken:
            return self._absent(
                "library without device: the NVIDIA driver answers but shows no card",
                "check the card with nvidia-smi; in a container, give it --gpus all",
            )
        lost = f"; {broken} of {count} cards did not answer" if broken else ""
        if not cards:
            return self._absent(f"no card answers the driver{lost}", "reset or restart: see what nvidia-smi says")
        chosen = self._chosen(cards, version)
        parents = sum(not card.uuid.startswith("MIG-") for card in cards)
        value = self.environment.get("CUDA_VISIBLE_DEVICES")
        if not chosen and value is None:
            return self._absent(
                "library without device: every card is in MIG mode and none has an instance",
                "make one (nvidia-smi mig -cgi 0 -C), or turn MIG off",
            )
        if not chosen:
            return self._absent(
                f"hidden: CUDA_VISIBLE_DEVICES={value!r} lets none of {parents} cards through",
                "unset CUDA_VISIBLE_DEVICES",
            )
        devices = tuple(self._device(number, card, driver) for number, card in enumerate(chosen))
        reason = f"{len(devices)} of {parents} cards visible, driver {driver}{lost}"
        if chosen[0].mig:
            reason = f"a MIG instance, of which CUDA shows one at a time; driver {driver}{lost}"
        return PlatformReport(self.name, True, reason, devices=devices)

    def _chosen(self, cards: list[Card], version: str) -> list[Card]:
        """What CUDA would enumerate, in its order."""
        value = self.environment.get("CUDA_VISIBLE_DEVICES")
        # by default CUDA puts the fastest card first, by a rule of its own, while NVML goes by slots
        if len({card.name for card in cards}) > 1 and self.environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            order = kept(
                "cuda-order",
                [*system_key(), version, value, [card.uuid for card in cards]],
                lambda: self._ask_cuda(cards),
            )
            if order is not None:
                return [cards[position] for position in order]
        parents = [position for position, card in enumerate(cards) if not card.uuid.startswith("MIG-")]
        if value is not None and value.startswith("MIG-"):
            chosen = [cards[position] for position in visible(value, [card.names for card in cards])]
        else:
            chosen = [cards[parents[n]] for n in visible(value, [cards[position].names for position in parents])]
        return _as_cuda_sees(chosen, cards)

    def _ask_cuda(self, cards: list[Card]) -> list[int] | None:
        try:
            lines = run_child([sys.executable, "-P", "-c", _ASK_CUDA], 20.0, dict(self.environment)).split()
        except ProbeError:
            return None
        plain = [card.uuid.partition("-")[2].replace("-", "").lower() for card in cards]
        return [plain.index(line) for line in lines] if set(lines) <= set(plain) else None

    def _device(self, number: int, card: Card, driver: str) -> Device:
        major, minor = card.capability
        features = [f"sm_{major}{minor}"] if major else []
        features += ["tensor_cores"] if (major, minor) >= (7, 0) else []
        features += ["fp8"] if (major, minor) >= (8, 9) else []
        features += ["mig"] if card.mig else []
        return Device(
            id=f"cuda:{number}",
            platform=self.name,
            name=card.name,
            vendor="NVIDIA",
            memory_total_bytes=card.memory[0],
            memory_free_bytes=card.memory[1],
            cores=card.cores,
            features=tuple(features),
            precisions={"fast": fast_precisions(major, minor), "possible": ["fp32", "fp16", "bf16", "int8"]},
            driver=driver,
        )


def _as_cuda_sees(chosen: list[Card], cards: list[Card]) -> list[Card]:
    """Applies the rules of MIG: a GPU in MIG mode shows as its first instance, and one instance hides all else.

    Source: NVIDIA Multi-Instance GPU user guide, "CUDA device enumeration".
    """
    seen: list[Card] = []
    for card in chosen:
        if card.mig and not card.uuid.startswith("MIG-"):
            place = cards.index(card) + 1
            if place < len(cards) and cards[place].uuid.startswith("MIG-"):
                seen.append(cards[place])
        else:
            seen.append(card)
    instances = [card for card in seen if card.mig]
    return instances[:1] or seen


def _cards(nvml: Any, count: int) -> tuple[list[Card], int]:
    """Every card in the order of NVML, each followed by its MIG instances, and the number that do not answer."""
    found: list[Card] = []
    broken = 0
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            name = _text(nvml.nvmlDeviceGetName(handle))
        except nvml.NVMLError:
            broken += 1
            continue
        capability = _optional(nvml.nvmlDeviceGetCudaComputeCapability, handle) or (0, 0)
        mode = _optional(nvml.nvmlDeviceGetMigMode, handle)
        mig = bool(mode and mode[0])
        cores = _optional(nvml.nvmlDeviceGetNumGpuCores, handle)
        found.append(Card(uuid, name, (uuid,), tuple(capability), _memory(nvml, handle), cores, mig))
        for slot in range(_optional(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0) if mig else ():
            instance = _optional(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
            if instance is not None:
                found.append(_instance(nvml, instance, found[-1], uuid, name))
    return found, broken


def _instance(nvml: Any, handle: Any, before: Card, parent: str, name: str) -> Card:
    uuid = _text(_optional(nvml.nvmlDeviceGetUUID, handle)) or "MIG-"
    gpu = _optional(nvml.nvmlDeviceGetGpuInstanceId, handle)
    compute = _optional(nvml.nvmlDeviceGetComputeInstanceId, handle)
    own = _text(_optional(nvml.nvmlDeviceGetName, handle)) or f"{name} MIG"
    # drivers before R470 name an instance by its parent
    names = (uuid, f"MIG-{parent}/{gpu}/{compute}")
    return Card(uuid, own, names, before.capability, _memory(nvml, handle), None, mig=True)


def _memory(nvml: Any, handle: Any) -> tuple[int | None, int | None]:
    """Total and free bytes; unknown where the GPU shares the machine's memory, as on Jetson."""
    memory = _optional(nvml.nvmlDeviceGetMemoryInfo, handle)
    return (int(memory.total), int(memory.free)) if memory is not None else (None, None)


def _optional(call: Any, *arguments: Any) -> Any:
    """What a call says, or None: every card and driver leaves something out, each with an error of its own."""
    try:
        return call(*arguments)
    except Exception:  # NVMLError has a class per code, and broken packages raise others
        return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


PLUGIN = CudaPlatform
