"""Models that lie on this machine: a folder in one of the layouts, or a single file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from accel.core import memory
from accel.core.digest import stamp
from accel.core.errors import AccelError, InputError, UnavailableError
from accel.core.paths import ensure, home
from accel.core.selection import MODULE, WEIGHTS, Selection, select

#: endings of a model that is one file
ONE_FILE = (".onnx", ".gguf")
#: endings of weights that need a configuration beside them, and the name under which a layout expects them
BESIDE_CONFIG = {
    ".safetensors": "model.safetensors",
    ".bin": "pytorch_model.bin",
    ".pth": "pytorch_model.bin",
    ".pt": "pytorch_model.bin",
}
#: most files that are looked at in a folder
MOST_FILES = 20_000


class Found(NamedTuple):
    """Files of a model before its configuration is read."""

    folder: Path
    selection: Selection
    notes: tuple[str, ...] = ()
    config: dict[str, Any] | None = None


def looks_like_path(name: str) -> bool:
    """Whether a name can only be meant as a path."""
    return name.startswith(("./", "../", "/", "~", "file://")) or name in (".", "..") or _ending(name) != ""


def as_path(name: str) -> Path:
    """The path that a name stands for."""
    return Path(name.removeprefix("file://")).expanduser()


def _ending(name: str) -> str:
    return next((ending for ending in (*ONE_FILE, *BESIDE_CONFIG) if name.endswith(ending)), "")


def at(path: Path, *, weights: bool, code: bool = False) -> Found:
    """The model at a path.

    Args:
        path: an existing folder or file.
        weights: whether the weights are wanted too.
        code: also the model's own Python files.

    Raises:
        InputError: it is no model, a part of one, or its files lead out of its folder.
        UnavailableError: a configuration without weights.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the links of the hub's cache
    if path.is_dir():
        return _folder(path, weights, code)
    if not path.is_file():
        raise InputError(f"{path} is neither a folder nor a file", "name a model")
    ending = _ending(path.name) or _sniffed(path)
    if ending == ".onnx":
        return onnx(path.parent, path.name)
    if ending == ".gguf":
        return Found(path.parent, Selection("gguf", (path.name,), (path.name,)))
    if ending:
        return _beside_config(path, BESIDE_CONFIG[ending])
    raise InputError(f"{path} is not a model", f"known endings: {', '.join((*ONE_FILE, *BESIDE_CONFIG))}")


def _sniffed(path: Path) -> str:
    """The ending that a file without one should have: content by its CID has no name."""
    if path.suffix:
        return ""
    with path.open("rb") as opened:
        head = opened.read(4)
    if head == b"GGUF":
        return ".gguf"
    try:
        read_onnx(path)
    except AccelError:
        return ""
    return ".onnx"


def _folder(folder: Path, weights: bool, code: bool) -> Found:
    selection = select(_list(folder), str(folder), code=code)
    if not weights:
        selection = Selection(selection.layout, selection.without_weights, (), selection.reason)
    elif not selection.weights:
        raise UnavailableError(
            f"{folder} cannot be run: {selection.reason}", "add the weights, or use --weights random"
        )
    for name in selection.files:
        _check_inside(folder, name)
    if selection.layout == "onnx" and selection.weights:
        return onnx(folder, selection.weights[0], selection.without_weights)
    return Found(folder, selection)


def _list(folder: Path) -> list[str]:
    """Files of a model's folder: its own, and those one level down where a layout has some."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
        below = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
        if "model_index.json" not in names:
            below = [name for name in below if name == "onnx" or MODULE.fullmatch(name)]
        for inner in below:
            names += [f"{inner}/{entry.name}" for entry in os.scandir(folder / inner) if entry.is_file()]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}", "check its rights") from error
    if len(names) > MOST_FILES:
        raise InputError(f"{folder} holds more than {MOST_FILES} files", "name a folder that holds one model")
    return names


def _check_inside(folder: Path, name: str) -> None:
    """Refuses a file that a link takes out of the model's folder; a snapshot of the hub's cache links to its blobs."""
    path = folder / name
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    allowed = [root]
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        repository = folder.parent.parent
        allowed += [Path(os.path.realpath(repository)), Path(os.path.realpath(repository.parent / "blobs"))]
    if not any(real.is_relative_to(place) for place in allowed):
        raise InputError(f"{path} is a link that leads out of the model's folder, to {real}", "copy the file there")


def onnx(folder: Path, file: str, small: tuple[str, ...] = ()) -> Found:
    """An ONNX file, given by its path relative to the model's folder, with the files that hold its weights."""
    path = folder / file
    header = read_onnx(path)
    inside = file.rpartition("/")[0]
    names = [file, *(f"{inside}/{name}" if inside else name for name in header["external"])]
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing, which holds weights of {path.name}", "put it there")
        _check_inside(folder, name)
    signature = {"inputs": header["inputs"], "outputs": header["outputs"]}
    config = read_json(folder / "config.json") if "config.json" in small else {}
    config.update(onnx=signature, metadata=header["metadata"])
    return Found(folder, Selection("onnx", tuple(sorted({*small, *names})), tuple(names)), config=config)


def read_onnx(path: Path) -> dict[str, Any]:
    """Names of inputs, outputs and files of weights of an ONNX file, and its metadata; remembered while unchanged."""
    now = list(stamp(path))
    known = memory.recall("onnx", str(path))
    if known is not None and known.get("stamp") == now:
        return known
    from accel.core import onnx_header

    header = onnx_header.read(path)
    found = {
        "stamp": now,
        "inputs": [spec.name for spec in header.inputs],
        "outputs": [spec.name for spec in header.outputs],
        "external": sorted(header.external),
        "metadata": header.metadata,
    }
    memory.keep("onnx", str(path), found)
    return found


def read_gguf(path: Path) -> dict[str, Any]:
    """The configuration in a GGUF file's metadata; remembered while the file is unchanged."""
    now = list(stamp(path))
    known = memory.recall("gguf", str(path))
    if known is not None and known.get("stamp") == now:
        config: dict[str, Any] = known["config"]
        return config
    from accel.core import gguf_header

    config = gguf_header.read(path).config()
    memory.keep("gguf", str(path), {"stamp": now, "config": config})
    return config


def _beside_config(path: Path, expected: str) -> Found:
    """Weights named one by one. Under another name than the layout expects they are shown to it through links."""
    if not (path.parent / "config.json").is_file():
        raise InputError(
            f"{path} holds weights alone, and there is no config.json beside it", "put the model's config.json there"
        )
    part = WEIGHTS.fullmatch(path.name)
    if part is not None and part[2]:
        raise InputError(f"{path} is one of {int(part[3])} parts of a model", f"name the folder: {path.parent}")
    small = select([name for name in _list(path.parent) if not _ending(name)], str(path.parent))
    selection = Selection("transformers", tuple(sorted({*small.files, expected})), (expected,))
    _check_inside(path.parent, path.name)
    if path.name == expected:
        return Found(path.parent, selection)
    view = ensure(home() / "models" / "views" / hashlib.sha256(os.fsencode(path)).hexdigest()[:40])
    for name, target in [(name, path.parent / name) for name in small.files] + [(expected, path)]:
        _link(view / name, target)
    return Found(view, selection)


def _link(link: Path, target: Path) -> None:
    ensure(link.parent)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the model.

    Raises:
        InputError: it cannot be read or is something else.
    """
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", "get the model's files again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a JSON object", "get the model's files again")
    return data


def missing(name: str) -> AccelError:
    """The error for a path that is not there, with what lies near it."""
    import difflib

    path = as_path(name)
    folder = path.parent
    try:
        there = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return InputError(f"there is no {path}, and no folder {folder}", "check the path")
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.5)
    models = [entry for entry in sorted(there) if _ending(entry)][:5]
    if near:
        hint = f"did you mean {' or '.join(str(folder / entry) for entry in near)}?"
    elif models:
        hint = f"models there: {', '.join(models)}"
    else:
        hint = "check the path"
    return InputError(f"there is no {path}", hint)
