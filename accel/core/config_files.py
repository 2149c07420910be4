"""Finds and reads the files of the configuration: the user's and the project's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from accel.core import paths
from accel.core.errors import InputError
from accel.core.setting_readers import Origin
from accel.core.settings import SCHEMA, SECTIONS, Key, find_key, near

PROJECT_FILES = ("ipfs_accelerate.json", "config.toml", "pyproject.toml")
_TABLE = "ipfs_accelerate"
_OUR_HEADER = re.compile(rb"^[ \t]*\[+[ \t]*(%s)\b" % b"|".join(s.encode() for s in SECTIONS), re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """A value and where it came from."""

    key: Key
    value: Any
    origin: Origin


@dataclass(frozen=True)
class Source:
    """A file that was looked at.

    Attributes:
        layer: `user` or `project`.
        used: whether its settings count.
        note: why they do not, where it exists.
        values: its settings by name.
        document: what the file holds, where it counts.
    """

    layer: str
    path: Path
    exists: bool
    used: bool = False
    note: str = ""
    values: dict[str, Setting] | None = None
    document: dict[str, Any] | None = None


def user_sources() -> Iterator[Source]:
    """The user's files, strongest first. Reads each one when asked for it.

    Raises:
        InputError: a file with something wrong in it.
    """
    for name in ("config.json", "config.toml"):
        yield read("user", paths.home() / name)


def project_sources(start: Path | None) -> Iterator[Source]:
    """The project's files, strongest first, of the nearest folder that has one that counts.

    Args:
        start: where to look from; None means the working directory.

    Raises:
        InputError: a file with something wrong in it.
    """
    try:
        start = Path.cwd() if start is None else start.absolute()
    except OSError:
        return  # the working directory was removed
    for folder in _folders(start):
        found = [read("project", folder / name) for name in PROJECT_FILES]
        if any(source.used for source in found) or folder == start:
            first = found
        if any(source.used for source in found):
            break
    yield from first


def _folders(start: Path) -> list[Path]:
    """The start and, in a repository, the folders above it up to the repository's root."""
    try:
        home: Path | None = Path.home().resolve()
    except (RuntimeError, OSError):
        home = None
    chain = []
    for folder in (start, *start.parents):
        if folder == home and folder != start:
            break
        chain.append(folder)
        if any(os.path.lexists(folder / mark) for mark in (".git", ".hg", ".jj")):
            return chain
    return [start]


def read(layer: str, path: Path) -> Source:
    """Reads one file and checks what it holds.

    Raises:
        InputError: it cannot be read or parsed, has an unknown key or a wrong value; names the file and the key.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Source(layer, path, exists=False)
    except OSError as error:
        if layer == "project" and path.suffix == ".toml":
            return Source(layer, path, exists=True, note=f"cannot be read ({error.strerror})")
        raise InputError(
            f"{path}: cannot be read: {error.strerror or error}",
            "make it readable, or move it away",
            {"where": str(path)},
        ) from error
    if path.suffix == ".json":
        document: Any = _json(path, data)
    elif path.name == "pyproject.toml":
        if _TABLE.encode() not in data:
            return Source(layer, path, exists=True, note=f"has no table [tool.{_TABLE}]")
        tool = _toml(path, data).get("tool")
        document = tool.get(_TABLE) if isinstance(tool, dict) else None
        if document is None:
            return Source(layer, path, exists=True, note=f"has no table [tool.{_TABLE}]")
    else:
        if layer == "project" and not _OUR_HEADER.search(data) and not _looks_ours(path, data):
            return Source(layer, path, exists=True, note="belongs to another program")
        document = _toml(path, data)
        if layer == "project" and not _ours(document):
            return Source(
                layer, path, exists=True, note="belongs to another program: it has tables that are not accel's"
            )
    return Source(layer, path, True, True, "", _settings(layer, path, document), document)


def _looks_ours(path: Path, data: bytes) -> bool:
    """Whether a TOML file without a header of ours may still be ours: dotted keys, misspelt sections."""
    try:
        return _ours(_toml(path, data))
    except InputError:
        return False


def _ours(document: dict[str, Any]) -> bool:
    return bool(document) and all(name in SECTIONS or near(name, SECTIONS) for name in document)


def _json(path: Path, data: bytes) -> Any:
    import json

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"{path}: {twice!r} is there twice", "keep one of the two", {"where": str(path), "key": twice}
            )
        return dict(pairs)

    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not valid JSON: {error}", "correct it, or move it away", {"where": str(path)}
        ) from error


def _toml(path: Path, data: bytes) -> dict[str, Any]:
    import tomli

    try:
        return tomli.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not valid TOML: {error}", "correct it, or move it away", {"where": str(path)}
        ) from error


def _settings(layer: str, path: Path, document: Any) -> dict[str, Setting]:
    where = str(path)
    origin = Origin(layer, where, path.parent)
    if not isinstance(document, dict):
        raise InputError(
            f"{where}: has to hold an object with the sections {', '.join(SECTIONS)}",
            'write it as {"hardware": {"precision": "bf16"}}',
            {"where": where},
        )
    settings: dict[str, Setting] = {}
    for section, entries in document.items():
        if section not in SECTIONS:
            _unknown_section(where, section, entries)
        if not isinstance(entries, dict):
            known = [name for name in SCHEMA if name.startswith(f"{section}.")]
            raise InputError(
                f"{where}: {section} has to hold an object with settings",
                f"known: {', '.join(known)}",
                {"where": where, "key": section, "allowed": known},
            )
        for entry, raw in entries.items():
            key = find_key(f"{section}.{entry}", where)
            settings[key.name] = Setting(key, key.parse(raw, origin), origin)
    return settings


def _unknown_section(where: str, name: str, entries: object) -> NoReturn:
    if not isinstance(entries, dict):
        section, _, entry = find_key(name, where).name.partition(".")
        raise InputError(
            f"{where}: {name!r} has to stand inside of its section",
            f'write it as {{"{section}": {{"{entry}": ...}}}}',
            {"where": where, "key": name},
        )
    meant = near(name, SECTIONS)
    raise InputError(
        f"{where}: there is no section {name!r}",
        f"did you mean {meant}?" if meant else f"known: {', '.join(SECTIONS)}",
        {"where": where, "key": name, "allowed": list(SECTIONS), "suggestion": meant or None},
    )
