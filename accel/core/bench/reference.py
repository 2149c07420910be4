"""What fp32 torch makes of a workload's inputs, once per workload, and kept for the next sweep."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accel.core.bench.cells import Cell, digest
from accel.core.bench.process import CellProcess, Settings
from accel.core.errors import AccelError
from accel.core.fingerprint import engine_version
from accel.core.paths import ensure, home
from accel.core.types import Item, Model

#: workloads whose reference is kept
KEPT = 200


class References:
    """References by workload; each is made when it is first asked for, in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        # the reference may take longer and needs no limit of a cell
        self._settings = dataclasses.replace(settings, timeout_s=max(settings.timeout_s, 600.0))
        self._inputs = [_about(item) for item in settings.items]
        self._failed: dict[str, AccelError] = {}
        self._lock = threading.Lock()

    def get(self, cell: Cell, model: Model, show: Callable[[str], None]) -> Path:
        """Path of the reference without its ending; `.npy` and `.json` lie there.

        Args:
            show: takes a line when it has to be made.

        Raises:
            AccelError: torch cannot run the model either, or memory or time ran out.
        """
        options = self._settings.options
        name = digest(
            [
                *(model.digest, model.weights, cell.task, cell.batch, cell.length, self._inputs),
                *(options.max_new_tokens, options.chat, options.truncate, options.steps, options.seed),
                *(engine_version("torch"), engine_version("transformers"), engine_version("onnxruntime"), 2),
            ]
        )
        path = _folder() / name
        with self._lock:
            if name in self._failed:
                raise self._failed[name]
            if path.with_suffix(".npy").exists() and path.with_suffix(".json").exists():
                with contextlib.suppress(OSError):
                    os.utime(path.with_suffix(".npy"))
                return path
            show(f"the reference of {cell.model}: fp32 torch")
            try:
                self._make(cell, model, path)
            except AccelError as error:
                self._failed[name] = error
                raise
            return path

    def _make(self, cell: Cell, model: Model, path: Path) -> None:
        ensure(_folder())
        plain = dataclasses.replace(cell, platform="cpu", device="cpu:0", threads=0)
        scratch = Path(tempfile.mkdtemp(dir=_folder(), prefix=".new-"))
        try:
            with CellProcess(plain, model, self._settings) as process:
                process.call("reference", path=str(scratch / "reference"))
            for ending in (".npy", ".json"):
                (scratch / f"reference{ending}").replace(path.with_suffix(ending))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _shrink()


def _folder() -> Path:
    return home() / "bench-references"


def _about(item: Item) -> list[Any]:
    """What decides an input, files by what they hold."""
    parts: list[Any] = [item.text, list(item.texts)]
    for path in (item.image, item.audio):
        if path is not None and Path(path).is_file():
            with Path(path).open("rb") as file:
                parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return parts


def _shrink() -> None:
    files = sorted(_folder().glob("*.npy"), key=lambda p: p.stat().st_mtime)
    for file in files[:-KEPT]:
        for ending in (".npy", ".json"):
            with contextlib.suppress(OSError):
                file.with_suffix(ending).unlink()
