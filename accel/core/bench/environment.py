"""Where and with what something was measured: what a later comparison has to know."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from accel.core.bench.cells import digest
from accel.core.fingerprint import engine_version, fingerprint
from accel.core.probe import read_text

#: libraries whose version may change what is measured
LIBRARIES = (
    *("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "onnxruntime-qnn", "transformers", "tokenizers"),
    *("numpy", "nncf", "diffusers"),
)
#: variables of CI systems that hold the commit
_COMMIT = ("GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT", "CIRCLE_SHA1", "GIT_COMMIT")


def environment(folder: Path | None = None) -> dict[str, Any]:
    """The machine, the versions and the commit. JSON types only.

    Args:
        folder: whose commit is named; the working directory by default.
    """
    from accel.core.cpu import describe, memory

    cpu = describe()
    return {
        "fingerprint": fingerprint(),
        "cpu": cpu.name,
        "cores": cpu.cores,
        "threads": cpu.threads,
        "memory_bytes": memory().total_bytes,
        "system": " ".join(os.uname()[i] for i in (0, 2, 4)) if hasattr(os, "uname") else sys.platform,
        "python": ".".join(map(str, sys.version_info[:3])),
        "interpreter": sys.executable,
        "path": [entry for entry in sys.path if entry and Path(entry).is_dir()],
        "accel": _accel(),
        "code": code_digest(),
        "versions": versions(),
        "commit": commit(folder),
    }


def versions() -> dict[str, str]:
    """Versions of the installed libraries, by name."""
    found = {name: engine_version(name) for name in LIBRARIES}
    return {name: version for name, version in found.items() if version}


def _accel() -> str | None:
    return engine_version("ipfs-accel")


def code_digest() -> str:
    """Stands for the Python files of accel itself, as they are on disk."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(root.rglob("*.py"))
    return digest([[file.relative_to(root).as_posix(), _crc(file)] for file in files])


def plugin_digest(kind: str, name: str) -> str:
    """Stands for the source of a plugin; empty for accel's own, which `code_digest` covers."""
    from accel.core.errors import AccelError
    from accel.core.registry import builtin_names, plugin_class

    if not name or name in builtin_names(kind):
        return ""
    try:
        module = sys.modules[plugin_class(kind, name).__module__]
    except (AccelError, KeyError):
        return "unknown"
    file = getattr(module, "__file__", None)
    return digest([str(_crc(Path(file)))]) if file else "unknown"


def _crc(file: Path) -> int:
    import zlib

    try:
        return zlib.crc32(file.read_bytes())
    except OSError:
        return 0


def commit(folder: Path | None = None) -> str | None:
    """The commit that is checked out in a folder or one above it, else what the CI system says; None for neither."""
    start = (folder or Path.cwd()).absolute()
    for place in (start, *start.parents):
        git = place / ".git"
        pointer = read_text(str(git), 4096) if git.is_file() else ""
        if pointer.startswith("gitdir:"):  # a worktree or a submodule
            git = (place / pointer.partition(":")[2].strip()).resolve()
        head = read_text(str(git / "HEAD"), 256)
        if head:
            return _resolved(git, head) or _from_ci()
    return _from_ci()


def _from_ci() -> str | None:
    return next((os.environ[name] for name in _COMMIT if os.environ.get(name)), None)


def _resolved(git: Path, head: str) -> str | None:
    if not head.startswith("ref:"):
        return head
    name = head.partition(":")[2].strip()
    shared = read_text(str(git / "commondir"), 256)
    for base in (git, (git / shared).resolve()) if shared else (git,):
        found = read_text(str(base / name), 64)
        if found:
            return found
        for line in read_text(str(base / "packed-refs"), 1 << 22).splitlines():
            commit_id, _, ref = line.partition(" ")
            if ref == name:
                return commit_id
    return None
