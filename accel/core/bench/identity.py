"""Which bytes and which software a cell measured: what a result says about its model and engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accel.core import memory
from accel.core.bench.cells import Cell
from accel.core.bench.environment import plugin_digest
from accel.core.errors import AccelError
from accel.core.registry import engine
from accel.core.types import Model

_WEIGHTS = (".safetensors", ".bin", ".onnx", ".onnx_data", ".data", ".gguf", ".pt", ".pth")


def identity(cell: Cell, model: Model) -> dict[str, Any]:
    """What a result says about a cell's model and engine beside the cell."""
    return {
        "model_digest": model.digest,
        "model_cid": content_id(model),
        "revision": model.revision,
        "family": model.family,
        "weights_bytes": _weights_bytes(model),
        "engine_version": engine(cell.engine).version(),
        "plugins": [plugin_digest("engines", cell.engine), plugin_digest("families", model.family)],
    }


def content_id(model: Model) -> str | None:
    """The CID of the model's files under the default profile of `accel pin`; None for a model without files.

    It is the one that pinning the model gives, but for a folder that holds more than the model: that is not counted. It
    is computed once for the same bytes (at the speed of SHA-256) and then remembered. A model that came by its CID
    has that one, whatever the profile it was made under.
    """
    if model.folder is None or model.weights != "pretrained":
        return None
    if (model.revision or "").startswith("ipfs://"):
        return str(model.revision).removeprefix("ipfs://").partition("/")[0]
    alone = _file(model)
    known = memory.recall("cids", f"{model.digest} {alone is not None}")
    if known is not None:
        return str(known["cid"])
    from accel.core.content import importer
    from accel.core.content.unixfs import MODERN

    try:
        source = importer.from_path(alone) if alone is not None else importer.from_files(model.folder, model.files)
        cid = str(importer.Importer(MODERN, None).run(source).cid)
    except AccelError:
        return None  # a file that vanished: whatever opens the model says so
    memory.keep("cids", f"{model.digest} {alone is not None}", {"cid": cid})
    return cid


def _file(model: Model) -> Path | None:
    """The file that the model is, where the user named one."""
    path = Path(model.name).expanduser()
    return path if model.source == "local" and path.is_file() else None


def _weights_bytes(model: Model) -> int | None:
    """Bytes of the files of weights, as they lie on disk; None for a model without files."""
    if model.folder is None or model.weights != "pretrained":
        return None
    files = [model.folder / name for name in model.files if name.endswith(_WEIGHTS)]
    return sum(file.stat().st_size for file in files if file.is_file()) or None
