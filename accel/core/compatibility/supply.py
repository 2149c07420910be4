"""What a device really has free now: cgroups, other processes and the driver's own share seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from accel.core import cpu
from accel.core.types import Device


@dataclass(frozen=True)
class Supply:
    """Memory of a device in bytes; None where nobody knows.

    Attributes:
        free: what can be had now; of a catalogue's device all of it.
        where: what it is, in words: `free on this machine`, `of the published memory`.
        holders: who has the rest, as far as the driver tells.
    """

    total: int | None
    free: int | None
    where: str
    holders: tuple[str, ...] = ()


def of_host(root: str = "") -> Supply:
    """Memory that this process may use, within its cgroups."""
    found = cpu.memory(root)
    return Supply(found.total_bytes, found.free_bytes, "free on this machine")


def of_catalogue(memory_bytes: int | None) -> Supply:
    """Memory of a device that is not here, taken to be empty."""
    return Supply(memory_bytes, memory_bytes, "of its published memory")


def of_device(device: Device, processes: Callable[[Device], tuple[str, ...]] | None = None) -> Supply:
    """Memory of a device of this machine.

    Args:
        processes: tells who holds memory of a GPU; asks the driver by default.
    """
    if device.platform in ("cpu", "mps", "webgpu", "webnn", "qualcomm") or device.id.startswith("openvino:CPU"):
        return of_host()
    if device.memory_total_bytes is None and device.memory_free_bytes is None:
        return of_host()  # it shares the machine's memory: integrated GPUs, Jetson
    asked = (processes or card_processes)(device) if device.platform == "cuda" else ()
    return Supply(device.memory_total_bytes, device.memory_free_bytes, f"free on {device.id}", asked)


def card_processes(device: Device) -> tuple[str, ...]:
    """Processes that compute on an NVIDIA card with what they hold, from NVML; empty where it does not tell."""
    try:
        import pynvml
    except ImportError:
        return ()
    number = device.id.partition(":")[2]
    if not number.isdecimal():
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    held: list[str] = []
    with contextlib.suppress(pynvml.NVMLError):
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(number))
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            used = process.usedGpuMemory
            amount = "an unknown amount" if used is None else f"{used / 2**30:.1f} GiB"
            held.append(f"process {process.pid} holds {amount}")
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()
    return tuple(held)
