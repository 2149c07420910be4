"""From what the user typed to a resolved model: a path, a short name of the catalogue, a hub id or an ipfs address.

A model that was resolved before costs a few file look-ups: no network, no huggingface_hub, no transformers, no numpy.
Records on this path are named tuples: a frozen dataclass takes ten times as long to define.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from accel.core import catalogue, digest, hub, kinds, local, registry
from accel.core.digest import Report
from accel.core.errors import AccelError, IncompatibleError, InputError, TransferError, UnavailableError
from accel.core.selection import Selection
from accel.core.types import Model, Weights

#: a branch, tag or commit
REVISION = r"[\w][\w./+-]{0,199}"
#: a page of the hub, and a file inside a repository: `org/name/model.gguf`
HUB_PAGE = r"https?://(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)(?:/tree/([^/]+))?/?"
HUB_FILE = r"([^/]+/[^/]+)/(.+\.(?:gguf|onnx))"

Source = Literal["local", "package", "hub", "ipfs", "catalogue"]
#: what a project's lock file decides: nothing, the bytes of the models that it names, or also what may be used at all
Lock = Literal["ignore", "use", "frozen"]


class _Wish(NamedTuple):
    """What the user asked for."""

    name: str
    revision: str | None
    task: str | None
    weights: Weights
    refresh: bool
    code: bool
    progress: Report | None
    lock: Lock = "ignore"

    @property
    def real(self) -> bool:
        return self.weights == "pretrained"


class _Found(NamedTuple):
    """Files of a model, and where they came from."""

    source: Source
    folder: Path | None
    selection: Selection
    config: dict[str, Any] | None = None
    revision: str | None = None
    entry: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def resolve(
    name: str,
    *,
    revision: str | None = None,
    task: str | None = None,
    weights: Weights | None = None,
    refresh: bool = False,
    trust_remote_code: bool = False,
    progress: Report | None = None,
    lock: Lock = "ignore",
) -> Model:
    """Finds a model, and brings it here if it is not.

    Args:
        name: a path (`./name` is always one), a short name of the catalogue, a hub id `org/name` with an optional
            `@revision`, or `ipfs://CID`.
        revision: branch, tag or commit on the hub; another way to say `@revision`.
        task: instead of the model's own.
        weights: `random` takes the configuration alone; None means pretrained.
        refresh: ask the hub whether the revision has moved, instead of using what is here.
        trust_remote_code: let the model's own Python code run; marked as `entry["trust_remote_code"]`.
        progress: told about bytes that are downloaded or hashed.
        lock: `use` takes the bytes that `accel.lock` names, `frozen` refuses what it does not name.

    Raises:
        InputError: no such path or name, or files that cannot be used.
        UnavailableError: weights that cannot be had, with the ways on; or not in the lock file.
        IncompatibleError: an architecture that no family knows, or that needs code of its own.
        TransferError: the network, the disk, or a wrong checksum.
    """
    if not name:
        raise InputError("the name of the model is empty", "name a model, such as all-minilm")
    name, revision = split(name, revision)
    wish = _Wish(name, revision, task, weights or "pretrained", refresh, trust_remote_code, progress, lock)
    return _finish(wish, _locked(wish) or _find(wish))


def is_path(name: str) -> bool:
    """Whether a name means a path of this machine, rather than a model of the catalogue or the hub."""
    exists = local.as_path(name).exists()
    if local.looks_like_path(name):
        return exists or re.fullmatch(HUB_FILE, name) is None
    return exists and catalogue.find(name) is None


def split(name: str, revision: str | None) -> tuple[str, str | None]:
    """Parts `name@revision`, where it is not a path; an address of the hub's web pages is taken as the id in it."""
    if page := re.fullmatch(HUB_PAGE, name):
        name = page[1] + (f"@{page[2]}" if page[2] else "")
    base, at, typed = name.rpartition("@")
    if not at or local.looks_like_path(name) or local.as_path(name).exists() or name.startswith("ipfs://"):
        base, typed = name, ""
    if typed and revision and typed != revision:
        raise InputError(f"{name} and --revision {revision} ask for two revisions", "give one")
    chosen = typed or revision
    if at and not typed and base != name:
        raise InputError(f"there is no revision after the @ in {name}", "give a branch, tag or commit")
    if chosen is not None and (not re.fullmatch(REVISION, chosen) or ".." in chosen):
        raise InputError(f"{chosen!r} is not a revision", "give a branch, tag or commit")
    return base, chosen


def _locked(wish: _Wish) -> _Found | None:
    """The bytes that the project's lock file names, read as the model they are; None where it does not name it."""
    if wish.lock == "ignore":
        return None
    from accel.core.content import lockfile

    frozen = wish.lock == "frozen"
    if wish.name.startswith("ipfs://"):
        if frozen:
            lockfile.require(wish.name)
        return None
    locked = lockfile.entry(f"{wish.name}@{wish.revision}" if wish.revision else wish.name, frozen=frozen)
    if locked is None:
        return None
    if wish.refresh:
        raise InputError(
            f"{lockfile.NAME} keeps {locked.name} at {locked.cid}, and --refresh asks for a newer one",
            f"accel pin --lock --refresh {locked.name} takes the newer one into it",
        )
    entry = None if is_path(wish.name) else catalogue.find(wish.name) or catalogue.by_hub(wish.name)
    if not wish.real and entry is not None and PurePosixPath(entry.get("package", {}).get("path", "")).suffix:
        return None  # one file of weights: the architecture comes from the catalogue
    place = resolve_ipfs(f"ipfs://{locked.cid}")
    files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
    lockfile.check_size(locked, sum(path.stat().st_size for path in files))
    note = f"{lockfile.NAME}: the bytes of {locked.cid}"
    found = _of_package(entry, place) if entry is not None and wish.real else None
    if found is None:
        found = _Found("ipfs", *local.at(place, weights=wish.real, code=wish.code)[:2], entry=entry)
    return found._replace(revision=locked.revision or f"ipfs://{locked.cid}", notes=(note,))


def _of_package(entry: dict[str, Any], place: Path) -> _Found | None:
    """Pinned files of an entry's package where that is one file of weights, which says nothing of itself."""
    path = PurePosixPath(entry.get("package", {}).get("path", ""))
    if not path.suffix or not (place / path.name).is_file():
        return None
    _check_required(entry)
    layout = entry["package"].get("layout") or entry.get("layout", "transformers")
    return _package(entry, catalogue.Package(place, path.name, None), layout)._replace(source="ipfs")


def _find(wish: _Wish) -> _Found:
    if wish.name.startswith("ipfs://"):
        found = local.at(resolve_ipfs(wish.name), weights=wish.real, code=wish.code)
        return _Found("ipfs", found.folder, found.selection, found.config, wish.name, notes=found.notes)
    path = local.as_path(wish.name)
    if local.looks_like_path(wish.name) and not (re.fullmatch(HUB_FILE, wish.name) and not path.exists()):
        if not path.exists():
            raise local.missing(wish.name)
        return _local(wish, path)
    entry = catalogue.find(wish.name)
    if entry is not None:
        return _from_catalogue(wish, entry)
    if path.exists():
        return _local(wish, path)
    if file := re.fullmatch(HUB_FILE, wish.name):
        return _from_hub(wish, file[1], None, file[2])
    if hub.is_repository(wish.name):
        return _from_hub(wish, wish.name, catalogue.by_hub(wish.name))
    if "/" in wish.name:
        raise local.missing(wish.name)
    raise InputError(f"{wish.name!r} is not the name of a model", _near(wish.name))


def _local(wish: _Wish, path: Path) -> _Found:
    if wish.revision is not None:
        raise InputError(f"{path} is a path, which has no revisions", "leave the revision out")
    found = local.at(path, weights=wish.real, code=wish.code)
    return _Found("local", found.folder, found.selection, found.config, notes=found.notes)


def resolve_ipfs(uri: str) -> Path:
    """Folder or file with the content of `ipfs://CID[/path]`, verified by the content store.

    Raises:
        UnavailableError: the content store is not part of this installation. InputError: a path out of the content.
    """
    cid, _, inside = uri.removeprefix("ipfs://").partition("/")
    try:
        materialise = importlib.import_module("accel.core.content").materialise
    except (ImportError, AttributeError) as error:
        raise UnavailableError(
            f"{uri} has to be fetched first, and this installation has no content store", f"accel fetch {cid}"
        ) from error
    root = Path(materialise(cid))
    place = (root / inside).resolve()
    if not place.is_relative_to(root.resolve()) or not place.exists():
        raise InputError(f"there is no {inside!r} in {cid}", f"accel fetch {cid}, then look at its files")
    return root / inside if inside else root


def _from_catalogue(wish: _Wish, entry: dict[str, Any]) -> _Found:
    repository: str | None = entry.get("hub")
    package = None if wish.revision else catalogue.locate(entry)
    layout = entry.get("package", {}).get("layout") or entry.get("layout", "transformers")
    if not wish.real:
        return _random(wish, entry, package if layout == "transformers" else None)
    if package is not None:
        _check_required(entry)
        return _package(entry, package, layout)
    if repository is not None:
        return _from_hub(wish, repository, entry)
    if entry.get("package"):
        message = f"the weights of {wish.name} come with the Python package {entry['package']['distribution']}, "
        raise UnavailableError(f"{message}which is not installed", catalogue.ways(entry))
    raise UnavailableError(f"nobody publishes weights of {wish.name}", catalogue.ways(entry))


def _package(entry: dict[str, Any], package: catalogue.Package, layout: str) -> _Found:
    config: dict[str, Any] = {}
    if package.file is None:
        selection = local.at(package.folder, weights=True).selection
    else:
        selection = Selection(layout, (package.file,), (package.file,))
        folder = catalogue.config_folder(entry["name"])
        config = local.read_json(folder / "config.json") if folder is not None else {}
    return _Found("package", package.folder, selection, config, package.version, entry)


def _check_required(entry: dict[str, Any]) -> None:
    needed = catalogue.missing_module(entry)
    if needed is not None:
        raise UnavailableError(
            f"{entry['name']} is built by the Python package {needed['module']}, which is not installed",
            needed["install"],
        )


def _random(wish: _Wish, entry: dict[str, Any], package: catalogue.Package | None) -> _Found:
    """The configuration alone; its tokenizer comes along where it is on this machine already."""
    name, layout = entry["name"], entry.get("layout", "transformers")
    if layout == "onnx":
        raise InputError(
            f"{name} exists as a trained ONNX file only, so it has no random weights", "leave --weights out"
        )
    if layout == "python":
        _check_required(entry)
    if package is not None:
        found = local.at(package.folder, weights=False)
        return _Found("package", package.folder, found.selection, {}, package.version, entry)
    if entry.get("hub"):
        snapshot = hub.cached(entry["hub"], _revision(wish, entry), weights=False)
        if snapshot is not None:
            return _snapshot(snapshot, entry)
    folder = catalogue.config_folder(name)
    if folder is None:
        raise UnavailableError(f"the catalogue has no configuration of {name}", "leave --weights out")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return _Found("catalogue", folder, Selection(layout, tuple(names), ()), entry=entry)


def _from_hub(wish: _Wish, repository: str, entry: dict[str, Any] | None, only: str | None = None) -> _Found:
    """A model of the hub: from its cache as it is, or downloaded. `only` names one file of the repository."""
    revision = _revision(wish, entry)
    if not wish.refresh:
        snapshot = hub.cached(repository, revision, weights=wish.real, code=wish.code, only=only)
        if snapshot is not None:
            return _snapshot(snapshot, entry)
    from accel.core import hub_client

    def check(folder: Path) -> None:
        """Refuses before the download of the weights what would be refused after it."""
        if entry is None and (folder / "config.json").is_file() and only is None:
            _kind(wish, local.read_json(folder / "config.json"), {})

    try:
        snapshot = hub_client.fetch(
            repository, revision, weights=wish.real, code=wish.code, only=only, check=check, progress=wish.progress
        )
    except AccelError as error:
        unreachable = isinstance(error, TransferError) or hub.offline()
        if unreachable and not wish.refresh:
            snapshot = hub.found_in_cache(repository, revision, weights=wish.real, only=only)
            if snapshot is not None:
                return _snapshot(snapshot, entry)
        if not wish.real and entry is not None and isinstance(error, (TransferError, UnavailableError)):
            return _random(wish, entry, None)
        raise _with_ways(wish, error, entry) from error
    return _snapshot(snapshot, entry)


def _revision(wish: _Wish, entry: dict[str, Any] | None) -> str:
    return wish.revision or (entry or {}).get("revision") or hub.DEFAULT_REVISION


def _snapshot(snapshot: hub.Snapshot, entry: dict[str, Any] | None) -> _Found:
    known = dict(entry) if entry is not None else {"licence": snapshot.licence} if snapshot.licence else {}
    return _Found("hub", snapshot.folder, snapshot.selection, {}, snapshot.commit, known, snapshot.notes)


def _with_ways(wish: _Wish, error: AccelError, entry: dict[str, Any] | None) -> AccelError:
    """The same error, with every other way to get the model in its hint."""
    if not isinstance(error, (UnavailableError, TransferError)):
        return error
    hints = [error.hint, catalogue.ways(entry)]
    near = _near(wish.name)
    if near.startswith("did you mean") and entry is None:
        hints.insert(0, near)
    named = entry is not None or "/" in wish.name
    message = error.message if named else f"{wish.name!r} is not in the catalogue; taken as a hub id, {error.message}"
    return type(error)(message, "; or ".join(hint for hint in hints if hint), error.details)


def _near(name: str) -> str:
    """Names like this one, or the catalogue."""
    names = catalogue.entries()
    similar = registry.suggest(name, [*names, *(entry["hub"] for entry in names.values() if "hub" in entry)])
    return similar if similar.startswith("did you mean") else registry.suggest(name, names)


def _finish(wish: _Wish, found: _Found) -> Model:
    selection, folder, entry = found.selection, found.folder, dict(found.entry or {})
    if selection.layout == "onnx" and not wish.real:
        raise InputError(f"{wish.name} is an ONNX file, so it has no random weights", "leave --weights out")
    config = found.config or _read_config(found)
    family, task = _kind(wish, config, entry)
    if wish.code:
        entry["trust_remote_code"] = True
    identity = digest.of_files(folder, selection.files, wish.progress) if folder is not None else ""
    if not wish.real:
        identity = digest.of_values("random", identity, config)
    if "factory" in entry:
        identity = digest.of_values(identity, entry["factory"], entry.get("arguments"))
    return Model(
        name=wish.name,
        source=found.source,
        folder=folder,
        files=selection.files,
        layout=selection.layout,
        config=config,
        family=family,
        task=task,
        weights=wish.weights,
        digest=identity,
        revision=found.revision,
        entry=entry,
        notes=found.notes,
    )


def _read_config(found: _Found) -> dict[str, Any]:
    folder, selection = found.folder, found.selection
    assert folder is not None
    if selection.layout == "gguf" and selection.weights:
        return local.read_gguf(folder / selection.weights[0])
    if selection.layout == "onnx":
        return local.onnx(folder, selection.weights[0], selection.without_weights).config or {}
    return local.read_json(folder / ("model_index.json" if selection.layout == "diffusers" else "config.json"))


def _kind(wish: _Wish, config: dict[str, Any], entry: dict[str, Any]) -> tuple[str, str]:
    """Family and task, after refusing what must not run."""
    if "auto_map" in config and not wish.code:
        raise IncompatibleError(
            f"{wish.name} needs Python code of its own, which comes with it and is not run unless you ask for it",
            "read that code, then ask with --trust-remote-code; or choose another model",
        )
    if entry.get("family"):
        family: str = entry["family"]
        if wish.task is None or wish.task == entry["task"]:
            return family, entry["task"]
        kinds.check(wish.name, family, wish.task)
        return family, wish.task
    return kinds.infer(wish.name, config, wish.task)
