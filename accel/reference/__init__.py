"""Shell completions and man pages, made from the command line itself so that they cannot disagree with it.

`python -m accel.reference` writes `completions/` and `man/` of a checkout; `--check` only compares.
"""

from __future__ import annotations

from accel.reference.manual import pages
from accel.reference.shells import SCRIPTS
from accel.reference.tree import read


def files() -> dict[str, str]:
    """Every generated file: its path in the checkout, and its text."""
    tree = read()
    made = {f"completions/{name}": write(tree) for name, write in SCRIPTS.values()}
    made.update({f"man/{name}": text for name, text in pages(tree).items()})
    return made
