"""Baselines: what a sweep measured, kept under a name for later sweeps on the same hardware to be compared with.

    baselines/<name>.json       `accel.baseline/1`: per fingerprint of a machine the cells with their samples

The same form serves as an exported file, so that a CI machine that forgets can bring it along.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core.bench.measured import Outcome
from accel.core.bench.process import Visit
from accel.core.errors import InputError, TransferError, UnavailableError
from accel.core.fingerprint import fingerprint
from accel.core.locks import holding
from accel.core.paths import home, write_atomic

SCHEMA = "accel.baseline/1"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")


@dataclass(frozen=True)
class Baseline:
    """The baseline of this machine.

    Attributes:
        name: as the user called it. own: it comes from the home folder, not from somebody's file.
        environment: of the machine and software that it was measured with.
        cells: by key.
    """

    name: str
    own: bool
    created: float
    environment: dict[str, Any]
    cells: dict[str, Outcome] = field(default_factory=dict)


def _path(name: str) -> tuple[Path, bool]:
    """The file of a baseline, and whether it is one of the home folder."""
    if name.endswith(".json") or "/" in name:
        return Path(name).expanduser(), False
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a baseline", "use letters, digits, - and _, or the path of a .json")
    return home() / "baselines" / f"{name}.json", True


def check(name: str) -> None:
    """Whether a baseline can be kept under this name: worth asking before hours of measuring.

    Raises:
        InputError: not a name, or a file that is something else.
    """
    path, _ = _path(name)
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name a file, such as main.json, or a name for the home folder")
    _read(path)


def load(name: str) -> Baseline:
    """The baseline of that name, or in that file, for this hardware.

    Raises:
        UnavailableError: there is no such baseline, or none for this hardware.
        InputError: the file is not a baseline.
    """
    path, own = _path(name)
    machines = _read(path)
    if machines is None:
        near = sorted(p.stem for p in (home() / "baselines").glob("*.json"))
        raise UnavailableError(
            f"there is no baseline {name!r}",
            f"known: {', '.join(near)}" if near and own else f"make one with accel bench ... --save-as {name}",
        )
    entry = machines.get(fingerprint())
    if entry is None:
        cpus = ", ".join(sorted({str(m["environment"].get("cpu")) for m in machines.values()}))
        raise UnavailableError(
            f"the baseline {name!r} is of other hardware ({cpus}), not of this machine",
            f"measure one here with --save-as {name}; it is kept beside the others",
            {"fingerprint": fingerprint(), "known": sorted(machines)},
        )
    try:
        cells = {data["cell_key"]: Outcome.from_json(data["outcome"]) for data in entry["cells"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__} {error}", "measure the baseline anew") from error
    return Baseline(name, own, float(entry["created"]), entry["environment"], cells)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a baseline: {error}", "measure it anew with --save-as") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("machines"), dict):
        raise InputError(f"{path} is not a baseline of this accel", f"its schema has to be {SCHEMA}")
    machines: dict[str, Any] = data["machines"]
    return machines


def save(name: str, outcomes: Sequence[Outcome], environment: dict[str, Any]) -> Path:
    """Keeps the cells that were measured well as the baseline of this hardware; those of other hardware stay.

    Raises:
        TransferError: it cannot be written. InputError: not a name, or a file that is something else.
    """
    path, own = _path(name)
    if not own:  # a file that travels: where things are on this machine is of no use elsewhere
        environment = {key: value for key, value in environment.items() if key not in ("interpreter", "path")}
    cells = [
        {"cell_key": outcome.cell.key, "outcome": _slim(outcome).as_json()}
        for outcome in outcomes
        if outcome.status == "ok" and outcome.visits
    ]
    if not cells:
        raise TransferError("there is nothing to keep as a baseline: no cell was measured", "see why above")
    with holding(home() / "baselines" / ".lock"):
        machines = _read(path) or {}
        machines[fingerprint()] = {"created": time.time(), "environment": environment, "cells": cells}
        write_atomic(path, json.dumps({"schema": SCHEMA, "name": path.stem, "machines": machines}).encode())
    return path


def _slim(outcome: Outcome) -> Outcome:
    """Without what a comparison does not need."""
    visits = [Visit(**{**visit.__dict__, "first_token": [], "per_token": []}) for visit in outcome.visits]
    return Outcome(**{**outcome.__dict__, "visits": visits, "values": {}})
