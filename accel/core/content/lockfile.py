"""`accel.lock`: the exact models of a project, as a lock file has the exact packages.

A TOML file in the project's folder. `accel pin --lock` writes it; `run`, `bench` and `fetch` use the bytes it names.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from accel.core import locks, paths
from accel.core.content.cid import is_cid, parse_reference
from accel.core.errors import InputError, TransferError, UnavailableError

NAME = "accel.lock"
VERSION = 1


@dataclass(frozen=True)
class Locked:
    """One model of a lock file.

    Attributes:
        name: as it is asked for; a path starts with `./` and leads from the lock file's folder, or is absolute.
        size_bytes: of all files.
        revision: what was pinned. requested: the branch or tag that was asked for then.
    """

    name: str
    cid: str
    size_bytes: int
    revision: str | None = None
    requested: str | None = None
    licence: str | None = None


def find(start: Path | None = None) -> Path | None:
    """The lock file that counts here: in the folder, or above it up to the root of its repository."""
    try:
        folder = (start or Path.cwd()).absolute()
    except OSError:
        return None
    for at in (folder, *folder.parents):
        path = at / NAME
        if path.is_file():
            return path
        if any((at / mark).exists() for mark in (".git", ".hg", ".jj")):
            return None
    return None


def read(path: Path) -> dict[str, Locked]:
    """The models of a lock file, by name.

    Raises:
        InputError: it cannot be read, or says something that makes no sense.
    """
    import tomli

    try:
        data = tomli.loads(path.read_text("utf-8"))
        if data.get("version") != VERSION:
            raise ValueError(f"version {data.get('version')!r} instead of {VERSION}")
        models = data.get("model", [])
        if not isinstance(models, list):
            raise ValueError("model is not a list of tables")
        found: dict[str, Locked] = {}
        for entry in models:
            locked = Locked(**entry)
            if not isinstance(locked.name, str) or not isinstance(locked.cid, str) or not is_cid(locked.cid):
                raise ValueError(f"the entry {locked.name!r} has no content id")
            if not isinstance(locked.size_bytes, int) or isinstance(locked.size_bytes, bool):
                raise ValueError(f"the entry {locked.name!r} has no size_bytes")
            if locked.name in found:
                raise ValueError(f"{locked.name!r} is there twice")
            found[locked.name] = locked
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be used: {error}", "mend it, or write it again with accel pin --lock"
        ) from error
    return found


def entry(name: str, start: Path | None = None, *, frozen: bool = False) -> Locked | None:
    """What the lock file says of a model, or None.

    Args:
        name: as the user typed it. `name@revision` means `name` where that is the revision that was pinned or asked
            for then; a path means the same file from every folder of the project.
        frozen: refuse whatever the lock file does not name.

    Raises:
        UnavailableError: `frozen`, and there is no lock file or no such entry. InputError: the file is damaged.
    """
    path = find(start)
    if path is None:
        if frozen:
            raise UnavailableError(
                f"there is no {NAME} here, and --frozen allows only what it names", "accel pin --lock MODEL"
            )
        return None
    models = read(path)
    found = models.get(name) or models.get(_spelling(name, path.parent, start))
    if found is None:
        base, at, revision = name.rpartition("@")
        candidate = models.get(base) if at else None
        if candidate is not None and revision in (candidate.revision, candidate.requested):
            found = candidate
    if found is None and frozen:
        known = ", ".join(sorted(models)) or "nothing"
        raise UnavailableError(
            f"{path} does not name {name!r}, and --frozen allows only what it names",
            f"accel pin --lock {name}; it has {known}",
        )
    return found


def _spelling(path: str, folder: Path, start: Path | None = None) -> str:
    """How a lock file in `folder` calls a path: from that folder, so that it means the same wherever the project is."""
    whole = os.path.abspath((start or Path.cwd()) / Path(path.removeprefix("file://")).expanduser())  # noqa: PTH100
    below = os.path.relpath(whole, folder.absolute())
    return whole if below.startswith("..") else f"./{below}"


def write(locked: Locked, start: Path | None = None, *, is_path: bool = False) -> Path:
    """Adds or replaces a model in the lock file, which is made in `start` where there is none, and returns its path.

    Args:
        is_path: the name is a path as the user typed it.

    Raises:
        InputError: the file that is there is damaged. TransferError: it cannot be written.
    """
    folder = start or Path.cwd()
    path = find(folder) or folder / NAME
    if is_path:
        locked = replace(locked, name=_spelling(locked.name, path.parent, start))
    with locks.holding(paths.home() / "content" / "lockfile.lock"):
        models = read(path) if path.exists() else {}
        models[locked.name] = locked
        paths.write_atomic(path, _text(models).encode())
        os.chmod(path, 0o644)  # noqa: PTH101 - it goes into version control, where others read it
    return path


def _text(models: dict[str, Locked]) -> str:
    lines = ["# The exact models of this project. Written by `accel pin --lock`; keep it under version control.", ""]
    lines += [f"version = {VERSION}", ""]
    for name in sorted(models):
        model = models[name]
        lines.append("[[model]]")
        for key in ("name", "revision", "requested", "cid", "size_bytes", "licence"):
            value = getattr(model, key)
            if value is not None:
                lines.append(f"{key} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    # a JSON string is a TOML string, but for DEL and for surrogates
    return re.sub("\x7f", "\\\\u007F", json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False))


def require(reference: str, start: Path | None = None) -> None:
    """Refuses content by its CID that the lock file does not name.

    Raises:
        UnavailableError: there is no lock file, or it does not name it.
    """
    cid = str(parse_reference(reference)[0])
    path = find(start)
    if path is None or cid not in {model.cid for model in read(path).values()}:
        raise UnavailableError(
            f"no {NAME} here names {cid}, and --frozen allows only what it names", "accel pin --lock writes it"
        )


def check_size(locked: Locked, size: int) -> None:
    """Refuses content that is not as large as the lock file says: somebody changed one of its lines alone.

    Raises:
        TransferError: it is not.
    """
    if size != locked.size_bytes:
        raise TransferError(
            f"{NAME} says that {locked.name} has {locked.size_bytes:,} bytes, and {locked.cid} has {size:,}",
            f"see who changed {NAME}, or write the entry again: accel pin --lock {locked.name}",
        )
