"""What `--hw` means: platforms and devices by name, checked against what this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.core.errors import InputError, UnavailableError
from accel.core.registry import builtin_names, names, suggest
from accel.core.types import PLATFORMS, Device, PlatformReport

#: packages whose coming, going or upgrade changes which devices a run could use
_LIBRARIES = ("torch", "onnxruntime", "openvino", "onnxruntime-qnn", "nvidia-ml-py")

#: features of devices that only a user who names them wants: their speed means nothing, or is not worth a trial
_AVOIDED = {"emulated", "software", "unproven"}

#: words that people use for a platform
_MEANT = {
    **dict.fromkeys(("gpu", "gpus"), "cuda, rocm, mps or openvino:GPU"),
    **dict.fromkeys(("nvidia", "geforce", "tensorrt"), "cuda"),
    **dict.fromkeys(("amd", "hip", "radeon"), "rocm"),
    **dict.fromkeys(("apple", "metal"), "mps"),
    **dict.fromkeys(("intel", "xpu", "ov"), "openvino"),
    **dict.fromkeys(("qnn", "snapdragon", "hexagon"), "qualcomm"),
    "npu": "openvino:NPU or qualcomm",
}


@dataclass(frozen=True)
class Target:
    """One thing named in `--hw`: a platform, or one device of it (`unit` None stands for all of them)."""

    platform: str
    unit: str | None = None

    def fits(self, device_id: str) -> bool:
        """Whether the device is meant. `openvino:GPU` and `openvino:GPU.0` are the same, and case does not matter."""
        platform, _, unit = device_id.partition(":")
        return platform == self.platform and (self.unit is None or _plain(unit) == _plain(self.unit))

    def __str__(self) -> str:
        return self.platform if self.unit is None else f"{self.platform}:{self.unit}"


@dataclass(frozen=True)
class Selection:
    """What `--hw` asks for.

    Attributes:
        targets: in the order given; every platform for `auto` and `all`.
        named: the user named them, so that the absence of one is an error.
    """

    targets: tuple[Target, ...]
    named: bool

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms to be scanned, each once."""
        return tuple(dict.fromkeys(target.platform for target in self.targets))


def parse_hw(text: str) -> Selection:
    """Reads `auto`, `all` or a list such as `cpu,cuda:1,openvino:GPU.0`. Looks at no hardware.

    Raises:
        InputError: an unknown platform (with names that are near), or a list that cannot be read.
    """
    parts = [part.strip() for part in text.split(",")]
    if not text.strip() or not all(parts):
        raise InputError(f"--hw {text!r} names nothing between its commas", "--hw auto, or a list such as cpu,cuda:1")
    if len(parts) == 1 and parts[0].lower() in ("auto", "all"):
        return Selection(tuple(Target(name) for name in PLATFORMS), named=False)
    targets = []
    for part in parts:
        name, colon, unit = part.partition(":")
        platform = name.strip().lower()
        if platform in ("auto", "all"):
            raise InputError(f"--hw {text!r} mixes {platform!r} with other names", f"--hw {platform}, or names alone")
        if colon and not unit.strip():
            raise InputError(f"--hw {part!r} names no device after its colon", f"--hw {platform}, or {platform}:0")
        _check(platform)
        targets.append(Target(platform, unit.strip() if colon else None))
    return Selection(tuple(dict.fromkeys(targets)), named=True)


def _check(platform: str) -> None:
    if platform in builtin_names("platforms"):
        return
    # entry points are scanned on a miss alone: it takes longer than everything else here
    installed = [name for name in names("platforms") if name not in builtin_names("platforms")]
    if platform in installed:
        return
    meant = _MEANT.get(platform)
    hint = f"did you mean {meant}?" if meant else suggest(platform, [*PLATFORMS, *installed, "auto", "all"])
    raise InputError(f"no platform is called {platform!r}", hint)


def find_devices(selection: Selection | str, *, reports: Sequence[PlatformReport] | None = None) -> tuple[Device, ...]:
    """Devices of this machine that a selection means, best guess first.

    For `auto` and `all` they are ordered by the platforms' priority; what this machine lacks is left out, and so are
    emulators and devices that no installed engine runs on. Named ones keep their order, and each has to be here.

    Args:
        selection: from `parse_hw`, or its text.
        reports: of an earlier scan of at least these platforms; None scans now.

    Raises:
        InputError: as `parse_hw`. UnavailableError: a named platform or device is not here; with reason and fix.
    """
    from accel.core.hardware import priority, scan

    chosen = parse_hw(selection) if isinstance(selection, str) else selection
    answers = {report.name: report for report in (scan(chosen.platforms) if reports is None else reports)}
    if not chosen.named:
        ranked = sorted(chosen.platforms, key=lambda name: -priority(name))
        here = [device for name in ranked if name in answers for device in answers[name].devices]
        return tuple(device for device in here if device.engines and not _AVOIDED & set(device.features))
    found: dict[str, Device] = {}
    for target in chosen.targets:
        fits = [device for device in answers[target.platform].devices if target.fits(device.id)]
        if not fits:
            raise absent(target, answers[target.platform])
        found.update((device.id, device) for device in fits)
    return tuple(found.values())


def usable(text: str) -> tuple[tuple[str, str], ...]:
    """(platform, device id) pairs that `--hw` lets a run use, best guess first, under the configuration.

    `hardware.allow_openvino` false keeps OpenVINO out of `auto`; `hardware.prefer_cuda` leaves nothing but CUDA in it
    where CUDA has a device. What is here is kept on disk until something that decides it changes, so that a run need
    not look at hardware: about two milliseconds.

    Raises:
        As `find_devices`. UnavailableError too where nothing is left.
    """
    from accel.core import config

    selection = parse_hw(text)
    known = _known_ids()
    if selection.named:
        fits = [[device for device in known if target.fits(device)] for target in selection.targets]
        # only a real look can say why something is not here, or that it came in the meantime
        ids = [device for part in fits for device in part] if all(fits) else [d.id for d in find_devices(selection)]
    else:
        ids = [
            device for device in known if config.get("hardware.allow_openvino") or not device.startswith("openvino:")
        ]
        if config.get("hardware.prefer_cuda"):
            ids = [device for device in ids if device.startswith("cuda:")] or ids
    if not ids:
        raise UnavailableError("this machine has no device that a model could run on", "accel detect tells why")
    return tuple((device.partition(":")[0], device) for device in dict.fromkeys(ids))


def _known_ids() -> list[str]:
    """Ids of the devices that `auto` may use."""
    import os
    import sys

    from accel.core.browser.probing import known_browsers
    from accel.core.fingerprint import engine_version, fingerprint
    from accel.core.hardware import engine_names
    from accel.core.probe import kept, listing, system_key

    folders = [listing("/dev/dri"), listing("/dev/accel"), os.access("/dev/kfd", os.R_OK | os.W_OK)]
    versions = [engine_version(name) for name in _LIBRARIES]
    key = [*system_key(), fingerprint(), sys.prefix, versions, folders, engine_names(), known_browsers()]
    ids = kept("devices", key, lambda: [device.id for device in find_devices("auto")] or None)
    return [str(device) for device in ids or []]


def absent(target: Target, report: PlatformReport) -> UnavailableError:
    """The error for something that was named and is not here."""
    details: dict[str, object] = {"platform": report.name, "reason": report.reason, "fix": report.fix}
    if not report.present or not report.devices:
        return UnavailableError(f"no {report.name} device here: {report.reason}", report.fix, details)
    here = ", ".join(device.id for device in report.devices)
    return UnavailableError(
        f"no device {target} here: {report.name} has {here}", f"--hw {report.devices[0].id}", details
    )


def _plain(unit: str) -> str:
    """`GPU.0` is how OpenVINO also calls its only `GPU`."""
    return unit.lower().removesuffix(".0")
