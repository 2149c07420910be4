"""Writes the shell completions and man pages, or compares them with what is there."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from accel.reference import files
from accel.reference.shells import SCRIPTS
from accel.reference.tree import read

ROOT = Path(__file__).resolve().parents[2]


def stale(root: Path) -> dict[Path, str]:
    """Files that differ from what they should hold, with a description of the difference."""
    wanted = {root / name: text for name, text in files().items()}
    there = {path for folder in ("completions", "man") for path in (root / folder).glob("*") if path.is_file()}
    found = dict.fromkeys(there - set(wanted), "does not belong here")
    for path, text in wanted.items():
        now = path.read_text() if path.exists() else ""
        if now != text:
            lines = difflib.unified_diff(now.splitlines(), text.splitlines(), str(path), "generated", lineterm="", n=0)
            found[path] = "\n".join(list(lines)[:12])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m accel.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 where something differs")
    parser.add_argument("--print", choices=sorted(SCRIPTS), metavar="SHELL", help="print the completions of a shell")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: the one this file is in)")
    options = parser.parse_args(arguments)
    if options.print:
        sys.stdout.write(SCRIPTS[options.print][1](read()))
        return 0
    if not (options.root / "pyproject.toml").is_file():
        parser.error(f"{options.root} is not a checkout of accel")
    if options.check:
        differing = stale(options.root)
        for path, text in sorted(differing.items()):
            sys.stderr.write(f"{path} is not what the command line says:\n{text}\n")
        if differing:
            sys.stderr.write("run python -m accel.reference\n")
        return 1 if differing else 0
    for path in stale(options.root):
        path.unlink(missing_ok=True)
    for name, text in files().items():
        target = options.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
