"""The browsers of this machine for tests, and onnxruntime-web fetched once for all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accel.core.browser import pool, runtime
from accel.core.browser.finding import Browser, find

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ipfs-accel"
SHELL = CACHE / "headless-shell-147.0.0" / "chromium"


def browser(kind: str) -> Browser:
    """An installed browser, or the headless shell that has WebNN (`shell`); skips where it is not here."""
    if kind == "shell":
        if not SHELL.exists():
            pytest.skip("the headless shell with WebNN is not here: tests/get_headless_shell.sh gets it")
        return Browser("chromium", str(SHELL), None)
    for found in find():
        if found.kind == kind:
            return found
    pytest.skip(f"{kind} is not installed: apt-get install {kind}")


def share_runtime(home: Path) -> None:
    """Gives a home folder the onnxruntime-web that the tests have fetched; the first test fetches it, really."""
    shared = CACHE / "web-home"
    before = os.environ.get("IPFS_ACCELERATE_HOME")
    os.environ["IPFS_ACCELERATE_HOME"] = str(shared)
    try:
        if not runtime.installed() and runtime.npm() is None:
            pytest.skip("onnxruntime-web is not here and npm is not installed")
        runtime.obtain()
    finally:
        os.environ.pop("IPFS_ACCELERATE_HOME", None)
        if before is not None:
            os.environ["IPFS_ACCELERATE_HOME"] = before
    if not (home / "web").exists():
        (home / "web").symlink_to(shared / "web")


@pytest.fixture
def web(isolated_home: Path) -> Path:
    """A home folder with onnxruntime-web in it."""
    share_runtime(isolated_home)
    return isolated_home


@pytest.fixture(scope="module")
def no_browser_afterwards() -> object:
    """Pages live through the tests of a module, and end with it."""
    yield
    pool.close()


def main_process(pid: int) -> int:
    """The browser's own process under its guardian."""
    # orphans become the guardian's children too, later
    children = [child for child, parent in _parents().items() if parent == pid]
    return min(children, key=lambda child: int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19]))


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    return parents


def browsers_of(pid: int) -> list[int]:
    """Processes that descend from a process, itself left out (Linux)."""
    parents = _parents()

    def descends(child: int) -> bool:
        while child in parents:
            child = parents[child]
            if child == pid:
                return True
        return False

    return [child for child in parents if descends(child)]
