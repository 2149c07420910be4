"""The commands by name. A dictionary is a group of subcommands; its key "" holds the group's help."""

from __future__ import annotations

from typing import Any

from accel.commands.config import GROUP as CONFIG
from accel.commands.detect import detect
from accel.commands.run import run

COMMANDS: dict[str, Any] = {
    "config": CONFIG,
    "detect": detect,
    "run": run,
}
