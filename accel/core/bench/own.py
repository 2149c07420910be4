"""Cells of users' own benchmarks: which a file or an installed package has, and where each can run."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from accel.core.bench import control
from accel.core.bench.cells import Cell, Skipped, digest
from accel.core.bench.matrix import Matrix, World
from accel.core.bench.registry import CONTROL
from accel.core.errors import InputError
from accel.core.types import Device, Model
from accel.core.worker import Worker

#: seconds that importing a file may take
IMPORT_S = 120.0


def add(matrix: Matrix, sources: Sequence[str], world: World, hw: str, threads: Sequence[int]) -> None:
    """Adds a cell for each model and device of every benchmark that the sources register.

    Args:
        sources: files that end in `.py`, and names of entry points.
        hw: narrows the hardware that a benchmark was registered for; `auto` leaves it.

    Raises:
        InputError: a source cannot be imported or registers nothing. Lost: importing it crashes or hangs.
    """
    narrowed = None if hw in ("auto", "all") else world.devices(hw)
    allowed = None if narrowed is None else {d.id for d in narrowed if isinstance(d, Device)}
    for source in dict.fromkeys(sources):
        model = _stand_in(source)
        bench = {"source": model.entry["source"], "cpus": None}
        with Worker(model, module="accel.core.bench.custom", extra={"bench": bench}) as worker:
            found = worker.call("listing", timeout=IMPORT_S)["benchmarks"]
        for entry in found:
            name = entry["name"]
            if name in matrix.benchmarks or name == control.NAME:
                raise InputError(f"two benchmarks are called {name!r}", "give one of them another name")
            matrix.benchmarks[name] = model
            for where in entry["hardware"]:
                for device in world.devices(where):
                    if isinstance(device, Device) and allowed is not None and device.id not in allowed:
                        continue
                    for named in entry["models"] or [""]:
                        for count in threads:
                            _add(matrix, name, named, device, count)


def _add(matrix: Matrix, name: str, model: str, device: Device | Skipped, threads: int) -> None:
    where = device.cell.device if isinstance(device, Skipped) else device.id
    cell = Cell(model, "", where.partition(":")[0], where, "", "", threads=threads, benchmark=name)
    if isinstance(device, Skipped):
        matrix.skipped.append(Skipped(cell, device.reason, device.hint))
    else:
        matrix.cells.append(cell)


def add_control(matrix: Matrix) -> None:
    """Adds the control of a comparison, see `accel.core.bench.control`."""
    matrix.benchmarks[control.NAME] = _stand_in(CONTROL)
    matrix.cells.append(control.cell())


def _stand_in(source: str) -> Model:
    """What the machinery takes for a model: the source, with a digest of the file."""
    content = ""
    if source.endswith(".py"):
        path = Path(source).expanduser().absolute()
        if not path.is_file():
            raise InputError(f"there is no file {source}", "check the path of --benchmark")
        content, source = f"{zlib.crc32(path.read_bytes()):08x}", str(path)
    return Model(
        name=source,
        source="local",
        folder=None,
        files=(),
        layout="benchmark",
        config={},
        family="",
        task="",
        weights="pretrained",
        digest=digest([source, content]),
        entry={"source": source},
    )
