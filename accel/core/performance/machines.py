"""What a device can do at best: from its own measured peaks, from the catalogue, or estimated; always said which.

The catalogue (`accel/data/devices.json`) has devices that this machine need not have. Each of its figures names its
public source; a figure that nobody publishes is left out, and what would need it is refused.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core import devices as here
from accel.core.errors import IncompatibleError, InputError, UnavailableError
from accel.core.registry import builtin_names, engine, suggest
from accel.core.types import PLATFORMS, PRECISIONS, Device

CATALOGUE = Path(__file__).resolve().parent.parent.parent / "data" / "devices.json"
#: fp32 operations per cycle of one core by instruction set, best first: two fused multiply-adds of its width
_PER_CYCLE = (("avx512f", 32), ("avx2", 32), ("avx", 16), ("sve", 16), ("neon", 16), ("sse4_2", 8))
#: clock and memory bandwidth that are taken where nothing tells
_CLOCK_GHZ, _BANDWIDTH = 2.5, 20.0
#: platforms that `all` leaves out, since looking for them starts browsers
ON_REQUEST = ("webgpu", "webnn")
#: seconds that starting one operator takes, by platform, where nothing was measured: launching a kernel on a GPU,
#: dispatching in eager torch on a CPU, a dispatch in a browser
OVERHEAD_S = {
    "cpu": 5e-6, "openvino": 4e-6, "cuda": 6e-6, "rocm": 8e-6, "mps": 15e-6, "webgpu": 60e-6, "webnn": 40e-6,
    "qualcomm": 20e-6,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Peaks of one device.

    Attributes:
        id: `cpu:0`, or `cuda:h100` of the catalogue.
        gflops: by precision. bandwidth: GB/s, reads and writes counted both.
        basis: `measured` (by `detect --deep`), `catalogue`, or `estimated` (from its instruction sets).
        present: this machine has it.
        engine: that a device of the catalogue is taken to run.
        sources: of each figure, in words.
    """

    id: str
    name: str
    platform: str
    gflops: dict[str, float]
    bandwidth: float
    basis: str
    present: bool
    engines: tuple[str, ...]
    memory_bytes: int | None = None
    cache_bytes: int | None = None
    power_w: float | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def peak(self, precision: str) -> float:
        """GFLOP/s in a precision.

        Raises:
            IncompatibleError: there is no figure for it.
        """
        found = self.gflops.get(precision)
        if found is None:
            have = ", ".join(name for name in PRECISIONS if name in self.gflops)
            raise IncompatibleError(
                f"there is no figure for {precision} on {self.id} ({self.name})",
                f"--precision {have}" if have else "choose another device",
            )
        return found


def machines(hw: str) -> list[Machine]:
    """The devices that `--hw` means: those of this machine, and of the catalogue by name (`cuda:h100`).

    Args:
        hw: `all` or `auto` (the devices present, browsers apart), or a list of platforms, devices and names of the
            catalogue.

    Raises:
        InputError: a name that nobody knows, with those that are near. UnavailableError: a device that is not here.
    """
    if hw.strip().lower() in ("all", "auto"):
        platforms = tuple(here.Target(name) for name in PLATFORMS if name not in ON_REQUEST)
        return [_present(device) for device in here.find_devices(here.Selection(platforms, named=False))]
    found: list[Machine] = []
    for part in (text.strip() for text in hw.split(",")):
        named = _named(part)
        if named is not None:
            found.append(named)
            continue
        try:
            found += [_present(device) for device in here.find_devices(part)]
        except UnavailableError as error:
            raise _unknown(part, error) from error
        except InputError as error:
            near = suggest(part.lower(), entries()["devices"])
            if not near.startswith("did you mean"):
                raise
            raise InputError(f"no device is called {part!r}", near) from error
    return list({machine.id: machine for machine in found}.values())


def _unknown(part: str, error: UnavailableError) -> Exception:
    """The error for a device that is neither here nor in the catalogue."""
    platform, _, unit = part.lower().partition(":")
    known = [name for name in entries()["devices"] if name.startswith(f"{platform}:")]
    if unit and not unit.isdecimal() and not re.match(r"(cpu|gpu|npu)(\.\d+)?$", unit) and known:
        return InputError(
            f"no device is called {part!r}, here or in the catalogue", suggest(part.lower(), known), error.details
        )
    hint = f"{error.hint}; or a device of the catalogue: {', '.join(known)}" if known else error.hint
    return UnavailableError(error.message, hint.lstrip("; "), error.details)


@functools.cache
def entries() -> dict[str, Any]:
    """The catalogue as it is in the file: `devices` by name, and `sources`."""
    data: dict[str, Any] = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    return data


def names() -> tuple[str, ...]:
    """Names of all devices of the catalogue."""
    return tuple(entries()["devices"])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9:]", "", name.lower()).replace("nvidia", "").replace("geforce", "")


def called(text: str) -> str | None:
    """The name in the catalogue of what a user calls `text`; None where there is none."""
    return next((name for name in names() if _plain(name) == _plain(text)), None)


def _named(text: str) -> Machine | None:
    """A device of the catalogue; `cuda:RTX4090` and `cuda:rtx-4090` are the same. None for other names."""
    if text.partition(":")[0].lower() not in builtin_names("platforms") or ":" not in text:
        return None
    name = called(text)
    return None if name is None else catalogued(name, entries()["devices"][name], entries()["sources"])


def catalogued(name: str, entry: dict[str, Any], sources: dict[str, str]) -> Machine:
    """The machine that a catalogue entry describes.

    Raises:
        IncompatibleError: it lacks what a prediction cannot do without: bandwidth, and operations in any precision.
    """
    figures = entry["figures"]
    gflops = {p: float(figures[f"{p}_gflops"]["value"]) for p in PRECISIONS if f"{p}_gflops" in figures}
    if "bandwidth_gb_per_s" not in figures or not gflops:
        lacking = "its peak rate of arithmetic" if not gflops else "its memory bandwidth"
        raise IncompatibleError(
            f"the maker of {entry['name']} does not publish {lacking}, so nothing can be predicted for {name}",
            "choose another device",
        )

    def value(key: str) -> Any:
        return figures[key]["value"] if key in figures else None

    return Machine(
        id=name,
        name=entry["name"],
        platform=name.partition(":")[0],
        gflops=gflops,
        bandwidth=float(figures["bandwidth_gb_per_s"]["value"]),
        basis="catalogue",
        present=False,
        engines=(entry["engine"],),
        memory_bytes=value("memory_bytes"),
        cache_bytes=value("cache_bytes"),
        power_w=value("power_w"),
        sources={key: sources[figure["source"]] for key, figure in figures.items()},
    )


def _present(device: Device) -> Machine:
    """The peaks of a device of this machine: measured where `detect --deep` was run, else estimated."""
    engines = tuple(name for name in device.engines if device.platform not in engine(name).on_request)
    common: dict[str, Any] = {
        "id": device.id,
        "name": device.name,
        "platform": device.platform,
        "present": True,
        "engines": engines,
        "memory_bytes": device.memory_total_bytes,
        "cache_bytes": _last_cache() if device.platform in ("cpu", "openvino") else None,
    }
    deep = device.measured or {}
    if deep.get("gflops", {}).get("fp32") and deep.get("copy_gb_per_s"):
        said = f"measured on this machine by accel detect --deep at {deep['measured_at']}"
        return Machine(
            gflops={p: float(v) for p, v in deep["gflops"].items()},
            bandwidth=float(deep["copy_gb_per_s"]),
            basis="measured",
            sources={"gflops": said, "bandwidth": said},
            **common,
        )
    twin = _twin(device)
    if twin is not None:
        return Machine(
            gflops=twin.gflops, bandwidth=twin.bandwidth, power_w=twin.power_w, basis="catalogue",
            sources=twin.sources, **common,
        )  # fmt: skip
    cores = device.cores or 1
    per_cycle = next((n for feature, n in _PER_CYCLE if feature in device.features), 8)
    peak = cores * _CLOCK_GHZ * per_cycle
    return Machine(
        gflops={"fp32": peak, "bf16": peak / 2, "fp16": peak / 2, "int8": 2 * peak},
        bandwidth=_BANDWIDTH,
        basis="estimated",
        sources={"gflops": f"estimated: {cores} cores at {_CLOCK_GHZ} GHz, {per_cycle} operations per cycle"},
        **common,
    )


def _twin(device: Device) -> Machine | None:
    """The catalogue's entry of a GPU that is here."""
    if device.platform in ("cpu", "openvino"):
        return None
    words = _plain(device.name)
    for name in sorted(names(), key=len, reverse=True):
        platform, _, unit = name.partition(":")
        if platform == device.platform and _plain(unit) in words:
            return _named(name)
    return None


def _last_cache() -> int | None:
    """Bytes of the largest cache that the first processor sees."""
    from accel.core.probe import listing, read_text

    base = "/sys/devices/system/cpu/cpu0/cache"
    sizes = [read_text(f"{base}/{name}/size", 32) for name in listing(base) if name.startswith("index")]
    return max((int(size[:-1]) << 10 for size in sizes if size.endswith("K") and size[:-1].isdigit()), default=None)
