"""What accel keeps on this machine, and what a node keeps for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accel.core import paths

#: parts of the home folder: (level, kind, path below it)
_PARTS = (
    ("results", "database", "results.duckdb"),
    ("results", "spool", "results.spool"),
    ("results", "copies", "backups"),
    ("results", "baselines", "baselines"),
    ("results", "unfinished sweeps", "bench"),
    ("results", "reference outputs", "bench-references"),
    ("models", "resolved models", "models"),
    ("models", "hub cache", "hub"),
    ("models", "caches", "cache"),
    ("plans", "prepared plans", "prepared"),
    ("plans", "verdicts", "plans"),
    ("plans", "browser files", "web"),
)


def survey(*, offline: bool = False) -> list[dict[str, Any]]:
    """What is kept: `level` (results, models, plans, local, kubo), `kind`, `count` (files or blocks), `bytes`,
    `where`, and `own`: whether it takes room in a place of accel's on this machine.

    Raises:
        TransferError: the content store cannot be read.
    """
    found: list[dict[str, Any]] = []
    for level, kind, name in _PARTS:
        path = paths.home() / name
        count, size = _measure(path, "journal.jsonl" if name == "bench" else "")
        found.append({"level": level, "kind": kind, "count": count, "bytes": size, "where": str(path), "own": True})
    if not (paths.home() / "content").exists():
        return found
    from accel.core.content.getting import storage_report
    from accel.core.content.settings import Settings

    for entry in storage_report(Settings.current(offline=offline)):
        own = entry["level"] == "local" and entry["kind"] != "reference"
        found.append({**{k: v for k, v in entry.items() if k != "blocks"}, "count": entry["blocks"], "own": own})
    return found


def _measure(path: Path, only: str) -> tuple[int, int]:
    """Files (of the name `only`, if there is one) and their bytes at a path."""
    if path.is_file():
        return 1, path.stat().st_size
    count = size = 0
    for folder, _, files in os.walk(path):
        for name in files:
            if only and name != only:
                continue
            try:
                size += (Path(folder) / name).lstat().st_size
                count += 1
            except OSError:
                continue
    return count, size
