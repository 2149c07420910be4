"""The devices that a matrix has as its columns: those of this machine as they are now, and those of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.core import devices as here
from accel.core.compatibility.supply import Supply, of_catalogue, of_device
from accel.core.errors import IncompatibleError, InputError
from accel.core.performance import machines as catalogue
from accel.core.performance.machines import Machine, machines
from accel.core.types import Device


@dataclass(frozen=True)
class Target:
    """A device that is asked about.

    Attributes:
        machine: its peaks; None for a device of the catalogue of which too little is published to predict a time.
        device: of this machine; None for one of the catalogue.
        lacking: what is not published, in words.
    """

    id: str
    name: str
    platform: str
    engines: tuple[str, ...]
    supply: Supply
    machine: Machine | None
    device: Device | None = None
    lacking: str = ""

    @property
    def present(self) -> bool:
        """Whether it is a device of this machine."""
        return self.device is not None


def find(hw: str) -> list[Target]:
    """The devices that `--hw` names; `all` stands for those present, also beside names of the catalogue.

    Raises:
        InputError: a name that nobody knows, or nothing is left. UnavailableError: a device that is not here.
    """
    found: dict[str, Target] = {}
    for part in (text.strip() for text in hw.split(",")):
        if not part:
            raise InputError(
                f"--hw {hw!r} names nothing between its commas", "--hw all, or a list such as cpu,cuda:h100"
            )
        for target in _part(part):
            found.setdefault(target.id, target)
    if not found:
        raise InputError("this machine has no device that a model could run on", "name one: --hw cuda:h100")
    return list(found.values())


def _part(text: str) -> list[Target]:
    try:
        chosen = machines(text)
    except IncompatibleError as error:
        # memory can be judged without the figures that a prediction of time needs
        return [_unpriced(text, error)]
    present = [machine.id for machine in chosen if machine.present]
    devices = {device.id: device for device in here.find_devices(",".join(present))} if present else {}
    return [_target(machine, devices.get(machine.id)) for machine in chosen]


def _target(machine: Machine, device: Device | None) -> Target:
    supply = of_catalogue(machine.memory_bytes) if device is None else of_device(device)
    return Target(machine.id, machine.name, machine.platform, machine.engines, supply, machine, device)


def _unpriced(text: str, error: IncompatibleError) -> Target:
    entries = catalogue.entries()["devices"]
    name = catalogue.called(text)
    if name is None:
        raise error
    entry = entries[name]
    memory = entry["figures"].get("memory_bytes", {}).get("value")
    return Target(
        name, entry["name"], name.partition(":")[0], (entry["engine"],), of_catalogue(memory), None, None, error.message
    )


def engines_of(target: Target, wanted: Sequence[str]) -> list[str]:
    """Engines that a cell looks at: those named, else those that are installed for the device.

    torch's compiler is left to those who name it, as in a profile.
    """
    from accel.core.performance.profiling import LEFT_OUT

    if wanted:
        return list(wanted)
    return [name for name in target.engines if name not in LEFT_OUT]
