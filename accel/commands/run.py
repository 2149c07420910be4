"""`accel run`: a model's answer on the best device of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from accel.output import Output


def run(
    output: Output,
    model: Annotated[str, typer.Argument(help="A folder, a file, a catalogue name or a hub id.")],
) -> None:
    """Run a model on real input, on the best device.

    Example: accel run bert-base --hw auto
    """
