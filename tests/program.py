"""Runs the real `accel` command in a process of its own, as a shell or a cron job would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ACCEL = [sys.executable, "-m", "accel"]


def environment(home: Path | None = None, **extra: str) -> dict[str, str]:
    """The test's environment with a home folder for accel, and more variables."""
    variables = dict(os.environ)
    if home is not None:
        variables["IPFS_ACCELERATE_HOME"] = str(home)
    variables.update(extra)
    return variables


def accel(
    *arguments: object,
    home: Path | None = None,
    stdin: str | bytes | None = None,
    timeout: float = 240,
    cwd: Path | None = None,
    **extra: str,
) -> subprocess.CompletedProcess[str]:
    """Runs `accel` to its end; stdin is /dev/null unless given."""
    feed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(
        [*ACCEL, *map(str, arguments)],
        capture_output=True,
        text=not isinstance(stdin, bytes),
        timeout=timeout,
        env=environment(home, **extra),
        cwd=cwd,
        check=False,
        **feed,
    )


def succeed(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `accel` and expects exit 0."""
    done = accel(*arguments, **options)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def answers(*arguments: object, **options: Any) -> list[dict[str, Any]]:
    """The JSON objects that `accel ... --json` prints, one per line."""
    return [json.loads(line) for line in succeed(*arguments, "--json", **options).stdout.splitlines()]
