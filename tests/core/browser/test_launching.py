"""A browser ends with whoever started it, however that ends, and leaves nothing. The browsers here are scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel.core.browser import launching
from accel.core.browser.control import BrowserLost
from accel.core.browser.finding import Browser
from accel.core.browser.launching import Launched, arguments
from accel.core.browser.pages import Page
from accel.core.errors import UnavailableError
from tests.browsers import browser, browsers_of

ROOT = Path(__file__).parents[3]


def script(tmp_path: Path, text: str) -> Browser:
    path = tmp_path / "chromium"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Browser("chromium", str(path), None)


def wait_until(what: object, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_close_kills_everything_and_removes_the_profile(tmp_path: Path) -> None:
    """Children too that made themselves sessions of their own, and ignore signals."""
    stubborn = tmp_path / "stubborn"
    stubborn.write_text(f"trap '' TERM HUP INT; echo $$ >{tmp_path}/child; sleep 1000")
    found = script(tmp_path, f"setsid sh {stubborn} & sleep 1000")
    launched = Launched(found)
    assert wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    child = int((tmp_path / "child").read_text())
    assert launched.profile.is_dir()
    processes = [launched.pid, child, *browsers_of(launched.pid)]
    launched.close()
    assert not launched.profile.exists()
    assert wait_until(lambda: not any(alive(pid) for pid in processes))
    launched.close()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_accel_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    found = script(tmp_path, "sleep 1000")
    program = f"""
import time
from accel.core.browser.finding import Browser
from accel.core.browser.launching import Launched
launched = Launched(Browser("chromium", {found.path!r}, None))
print(launched.profile, launched.pid, flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        profile, guardian = parent.stdout.readline().split()
        assert wait_until(lambda: browsers_of(int(guardian)))
        processes = [int(guardian), *browsers_of(int(guardian))]
        parent.send_signal(signum)
    assert wait_until(lambda: not any(alive(pid) for pid in processes))
    assert wait_until(lambda: not Path(profile).exists())


def test_what_a_browser_writes_goes_into_its_profile(tmp_path: Path) -> None:
    launched = Launched(script(tmp_path, 'echo "$HOME|$TMPDIR|$XDG_CACHE_HOME|$IPFS_ACCELERATE_HOME" >&2; sleep 1000'))
    assert wait_until(lambda: launched.said())
    home, temporary, cache, accel = launched.said().split("|")
    folder = str(launched.profile)
    assert (home, temporary, cache, accel) == (folder, f"{folder}/tmp", folder, "")
    launched.close()


def test_a_browser_that_ends_at_once_says_why(tmp_path: Path) -> None:
    with pytest.raises(BrowserLost, match="no display, no luck"):
        Page(script(tmp_path, "echo 'no display, no luck' >&2; exit 1"), timeout=10)


def test_a_browser_that_hangs_costs_its_time_limit(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(BrowserLost, match="did not answer"):
        Page(script(tmp_path, "sleep 1000"), timeout=0.5)
    assert time.monotonic() - started < 30


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    path = tmp_path / "chromium"
    path.write_text("not a program")
    path.chmod(0o755)
    with pytest.raises(BrowserLost, match="Exec format error"):
        Page(Browser("chromium", str(path), None), timeout=10)


def test_no_profile_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = script(tmp_path, "sleep 1000")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launching.subprocess, "Popen", full)
    monkeypatch.setattr(launching, "short_folder", lambda: str(tmp_path))
    with pytest.raises(UnavailableError, match="No space left"):
        Launched(found)
    assert not list(tmp_path.glob("accel-browser-*"))


def test_the_sandbox_is_kept_unless_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = Browser("chromium", "/usr/bin/chromium", None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "--no-sandbox" not in arguments(found, tmp_path, gpu=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--no-sandbox" in arguments(found, tmp_path, gpu=True)


def test_nothing_is_given_away_on_the_command_line(tmp_path: Path) -> None:
    """Other users can read it: neither the token nor a debugging port is there."""
    line = " ".join(arguments(Browser("chromium", "/usr/bin/chromium", None), tmp_path, gpu=True))
    assert "http://" not in line
    assert "--remote-debugging-port" not in line
    assert "--disable-extensions" in line
    assert f"--user-data-dir={tmp_path}" in line


def test_a_long_path_of_temporary_files_crashes_no_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(launching.tempfile, "tempdir", str(long))
    page = Page(browser("chromium"), "wasm")
    try:
        assert page.call("echo")[1] == {}
    finally:
        page.close()
    assert launching.short_folder("/tmp") == "/tmp"
    assert launching.short_folder(str(long)) == "/tmp"
