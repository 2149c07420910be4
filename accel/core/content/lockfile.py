"""`accel.lock`: the exact models of a project, as a lock file has the exact packages.

A TOML file in the project's folder. `accel pin --lock` writes it; `run`, `bench` and `fetch` use the bytes it names.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from accel.core import paths
from accel.core.content.cid import is_cid
from accel.core.errors import InputError, UnavailableError

NAME = "accel.lock"
VERSION = 1


@dataclass(frozen=True)
class Locked:
    """One model of a lock file."""

    name: str
    cid: str
    size_bytes: int
    revision: str | None = None
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
        name: as the user typed it; `name@revision` is also found under `name` when the revision is the same.
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
    found = models.get(name)
    if found is None:
        base, at, revision = name.rpartition("@")
        candidate = models.get(base) if at else None
        found = candidate if candidate is not None and candidate.revision == revision else None
    if found is None and frozen:
        known = ", ".join(sorted(models)) or "nothing"
        raise UnavailableError(
            f"{path} does not name {name!r}, and --frozen allows only what it names",
            f"accel pin --lock {name}; it has {known}",
        )
    return found


def write(locked: Locked, start: Path | None = None) -> Path:
    """Adds or replaces a model in the lock file, which is made in `start` where there is none, and returns its path.

    Raises:
        InputError: the file that is there is damaged. TransferError: it cannot be written.
    """
    folder = start or Path.cwd()
    path = find(folder) or folder / NAME
    with paths.locked(paths.home() / "content" / "lockfile.lock"):
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
        for key in ("name", "revision", "cid", "size_bytes", "licence"):
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


def require_cid(cid: str, start: Path | None = None) -> None:
    """Refuses a CID that the lock file does not name.

    Raises:
        UnavailableError: there is no lock file, or it does not name it.
    """
    path = find(start)
    if path is None or cid not in {model.cid for model in read(path).values()}:
        raise UnavailableError(
            f"no {NAME} here names {cid}, and --frozen allows only what it names", "accel pin --lock writes it"
        )


def reference(name: str, start: Path | None = None, *, frozen: bool = False) -> str:
    """What to resolve instead of a model's name: `ipfs://CID` where the lock file names it, the name otherwise.

    Raises:
        UnavailableError: `frozen`, and the lock file does not name it. InputError: the lock file is damaged.
    """
    from accel.core.content.cid import is_reference, parse_reference

    if is_reference(name):
        if frozen:
            require_cid(str(parse_reference(name)[0]), start)
        return name
    found = entry(name, start, frozen=frozen)
    return f"ipfs://{found.cid}" if found is not None else name
