"""`accel detect`: what this machine can run on."""

from __future__ import annotations

from typing import Annotated

import typer

from accel.output import Output


def detect(
    output: Output,
    hw: Annotated[str, typer.Option("--hw", help="Platforms to look for, by comma.")] = "all",
) -> None:
    """Show the eight platforms: present with their devices, or absent with the reason.

    Example: accel detect --hw cpu,cuda --json
    """
