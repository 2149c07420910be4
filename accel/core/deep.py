"""`detect --deep`: proves devices by a real matrix product per precision and a real copy, and keeps the figures.

Each device is measured in a process of its own, since engines in one process disturb each other's threads. A figure is
the best of several repetitions after a warm-up, over growing sizes; the product's result is checked. What has no figure
says why.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from accel.core.errors import AccelError
from accel.core.fingerprint import engine_version, fingerprint, torch_build
from accel.core.locks import holding
from accel.core.paths import home, write_atomic
from accel.core.probe import ProbeError, read_text, run_child
from accel.core.types import PRECISIONS, Device

#: seconds for all figures of one device, the loading of its library included
TIME_LIMIT = 180.0
#: machines (fingerprints) whose figures are kept
MACHINES = 16


def measure(
    devices: Sequence[Device], progress: Callable[[str], None] | None = None, time_limit: float = TIME_LIMIT
) -> dict[str, dict[str, Any]]:
    """Measures devices one after the other, keeps the figures in the results and beside them, and returns them.

    Args:
        progress: takes one line before each device, and one where figures cannot be kept.
        time_limit: seconds per device.

    Returns:
        By device id: `gflops` ({precision: GFLOP/s}; for int8 operations), `matrix` ({precision: size of the square
        matrices}), `copy_gb_per_s` (bytes read and written, or None), `to_device_gb_per_s` (from pinned host memory, or
        None), `not_measured` ({precision, "copy" or "device": reason}), `library`, `threads`, `measured_at` (UTC).
    """
    say = progress or (lambda _line: None)
    figures: dict[str, dict[str, Any]] = {}
    for device in devices:
        reason = _hindrance(device)
        if reason:
            figures[device.id] = nothing(reason)
            continue
        say(f"measuring {device.id} ({device.name})")
        figures[device.id] = _one(device, time_limit)
    proven = {name: figure for name, figure in figures.items() if figure["gflops"] or figure["copy_gb_per_s"]}
    if proven:
        _keep(proven, {device.id: device for device in devices}, say)
    return figures


def nothing(reason: str) -> dict[str, Any]:
    """The figures of a device that could not be measured."""
    empty: dict[str, Any] = {"gflops": {}, "matrix": {}, "copy_gb_per_s": None, "to_device_gb_per_s": None}
    return {**empty, "not_measured": {"device": reason}, "library": "", "threads": 0, "measured_at": _now()}


def kept(devices: Sequence[Device]) -> dict[str, dict[str, Any]]:
    """The latest figures of these devices on this machine, as `measure` returned them."""
    figures = _read()
    if not figures:
        return {}
    here = figures.get(fingerprint(), {})
    return {device.id: here[device.id] for device in devices if isinstance(here.get(device.id), dict)}


def _path() -> str:
    return str(home() / "deep.json")


def _read() -> dict[str, Any]:
    try:
        data = json.loads(read_text(_path(), 1 << 22) or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _hindrance(device: Device) -> str | None:
    """Why a device cannot be measured at all."""
    if "emulated" in device.features:
        return "an emulator's speed means nothing"
    if device.platform == "openvino":
        return None
    if device.platform in ("webgpu", "webnn"):
        return "a browser is opened and looked into, but no product is timed in it"
    if device.platform not in ("cpu", "cuda", "rocm", "mps"):
        return "nothing here computes on it yet"
    build = torch_build()
    if engine_version("torch") is None or not build:
        return "torch is not installed"
    lacks = {"cuda": not build["cuda"], "rocm": not build["hip"]}.get(device.platform, False)
    return f"the installed torch {build['version']} is built without {device.platform}" if lacks else None


def _one(device: Device, time_limit: float) -> dict[str, Any]:
    unit = device.id.partition(":")[2]
    names = {"cpu": "cpu", "mps": "mps", "cuda": f"cuda:{unit}", "rocm": f"cuda:{unit}", "openvino": unit}
    threads = device.cores or 0 if device.platform in ("cpu", "openvino") else 1
    request = {
        "platform": device.platform,
        "device": names[device.platform],
        "threads": threads,
        "precisions": list(PRECISIONS),
        # where free memory is unknown a gigabyte is taken to be there
        "room_bytes": device.memory_free_bytes or device.memory_total_bytes or 1 << 30,
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-P", "-m", "accel.core.deep_worker", json.dumps(request)]
    try:
        answer = json.loads(run_child(command, time_limit, environment))
    except ProbeError as error:
        return nothing(str(error))
    except ValueError:
        return nothing("its answer is no JSON")
    return {**answer, "measured_at": _now()}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _keep(figures: dict[str, dict[str, Any]], devices: dict[str, Device], say: Callable[[str], None]) -> None:
    from accel.core.results import append

    here = fingerprint()
    try:
        for name, figure in figures.items():
            append(
                {
                    "kind": "deep",
                    "fingerprint": here,
                    "device": name,
                    "hardware_type": devices[name].platform,
                    "device_name": devices[name].name,
                    "threads": figure["threads"],
                    "measured": figure,
                }
            )
        with holding(home() / "deep.lock", 5.0):
            known = _read()
            mine = {**known.pop(here, {}), **figures}
            # the machine measured last stays longest
            kept_machines = dict(list(known.items())[-(MACHINES - 1) :])
            write_atomic(home() / "deep.json", json.dumps({**kept_machines, here: mine}).encode())
    except AccelError as error:
        say(f"the figures are not kept: {error.message}")
    except OSError as error:
        say(f"the figures are not kept: {error.strerror or error}")
