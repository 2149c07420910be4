"""Finds plugins by name: the files of a folder first, installed entry points on a miss.

Names are listed without importing anything, so a plugin whose own library is missing never reads as unknown.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from accel.core.contracts import EnginePlugin, HardwarePlugin, ModelPlugin, StoragePlugin
from accel.core.errors import InputError, UnavailableError

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def builtin_names(kind: str) -> tuple[str, ...]:
    """Names of the built-in plugins of a kind (`platforms`, `engines`, `families`, `storage`), sorted."""
    stems = (p.stem for p in (ROOT / kind).glob("*.py"))
    return tuple(sorted(s.replace("_", "-") for s in stems if not s.startswith("_")))


def _entry_points(kind: str) -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {e.name: e for e in entry_points(group=f"accel.{kind}")}


def names(kind: str) -> tuple[str, ...]:
    """Built-in and installed names of a kind. Scans entry points, so not for `--help`."""
    return tuple(sorted({*builtin_names(kind), *_entry_points(kind)}))


def suggest(name: str, known: Iterable[str]) -> str:
    """`Did you mean ...` or the list of what there is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


@functools.cache
def plugin_class(kind: str, name: str) -> type[Any]:
    """The plugin class of that name.

    Raises:
        InputError: nobody offers the name. UnavailableError: the plugin's own import failed.
    """
    if name in builtin_names(kind):
        module = importlib.import_module(f"accel.{kind}.{name.replace('-', '_')}")
        return cast(type[Any], module.PLUGIN)
    found = _entry_points(kind)
    if name not in found:
        known = {*builtin_names(kind), *found}
        raise InputError(f"no {kind.rstrip('s')} is called {name!r}", suggest(name, known))
    try:
        return cast(type[Any], found[name].load())
    except Exception as error:
        raise UnavailableError(
            f"the {kind} plugin {name!r} of {found[name].value} could not be loaded: {error}",
            "install what it needs, or uninstall the package that offers it",
        ) from error


def platform(name: str) -> HardwarePlugin:
    """The hardware platform of that name."""
    return cast(HardwarePlugin, plugin_class("platforms", name)())


def engine(name: str) -> EnginePlugin:
    """The engine of that name."""
    return cast(EnginePlugin, plugin_class("engines", name)())


def family_class(name: str) -> type[ModelPlugin]:
    """The model family of that name, as a class: instances are made per recipe."""
    return cast("type[ModelPlugin]", plugin_class("families", name))


def store(name: str, **settings: Any) -> StoragePlugin:
    """The content store of that name."""
    return cast(StoragePlugin, plugin_class("storage", name)(**settings))
