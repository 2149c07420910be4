"""Browsers of this machine, found by looking for their files: none is started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from accel.core.probe import properties, read_text

#: name of a browser and what its program is called, best known first
_LINUX = {
    "chromium": ("chromium", "chromium-browser", "org.chromium.Chromium"),
    "chrome": ("google-chrome", "google-chrome-stable", "google-chrome-beta", "chrome", "com.google.Chrome"),
    "edge": ("microsoft-edge", "microsoft-edge-stable", "com.microsoft.Edge"),
    "firefox": ("firefox", "firefox-esr", "org.mozilla.firefox"),
}
#: folders that hold browsers although PATH may leave them out
_FOLDERS = ("/usr/bin", "/usr/local/bin", "/snap/bin", "/var/lib/flatpak/exports/bin")
_MAC = {"chromium": "Chromium", "chrome": "Google Chrome", "edge": "Microsoft Edge", "firefox": "Firefox"}
_WINDOWS = {
    "chrome": r"Google\Chrome\Application\chrome.exe",
    "chromium": r"Chromium\Application\chrome.exe",
    "edge": r"Microsoft\Edge\Application\msedge.exe",
    "firefox": r"Mozilla Firefox\firefox.exe",
}
VENDORS = {"chromium": "Chromium", "chrome": "Google", "edge": "Microsoft", "firefox": "Mozilla"}


@dataclass(frozen=True)
class Browser:
    """A browser by kind (`chromium`, `chrome`, `edge`, `firefox`), its program, and its version where that is known."""

    kind: str
    path: str
    version: str | None


def chosen() -> str | None:
    """The setting `hardware.browser`: a path or a name, or None to look for one."""
    from accel.core.config import get

    value = get("hardware.browser")
    return str(value) if value else None


def find(system: str = sys.platform, root: str = "", wanted: str | None = None) -> list[Browser]:
    """Installed browsers, at most one of each kind.

    Args:
        system: as `sys.platform` names it.
        root: a folder that stands for `/`.
        wanted: path or name of the only browser that counts, or None for any. Nothing is found where it does not exist.
    """
    if wanted and ("/" in wanted or "\\" in wanted):
        name = wanted.replace("\\", "/").rpartition("/")[2].lower()
        kind = next(
            (k for k in ("firefox", "edge", "chromium") if k in name), "chrome" if "chrome" in name else "chromium"
        )
        return [Browser(kind, wanted, _version(wanted, system))] if _runs(wanted) else []
    found: list[Browser] = []
    for kind, path in _candidates(system, root):
        if wanted and wanted.lower() not in (kind, path.rpartition("/")[2].lower()):
            continue
        if all(kind != browser.kind for browser in found) and _runs(path):
            found.append(Browser(kind, path, _version(path, system)))
    return found


def _candidates(system: str, root: str) -> list[tuple[str, str]]:
    if system == "darwin":
        places = [f"{root}/Applications", os.path.expanduser("~/Applications")]  # noqa: PTH111 - works without a home
        return [
            (k, f"{place}/{name}.app/Contents/MacOS/{_program(name)}") for k, name in _MAC.items() for place in places
        ]
    if system == "win32":
        variables = ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
        places = [os.environ[name] for name in variables if name in os.environ]
        return [(kind, f"{place}\\{tail}") for kind, tail in _WINDOWS.items() for place in places]
    folders = [] if root else [part for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    folders += [f"{root}{folder}" for folder in _FOLDERS if f"{root}{folder}" not in folders]
    return [(kind, f"{folder}/{name}") for kind, names in _LINUX.items() for name in names for folder in folders]


def _program(application: str) -> str:
    return "firefox" if application == "Firefox" else application


def _runs(path: str) -> bool:
    return os.access(path, os.X_OK) and not os.path.isdir(path)  # noqa: PTH112 - called at every start


def _version(path: str, system: str) -> str | None:
    """From files beside the program; a browser that keeps its version inside only (Chrome on Linux) has none."""
    folder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    if system == "darwin":
        text = read_text(f"{os.path.dirname(folder)}/Info.plist", 65536)  # noqa: PTH120
        _, _, tail = text.partition("<key>CFBundleShortVersionString</key>")
        return tail.partition("<string>")[2].partition("</string>")[0].strip() or None
    for line in read_text(f"{folder}/application.ini", 8192).splitlines():
        if line.startswith("Version="):
            return line.partition("=")[2].strip() or None
    facts = properties(read_text(f"{folder}/snap/manifest.yaml", 4096))
    return facts.get("version")
