"""Ready plans on disk: what a run needs so that it loads neither torch nor transformers.

    prepared/<model>/recipe.json, assets/          tokenizer, preprocessor and what the graphs are called
    prepared/<model>/export/<graph>.onnx           the fp32 export that engines start from
    prepared/<model>/<plan>/manifest.json, ...     one engine's own files for one precision

`<model>` is made of the model's digest and task; `<plan>` of device, engine, precision, the engine's version and the
machine's fingerprint, so that an upgrade or another machine never meets stale files. Every folder is built beside its
place and renamed into it whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accel.core.errors import InputError, TransferError
from accel.core.locks import holding
from accel.core.paths import ensure, home
from accel.core.types import Model, Plan, Recipe

SCHEMA = 1
RECIPE = "recipe.json"
MANIFEST = "manifest.json"


def root() -> Path:
    """The folder of all ready plans."""
    return home() / "prepared"


def model_key(model: Model) -> str:
    """Folder name of a model: readable, unique for its bytes, weights and task."""
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(model.name).name)[:40].strip(".") or "model"
    unique = hashlib.sha256(f"{model.digest}|{model.weights}|{model.family}|{model.task}|{SCHEMA}".encode()).hexdigest()
    return f"{name}-{unique[:16]}"


def model_folder(model: Model) -> Path:
    """Where everything prepared for this model lies; it may not exist."""
    return root() / model_key(model)


def plan_key(plan: Plan) -> str:
    """Folder name of a plan inside its model's folder."""
    from accel.core.fingerprint import fingerprint
    from accel.core.registry import engine

    state = hashlib.sha256(f"{engine(plan.engine).version()}|{fingerprint()}|{SCHEMA}".encode()).hexdigest()
    return f"{plan.key}-{state[:12]}"


def read_recipe(model: Model) -> tuple[Recipe, Path] | None:
    """The frozen recipe and its assets folder, or None where there is none that can be trusted."""
    folder = model_folder(model)
    if not _intact(folder, RECIPE):
        return None
    data = json.loads((folder / RECIPE).read_bytes())
    return Recipe.from_json(data["recipe"]), folder / "assets"


def find(model: Model, plan: Plan) -> Path | None:
    """The folder of a ready plan, or None when it is absent, stale or damaged."""
    folder = model_folder(model) / plan_key(plan)
    if not _intact(folder, MANIFEST):
        return None
    with contextlib.suppress(OSError):
        os.utime(folder / MANIFEST)
    return folder


def _describe(folder: Path, skip: str) -> dict[str, list[Any]]:
    """Size, modification time and sha256 of every file, by relative name."""
    described: dict[str, list[Any]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != skip):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stat = path.stat()
        described[path.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns, digest]
    return described


def _intact(folder: Path, index: str) -> bool:
    """Whether every file that the index names is as it was written.

    Size and modification time are enough when they match; otherwise the content is hashed.
    """
    try:
        data = json.loads((folder / index).read_bytes())
        if data["schema"] != SCHEMA:
            return False
        for name, (size, mtime, digest) in data["files"].items():
            path = folder / name
            stat = path.stat()
            if stat.st_size != size:
                return False
            if stat.st_mtime_ns != mtime:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """Yields an empty folder that becomes `target` when the block ends well; None if another process made it first.

    Raises:
        TransferError: the home folder is read-only or full.
    """
    ensure(target.parent)
    try:
        with holding(target.parent / f".{target.name}.lock"):
            if target.exists():
                yield None
                return
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
            try:
                yield temporary
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise TransferError(
            f"cannot prepare the model in {target.parent}: {error.strerror or error}",
            "free space there (accel config clear), or point IPFS_ACCELERATE_HOME elsewhere",
        ) from error


def freeze(model: Model, write: Callable[[Path], Recipe]) -> tuple[Recipe, Path]:
    """Keeps a model's recipe and assets. `write` fills an empty assets folder and returns the recipe."""
    folder = model_folder(model)
    known = read_recipe(model)
    if known:
        return known
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    with building(folder) as temporary:
        if temporary is not None:
            assets = temporary / "assets"
            assets.mkdir()
            recipe = write(assets)
            index = {
                "schema": SCHEMA,
                "recipe": recipe.as_json(),
                "model": {
                    "name": model.name,
                    "revision": model.revision,
                    "digest": model.digest,
                    "weights": model.weights,
                },
                "files": _describe(temporary, RECIPE),
            }
            (temporary / RECIPE).write_text(json.dumps(index))
    known = read_recipe(model)
    if known is None:
        raise TransferError(f"what was prepared for {model.name} in {folder} is damaged", "accel config clear")
    return known


def keep(model: Model, plan: Plan, write: Callable[[Path], None]) -> Path:
    """Prepares a plan once: `write` fills an empty folder. Returns the plan's folder."""
    ready = find(model, plan)
    if ready:
        return ready
    target = model_folder(model) / plan_key(plan)
    if target.exists():
        shutil.rmtree(target, ignore_errors=True)
    with building(target) as temporary:
        if temporary is not None:
            write(temporary)
            index = {
                "schema": SCHEMA,
                "plan": {"device": plan.device, "engine": plan.engine, "precision": plan.precision},
                "files": _describe(temporary, MANIFEST),
            }
            (temporary / MANIFEST).write_text(json.dumps(index))
    ready = find(model, plan)
    if ready is None:
        raise TransferError(f"what was prepared in {target} is damaged", "accel config clear")
    shrink(protect=model_folder(model))
    return ready


def _size(folder: Path) -> int:
    """Bytes on disk below a folder, hard links counted once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            stat = path.lstat()
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_blocks * 512
    return total


def listing() -> list[dict[str, Any]]:
    """What is ready: one entry per plan, and one per model for its recipe and export, largest first.

    Returns:
        dicts with key (to clear it by), model, engine, precision, bytes, used_at (ISO 8601, UTC).
    """
    entries: list[dict[str, Any]] = []
    for folder in _children(root()):
        try:
            model = json.loads((folder / RECIPE).read_bytes())["model"]
        except (OSError, ValueError, KeyError):
            model = {"name": "(damaged)"}
        plans = 0
        for plan in (p for p in _children(folder) if (p / MANIFEST).is_file()):
            about = json.loads((plan / MANIFEST).read_bytes())["plan"]
            bytes_ = _size(plan)
            plans += bytes_
            entries.append(
                {
                    "key": f"{folder.name}/{plan.name}",
                    "model": model["name"],
                    "engine": f"{about['device']} {about['engine']}",
                    "precision": about["precision"],
                    "bytes": bytes_,
                    "used_at": _used_at(plan / MANIFEST),
                }
            )
        entries.append(
            {
                "key": folder.name,
                "model": model["name"],
                "engine": "(recipe and export)",
                "precision": "",
                "bytes": max(0, _size(folder) - plans),
                "used_at": _used_at(folder),
            }
        )
    return sorted(entries, key=lambda e: -int(e["bytes"]))


def _used_at(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def clear(keys: list[str] | None = None) -> int:
    """Removes ready plans and returns the bytes freed.

    Args:
        keys: keys of `listing` or names of models; None for everything, with what builds that were killed left.

    Raises:
        InputError: nothing is kept under one of them; nothing is removed then.
    """
    if keys is None:
        targets = [*_children(root()), *_leftovers(root())]
    else:
        named: dict[str, set[Path]] = {}
        for entry in listing():
            for name in (entry["key"], entry["model"]):
                named.setdefault(name, set()).add(root() / entry["key"])
        for key in keys:
            if key not in named:
                from accel.core.registry import suggest

                raise InputError(f"nothing is kept ready under {key!r}", suggest(key, named) if named else "")
        targets = sorted(set().union(*(named[key] for key in keys)))
    freed = 0
    for target in targets:
        freed += _size(target)
        shutil.rmtree(target, ignore_errors=True)
    return freed


def _leftovers(folder: Path) -> list[Path]:
    """Temporary folders of builds that were killed over a day ago, or all of them under `clear`."""
    try:
        return [p for p in folder.iterdir() if p.is_dir() and p.name.startswith(".")]
    except OSError:
        return []


def shrink(protect: Path | None = None) -> None:
    """Keeps the folder within `performance.prepared_size` by removing the models used longest ago."""
    from accel.core.config import get

    bound = get("performance.prepared_size")
    if not bound:
        return
    day_ago = time.time() - 86400
    for leftover in _leftovers(root()):
        with contextlib.suppress(OSError):
            if leftover.stat().st_mtime < day_ago:
                shutil.rmtree(leftover, ignore_errors=True)
    folders = [(f, _size(f)) for f in _children(root())]
    total = sum(size for _, size in folders)

    def used(folder: Path) -> float:
        times = [p.stat().st_mtime for p in folder.glob(f"*/{MANIFEST}")]
        return max(times, default=folder.stat().st_mtime)

    for folder, size in sorted(folders, key=lambda f: used(f[0])):
        if total <= bound:
            return
        if folder != protect:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def discard(model: Model, plan: Plan) -> None:
    """Forgets a plan whose files turned out to be unusable, so that the next run builds it again."""
    shutil.rmtree(model_folder(model) / plan_key(plan), ignore_errors=True)
