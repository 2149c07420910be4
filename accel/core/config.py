"""The configuration: five layers, each value with its origin.

From strongest to weakest:

1. command line: `--set KEY=VALUE`, and options that a command passes to `override`;
2. environment: `IPFS_ACCELERATE_<SECTION>_<KEY>` (an empty variable counts as absent);
3. user: `config.json`, then `config.toml`, under `~/.ipfs_accelerate` (`IPFS_ACCELERATE_HOME` moves it);
4. project: `ipfs_accelerate.json`, then `config.toml`, then `[tool.ipfs_accelerate]` of `pyproject.toml`, in the
   working directory or, inside a repository (`.git`, `.hg`, `.jj`), in the nearest folder above it that has one, up
   to the repository's root. Outside of a repository only the working directory counts, so that a file that somebody
   left in a shared folder steers nobody;
5. defaults.

A project's `config.toml` may belong to another program. It is accel's when all its tables are accel's sections or
look like misspelt ones; otherwise it is left alone, and `Config.sources` says so. A project's file may not name
programs to start, nor a log file outside of the project.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core import paths
from accel.core.config_files import Setting, Source, project_sources, read, user_sources
from accel.core.errors import InputError, TransferError
from accel.core.locks import holding
from accel.core.setting_readers import Origin
from accel.core.settings import SCHEMA, SECTIONS, find_key, near, parse_size

__all__ = [
    "Config",
    "Setting",
    "Source",
    "clear_overrides",
    "current",
    "files",
    "get",
    "load",
    "override",
    "parse_size",
    "set_overrides",
    "set_user",
]

_PREFIX = "IPFS_ACCELERATE_"


@dataclass(frozen=True)
class Config:
    """All settings by name, and the files that were looked at, strongest first."""

    settings: Mapping[str, Setting]
    sources: tuple[Source, ...]

    def get(self, name: str) -> Any:
        """The value of `section.key`: bool, int (a count, or bytes), float (seconds), str, tuple of str, or None.

        Raises:
            InputError: there is no such setting.
        """
        return self.setting(name).value

    def setting(self, name: str) -> Setting:
        """The value of `section.key` with its origin."""
        return self.settings[find_key(name).name]


_overrides: dict[str, Setting] = {}
_cached: tuple[object, Config] | None = None


def get(name: str) -> Any:
    """The value of one setting, such as `get("hardware.precision")`. See `Config.get`."""
    return current().get(name)


def current() -> Config:
    """The configuration of this process, read once per working directory, environment and set of overrides."""
    global _cached
    try:
        folder: Path | None = Path.cwd()
    except OSError:
        folder = None
    variables = tuple(item for item in os.environ.items() if item[0].startswith(_PREFIX))
    state = (folder, paths.home(), variables, tuple(_overrides.values()))
    if _cached is None or _cached[0] != state:
        _cached = (state, load())
    return _cached[1]


def load(start: Path | None = None) -> Config:
    """Reads all layers afresh.

    Args:
        start: folder to look for the project's files from; the working directory by default.

    Raises:
        InputError: a file that cannot be read or parsed, an unknown key, a wrong value; names the file and the key.
    """
    sources = (*user_sources(), *project_sources(start))
    settings = {name: Setting(key, key.default, Origin("default")) for name, key in SCHEMA.items()}
    for source in reversed(sources):
        settings.update(source.values or {})
    settings.update(_environment())
    settings.update(_overrides)
    return Config(settings, sources)


def files(start: Path | None = None) -> list[Source]:
    """The files that are looked at, strongest first; one with something wrong in it has the error as its note."""
    found: list[Source] = []
    for sources in (user_sources(), project_sources(start)):
        try:
            found.extend(sources)
        except InputError as error:
            where = str(error.details.get("where", ""))
            layer = "user" if Path(where).parent == paths.home() else "project"
            found.append(Source(layer, Path(where), exists=True, note=error.message.removeprefix(f"{where}: ")))
    return found


def set_overrides(pairs: Iterable[str]) -> None:
    """Takes the `KEY=VALUE` texts of `--set`, the strongest layer.

    Raises:
        InputError: no `=`, an unknown key or a value that is not allowed.
    """
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            find_key(name.strip(), "--set")
            raise InputError(f"--set {pair}: there is no value", f"--set {name}=VALUE")
        override({name.strip(): value}, "--set")


def override(values: Mapping[str, Any], where: str) -> None:
    """Sets values on the command-line layer; a later call wins over an earlier one.

    Args:
        values: by `section.key`; text as a user types it, or a ready value.
        where: the option that said so, such as `--precision`.

    Raises:
        InputError: an unknown key or a value that is not allowed; nothing is changed then.
    """
    origin = Origin("command line", where)
    keys = [(find_key(name, where), raw) for name, raw in values.items()]
    _overrides.update({key.name: Setting(key, key.parse(raw, origin), origin) for key, raw in keys})


def as_environment() -> dict[str, str]:
    """The command-line layer as variables, for processes that this one starts."""

    def text(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return "null" if value is None else str(value)

    return {_PREFIX + name.replace(".", "_").upper(): text(s.value) for name, s in _overrides.items()}


def clear_overrides() -> None:
    """Forgets the command-line layer, for programs that run several commands in one process."""
    _overrides.clear()


def set_user(name: str, text: str) -> Setting:
    """Writes one value into the user's `config.json`, atomically and under a lock, and returns it as stored.

    Args:
        text: the value as a user types it; `null` where the key allows it. A list has commas between its items.

    Raises:
        InputError: an unknown key, a value that is not allowed, or an existing file with something wrong in it.
        TransferError: the home folder cannot be written.
    """
    import json

    key = find_key(name)
    value = key.parse(text, Origin("command line", "config set"))
    path = paths.home() / "config.json"
    with holding(path.with_name(".config.lock"), 10.0) as held:
        if not held:
            raise TransferError(f"{path} is being written by another process", "try again when it has ended")
        document = read("user", path).document or {}
        section, _, entry = key.name.partition(".")
        document.setdefault(section, {})[entry] = value
        # a link, as programs that manage dotfiles make it, stays one
        paths.write_atomic(path.resolve(), (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    global _cached
    _cached = None
    return Setting(key, value, Origin("user", str(path), path.parent))


def _environment() -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for variable, text in os.environ.items():
        if not variable.startswith(_PREFIX) or not text.strip():
            continue
        rest = variable.removeprefix(_PREFIX).lower()
        section, _, entry = rest.partition("_")
        if section not in SECTIONS:
            _foreign(variable, rest)
            continue
        key = find_key(f"{section}.{entry}", variable)
        settings[key.name] = Setting(
            key, key.parse(text, Origin("environment", variable)), Origin("environment", variable)
        )
    return settings


def _foreign(variable: str, rest: str) -> None:
    """Refuses a variable that is a misspelt setting; others with the prefix are not settings."""
    if rest == "home":
        return
    variables = {key.variable.removeprefix(_PREFIX).lower(): key for key in SCHEMA.values()}
    meant = near(rest, variables)
    if meant:
        raise InputError(
            f"{variable}: there is no such setting",
            f"did you mean {variables[meant].variable}?",
            {"where": variable, "key": rest, "suggestion": variables[meant].variable},
        )


def as_json(setting: Setting) -> dict[str, Any]:
    """A setting as a JSON object: key, value, its origin, and what it takes."""
    key = setting.key
    return {
        "key": key.name,
        "value": setting.value,
        "origin": setting.origin.layer,
        "where": setting.origin.where or None,
        "default": key.default,
        "type": key.type,
        "allowed": key.allowed,
        "variable": key.variable,
        "help": key.help,
    }


def shadowing(stored: Setting) -> Setting | None:
    """The stronger setting that keeps a stored one from counting, if there is one."""
    effective = current().setting(stored.key.name)
    return None if effective.origin == stored.origin else effective
