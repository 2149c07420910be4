"""Installs the third party's package into a folder of its own, as pip would."""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).parent
ENGINES = ("beads", "liar", "nan", "crash", "raise")


def install(site: Path, engines: tuple[str, ...] = ENGINES) -> str:
    """Puts package and metadata into `site` and returns what PYTHONPATH has to be."""
    site.mkdir(exist_ok=True)
    shutil.copytree(HERE / "accel_abacus", site / "accel_abacus")
    info = site / "accel_abacus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: accel-abacus\nVersion: 1.0\n")
    lines = [
        "[accel.platforms]",
        "abacus = accel_abacus:Abacus",
        "[accel.families]",
        "doubling = accel_abacus:Doubling",
    ]
    lines += ["[accel.engines]", *(f"{name} = accel_abacus:{name.capitalize()}" for name in engines)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    root = Path(__file__).resolve().parents[2]
    return f"{site}:{root}"
