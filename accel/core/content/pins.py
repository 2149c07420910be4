"""Pins: what is kept, under which name and why. One JSON file each, named by the CID, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core import paths
from accel.core.content.cid import Cid, is_cid, parse
from accel.core.content.disk import failed
from accel.core.errors import InputError


@dataclass(frozen=True)
class Pin:
    """One thing that is kept.

    Attributes:
        name: the model's name or the path that was pinned; empty for content by CID.
        mode: `copy`, or `reference` where the user's own files hold the bytes.
        source: where it came from: a folder, a model's name or a network level.
        references: with mode `reference`, the user's files and the CID of each.
        size_bytes: bytes of all files.
        damaged: the record could not be read; the CID, which is its file's name, is still kept.
    """

    cid: str
    name: str = ""
    revision: str | None = None
    size_bytes: int = 0
    licence: str | None = None
    profile: str | None = None
    mode: str = "copy"
    source: str = ""
    pinned_at: str = ""
    references: tuple[tuple[str, str], ...] = ()
    damaged: bool = field(default=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """The JSON object that is stored."""
        data = dataclasses.asdict(self)
        del data["damaged"]
        return data


class AmbiguousName(InputError):
    """Several pins have the name."""


class Pins:
    """The pins of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Pin]:
        """Every pin, by name and CID.

        Raises:
            TransferError: the folder cannot be read. That is not the same as no pins: those would be collected.
        """
        found: list[Pin] = []
        try:
            for path in self.folder.iterdir():
                if path.suffix == ".json" and is_cid(path.stem):
                    found.append(self._read(path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failed("read", self.folder, error) from error
        return sorted(found, key=lambda pin: (pin.name, pin.cid))

    def _read(self, path: Path) -> Pin:
        try:
            data = json.loads(path.read_bytes())
            data["references"] = tuple((str(path), str(cid)) for path, cid in data.get("references", ()))
            pin = Pin(**data)
            if pin.cid != path.stem or not isinstance(pin.size_bytes, int) or not isinstance(pin.name, str):
                raise ValueError("it says something else than its name")
        except (OSError, ValueError, TypeError):
            return Pin(path.stem, damaged=True)
        return pin

    def get(self, cid: Cid) -> Pin | None:
        """The pin of a root."""
        path = self._path(cid)
        return self._read(path) if path.exists() else None

    def find(self, text: str) -> Pin:
        """The pin of that CID or name.

        Raises:
            InputError: nothing is pinned under it. AmbiguousName: several pins have the name.
        """
        everything = self.all()
        if is_cid(text):
            wanted = str(parse(text))
            found = [pin for pin in everything if pin.cid == wanted]
        else:
            where = os.path.abspath(text)  # noqa: PTH100 - links stay as they are
            found = [pin for pin in everything if pin.name == text] or [p for p in everything if p.source == where]
        if len(found) > 1:
            raise AmbiguousName(
                f"{text!r} is pinned {len(found)} times", "name one by its CID: " + ", ".join(p.cid for p in found)
            )
        if not found:
            names = ", ".join(pin.name or pin.cid for pin in everything[:8])
            raise InputError(f"nothing is pinned as {text!r}", f"pinned: {names}" if names else "nothing is pinned yet")
        return found[0]

    def add(self, pin: Pin) -> None:
        """Keeps it, durably."""
        body = json.dumps(pin.as_json(), indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
        paths.write_atomic(self.folder / f"{pin.cid}.json", body + b"\n")

    def remove(self, pin: Pin) -> None:
        """No longer keeps it; its blocks stay until they are collected."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / f"{pin.cid}.json").unlink()

    def _path(self, cid: Cid) -> Path:
        return self.folder / f"{cid}.json"
