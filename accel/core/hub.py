"""The hub's cache on this machine: where it is, and which snapshots in it are whole.

Nothing here talks to a network or imports huggingface_hub, which costs a third of a second: `hub_client` does that.
Layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from accel.core import memory
from accel.core.errors import InputError
from accel.core.selection import Selection, select

DEFAULT_REVISION = "main"
#: patterns are compiled when they are used: not every run needs them
REPOSITORY = r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?"
COMMIT = r"[0-9a-f]{40}"
SHORT_COMMIT = r"[0-9a-f]{7,39}"


class Snapshot(NamedTuple):
    """A model of the hub in the cache.

    Attributes:
        folder: `.../snapshots/<commit>`.
        commit: full commit hash.
        selection: its files; see `Selection`.
        licence: as the model's page states it, if known.
        notes: what the user has to know.
    """

    folder: Path
    commit: str
    selection: Selection
    licence: str | None = None
    notes: tuple[str, ...] = ()


def is_repository(name: str) -> bool:
    """Whether the name could be a model of the hub: `org/name`, or a canonical `name`."""
    return re.fullmatch(REPOSITORY, name) is not None and "--" not in name and ".." not in name


def cache_folder() -> Path:
    """The hub's cache, from the same variables that huggingface_hub reads."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        chosen = os.environ.get(variable)
        if chosen:
            return Path(os.path.expandvars(chosen)).expanduser()
    return hf_home() / "hub"


def hf_home() -> Path:
    """`HF_HOME`, else `huggingface` under the user's cache folder."""
    chosen = os.environ.get("HF_HOME")
    if chosen:
        return Path(os.path.expandvars(chosen)).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"


def endpoint() -> str:
    """Address of the hub: `HF_ENDPOINT` or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the user forbade the network (`HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def repository_folder(repository: str) -> Path:
    """Folder of a model inside the cache."""
    return cache_folder() / f"models--{repository.replace('/', '--')}"


def find_commit(repository: str, revision: str) -> str | None:
    """The commit that a branch, tag or (short) commit hash meant when it was last downloaded, or None."""
    if re.fullmatch(COMMIT, revision):
        return revision
    folder = repository_folder(repository)
    if ".." not in revision.split("/"):
        try:
            commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            commit = ""
        if re.fullmatch(COMMIT, commit):
            return commit
    if re.fullmatch(SHORT_COMMIT, revision) and (folder / "snapshots").is_dir():
        found = [entry.name for entry in os.scandir(folder / "snapshots") if entry.name.startswith(revision)]
        if len(found) == 1:
            return found[0]
    return None


def remember(snapshot: Snapshot, *, weights: bool, code: bool = False, only: str | None = None) -> None:
    """Notes that every file of the snapshot has arrived (with weights and code or without)."""
    sizes = {name: (snapshot.folder / name).stat().st_size for name in snapshot.selection.files}
    selection = snapshot.selection
    memory.keep(
        "hub",
        _key(snapshot.folder, only),
        {
            "layout": selection.layout,
            "sizes": sizes,
            "weights": list(selection.weights),
            "whole": weights,
            "code": code,
            "reason": selection.reason,
            "licence": snapshot.licence,
        },
    )


def _key(folder: Path, only: str | None) -> str:
    return f"{folder}#{only}" if only else str(folder)


def cached(
    repository: str, revision: str, *, weights: bool, code: bool = False, only: str | None = None
) -> Snapshot | None:
    """A snapshot that accel has fetched and whose files are all there, or None. Costs a few file look-ups.

    Args:
        weights, code: whether the weights and the model's own Python files are wanted too.
        only: one file of a repository that holds several models.
    """
    commit = find_commit(repository, revision)
    if commit is None:
        return None
    folder = repository_folder(repository) / "snapshots" / commit
    record = memory.recall("hub", _key(folder, only))
    if record is None or (weights and not record.get("whole")) or (code and not record.get("code")):
        return None
    try:
        return Snapshot(folder, commit, _read_record(folder, record, weights), record.get("licence"))
    except (KeyError, TypeError, AttributeError, OSError, ValueError):
        return None  # a damaged record, or a file that is gone or has another size: fetch it again


def _read_record(folder: Path, record: dict[str, Any], weights: bool) -> Selection:
    skipped = () if weights else tuple(record["weights"])
    sizes = {name: size for name, size in record["sizes"].items() if name not in skipped}
    for name, size in sizes.items():
        if (folder / name).stat().st_size != size:
            raise ValueError(name)
    chosen = tuple(name for name in record["weights"] if weights)
    return Selection(record["layout"], tuple(sorted(sizes)), chosen, record["reason"])


def found_in_cache(repository: str, revision: str, *, weights: bool, only: str | None = None) -> Snapshot | None:
    """A snapshot that another program downloaded and that holds a configuration and weights, or None.

    Whether it holds every file that the hub has cannot be told without the network, and the note says so.
    """
    commit = find_commit(repository, revision)
    if commit is None:
        return None
    folder = repository_folder(repository) / "snapshots" / commit
    try:
        selection = select(list_files(folder), repository, only=only)
    except InputError:
        return None
    if weights and not selection.weights:
        return None
    if not weights:
        selection = Selection(selection.layout, selection.without_weights, (), selection.reason)
    note = f"{repository} was taken from the hub's cache as it is; the hub was not asked whether it is complete"
    return Snapshot(folder, commit, selection, notes=(note,))


def list_files(folder: Path) -> list[str]:
    """Relative paths of the files in a snapshot (links whose blob is missing are left out)."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
