"""Whether the weights and what engines make of them have room on the disks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from accel.core import catalogue, hub
from accel.core.compatibility.requirements import Requirement, amount, fact
from accel.core.errors import AccelError
from accel.core.paths import home
from accel.core.performance.operators import OperatorGraph
from accel.core.types import Model

#: copies of the weights in fp32 that an engine keeps beside them: the export, and its own form of it
COPIES = {"torch": 0, "torch-compile": 0, "onnxruntime": 2, "openvino": 2, "ort-web": 2, "qnn": 2}
#: how far the size of files may be off: shards, tokenizers, padding
BOUND = 1.1
#: bytes of a number as configurations name it
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3fn": 1}


def weights_here(model: Model) -> bool:
    """Whether the weights are on this machine already. Looks at files alone."""
    if model.layout in ("onnx", "gguf"):
        return True
    if model.source in ("local", "ipfs"):
        from accel.core import local

        try:
            return model.folder is not None and bool(local.at(model.folder, weights=True).selection.weights)
        except AccelError:
            return False
    if model.entry.get("package") and catalogue.locate(model.entry) is not None:
        return True
    repository = model.entry.get("hub") or model.name
    if not hub.is_repository(repository):
        return False
    return hub.cached(repository, model.revision or hub.DEFAULT_REVISION, weights=True) is not None


def download_bytes(model: Model, graph: OperatorGraph) -> int:
    """Size of the weights' files, in the precision that the configuration says they are kept in."""
    kept = str(model.config.get("dtype") or model.config.get("torch_dtype") or "float32")
    return graph.weights_bytes * _BYTES.get(kept, 4) // 4


def free(folder: Path) -> int | None:
    """Bytes free for this user where a folder is or would be; None where the system does not tell."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def requirement(model: Model, graph: OperatorGraph, engine: str) -> Requirement:
    """Room for the weights, where they have to be downloaded, and for what the engine writes."""
    here = weights_here(model)
    download = 0 if here else download_bytes(model, graph)
    copies = COPIES.get(engine, 1) * graph.weights_bytes
    places = [(hub.cache_folder(), download), (home(), copies)]
    needed: dict[int, int] = {}
    for folder, size in places:
        if size:
            needed[_disk(folder)] = needed.get(_disk(folder), 0) + size
    if not needed:
        return fact("disk", True, "the weights are here, and nothing else is written")
    found = []
    for folder, _ in places:
        total, room = needed.get(_disk(folder)), free(folder)
        if total is None or room is None:
            continue
        what = "weights and prepared files" if download and copies else "weights" if download else "prepared files"
        reason = f"{what} take {total / 1e9:.2g} GB of the {room / 1e9:.3g} GB free on disk"
        found.append(amount("disk", total, BOUND * total, room, reason))
    return min(found, key=lambda one: one.probability) if found else fact("disk", True, "free disk is not known")


def _disk(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.stat(folder).st_dev  # noqa: PTH116
