"""Whether driver and libraries of a device of this machine go together."""

from __future__ import annotations

import re

from accel.core.compatibility.requirements import Requirement, fact
from accel.core.fingerprint import torch_build
from accel.core.registry import engine as engine_named
from accel.core.types import Device

#: by major version of CUDA: the oldest Linux driver, and the least compute capability that its libraries have code for
#: Sources: CUDA Compatibility, https://docs.nvidia.com/deploy/cuda-compatibility/ (minor version compatibility), and
#: the CUDA 13.0 release notes, https://docs.nvidia.com/cuda/archive/13.0.0/cuda-toolkit-release-notes/
CUDA = {11: ((450, 80, 2), (3, 5)), 12: ((525, 60, 13), (5, 0)), 13: ((580, 65, 6), (7, 5))}


def requirements(device: Device, engine: str) -> list[Requirement]:
    """What has to hold for an engine on a device that is here: the build has the platform, the driver is new enough."""
    offer = engine_named(engine)
    missing = offer.missing_on(device.platform)
    if missing:
        return [fact("engine", False, missing)]
    found = [fact("engine", True, f"{engine} {offer.version()} is installed")]
    if device.platform == "cuda" and engine.startswith("torch"):
        found += cuda(device, torch_build().get("cuda", ""))
    return [*found, *adapter(device)]


def adapter(device: Device) -> list[Requirement]:
    """What is behind a browser's WebGPU or WebNN, as far as anybody looked; a model runs whatever it is."""
    if "software" in device.features:
        return [fact("adapter", True, f"{device.platform} is computed by the processor here: right, and slow")]
    if "unproven" in device.features:
        return [fact("adapter", True, f"nobody looked yet what {device.id} computes on: accel detect --deep does")]
    return []


def cuda(device: Device, build: str) -> list[Requirement]:
    """Driver and card against the CUDA version that a library was built for.

    Args:
        build: such as `13.0`; empty where unknown.
    """
    major = int(build.partition(".")[0]) if build.partition(".")[0].isdecimal() else None
    if major not in CUDA:
        return []
    oldest, least = CUDA[major]
    found = []
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", device.driver or "")
    if numbers:
        driver = tuple(int(n or 0) for n in numbers.groups())
        words = ".".join(map(str, oldest))
        found.append(fact("driver", driver >= oldest, f"driver {numbers[0]}; CUDA {build} needs {words} or newer"))
    card = next((f for f in device.features if f.startswith("sm_")), "")
    if card[3:].isdecimal():
        capability = (int(card[3:-1]), int(card[-1]))
        words = f"{least[0]}.{least[1]}"
        found.append(
            fact("driver", capability >= least, f"{card}; libraries of CUDA {build} have code from {words} on")
        )
    return found
