"""The commands by name. A dictionary is a group of subcommands; its key "" holds the group's help, its key "*" the
name of the subcommand that is meant where none is named."""

from __future__ import annotations

from typing import Any

from accel.commands.bench import bench
from accel.commands.compat import compat
from accel.commands.config import GROUP as CONFIG
from accel.commands.detect import detect
from accel.commands.fetch import fetch
from accel.commands.pin import GROUP as PIN
from accel.commands.profile import profile
from accel.commands.report import GROUP as REPORT
from accel.commands.run import run

COMMANDS: dict[str, Any] = {
    "bench": bench,
    "compat": compat,
    "config": CONFIG,
    "detect": detect,
    "fetch": fetch,
    "pin": PIN,
    "profile": profile,
    "report": REPORT,
    "run": run,
}
