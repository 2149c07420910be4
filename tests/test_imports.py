"""The import rules: which part may use which, and what is never loaded before it is needed.

cli -> commands -> core          plugins and migrations -> core          core -> plugins through the registry alone
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from accel.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "accel"
PLUGINS = ("platforms", "engines", "families", "storage")
#: what each part of accel may import of accel
ALLOWED: dict[str, tuple[str, ...]] = {
    "__main__": ("cli",),
    "cli": ("cli", "coercion", "commands", "core", "grouping", "output"),
    "reference": ("cli", "commands", "core", "reference"),
    "grouping": ("coercion",),
    "coercion": (),
    "commands": ("commands", "core", "output"),
    "output": ("core",),
    "core": ("core",),
    "migrations": ("core",),
    **dict.fromkeys(PLUGINS, ("core",)),
}
#: the only parts that may import these libraries, at any place
ONLY: dict[str, tuple[str, ...]] = {
    "duckdb": ("accel.core.database", "accel.migrations"),
    "rich": ("accel.output",),
    "typer": ("accel.cli", "accel.coercion", "accel.commands", "accel.grouping", "accel.reference"),
}
NEVER = ("click", "typer._click")
#: libraries that a module may import at its top
AT_THE_TOP = ("accel", "typer")
#: modules whose whole business is a library that they import at their top: they are themselves imported late
LATE = tuple(
    f"accel.core.performance.{name}"
    for name in ("calibration_worker", "capture", "kernel_runs", "onnx_tracing", "tracing")
)
#: modules that may import by name at run time
BY_NAME = ("accel.core.registry", "accel.core.schema")
HEAVY = ("torch", "transformers", "numpy", "rich", "duckdb", "onnxruntime", "openvino", "huggingface_hub", "pydantic")
LONGEST = 500


@dataclass(frozen=True)
class Import:
    """One imported name: `accel.core.paths`, by whom, and whether it happens when the module is loaded."""

    module: str
    target: str
    line: int
    at_top: bool
    typing_only: bool


def modules(package: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(), str(path))


def imports(module: str, tree: ast.Module) -> Iterator[Import]:
    def walk(node: ast.AST, at_top: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, child.lineno, at_top, typing_only)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    base = ".".join([*module.split(".")[: -child.level], *filter(None, [base])])
                for alias in child.names:
                    # `from accel import core` and `from accel.core import paths` import a module as well
                    whole = base.startswith("accel") or not base
                    yield Import(module, f"{base}.{alias.name}" if whole else base, child.lineno, at_top, typing_only)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, at_top and not inside, typing_only or guard)

    return walk(tree, True, False)


def part(name: str) -> str:
    """The part of accel that a module belongs to: `core` of `accel.core.paths`."""
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)


def private_neighbour(module: str, target: str) -> bool:
    """`accel.families._shared` for `accel.families.cnn`: helpers of one kind of plugin."""
    return part(module) in PLUGINS and target.startswith(f"accel.{part(module)}._")


def faults(package: Path) -> list[str]:
    """Every import that breaks a rule."""
    found = []
    for module, tree in modules(package):
        for use in imports(module, tree):
            where = f"{module}:{use.line} imports {use.target}"
            root = use.target.split(".")[0]
            if root == "accel":
                allowed = ALLOWED.get(part(module), ())
                if part(module) and part(use.target) not in allowed and not private_neighbour(module, use.target):
                    found.append(f"{where}: {part(module)} may import {', '.join(allowed) or 'nothing'} of accel")
            if inside(use.target, NEVER):
                found.append(f"{where}: not a public API of typer")
            if not use.typing_only and root in ONLY and not inside(module, ONLY[root]):
                found.append(f"{where}: only for {', '.join(ONLY[root])}")
            library = root not in sys.stdlib_module_names and root not in AT_THE_TOP
            if use.at_top and not use.typing_only and inside(use.target, LATE) and module not in LATE:
                found.append(f"{where} at its top: it loads libraries")
            if library and use.at_top and not use.typing_only and module not in LATE:
                found.append(f"{where} at its top: libraries are imported where they are used")
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("importlib.import_module", "import_module", "__import__") and module not in BY_NAME:
                text = ast.unparse(node)
                if "accel" in text and "'accel.core" not in text:
                    found.append(f"{module}:{node.lineno} imports a part of accel by name: {text}")
    return found


def test_every_arrow_points_the_right_way() -> None:
    assert faults(PACKAGE) == []


def test_every_part_has_a_rule() -> None:
    parts = {part(name) for name, _ in modules(PACKAGE)} - {""}
    assert parts <= set(ALLOWED), f"say in ALLOWED what {parts - set(ALLOWED)} may import"


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("core/a.py", "from accel.commands.run import run", "core may import core"),
        ("core/a.py", "def f():\n    from accel.engines.torch import Torch", "core may import core"),
        ("core/a.py", "def f():\n    import accel.output", "core may import core"),
        ("core/a.py", "from ..platforms import cpu", "core may import core"),
        ("core/a.py", "from accel import cli", "core may import core"),
        ("core/a.py", "import importlib\ndef f(): importlib.import_module('accel.engines.torch')", "by name"),
        ("core/a.py", "def f():\n    import typer", "only for"),
        ("core/a.py", "def f():\n    from rich.table import Table", "only for"),
        ("core/a.py", "def f():\n    import duckdb", "only for"),
        ("core/a.py", "import numpy as np", "at its top"),
        ("core/a.py", "try:\n    import torch\nexcept ImportError:\n    torch = None", "at its top"),
        ("core/a.py", "class A:\n    import onnxruntime", "at its top"),
        ("core/a.py", "from accel.core.performance.tracing import trace", "at its top"),
        ("engines/a.py", "from accel.engines.torch import Torch", "engines may import core"),
        ("engines/a.py", "from accel.families._shared import x", "engines may import core"),
        ("families/a.py", "from accel.output import Output", "families may import core"),
        ("migrations/a.py", "from accel.commands import COMMANDS", "migrations may import core"),
        ("output.py", "from accel.commands import COMMANDS", "output may import core"),
        ("commands/a.py", "from accel.cli import build", "commands may import commands"),
        ("commands/a.py", "from accel.engines.torch import Torch", "commands may import commands"),
        ("cli.py", "import click", "not a public API"),
        ("cli.py", "from typer._click.exceptions import UsageError", "not a public API"),
    ],
)
def test_a_wrong_arrow_is_found(file: str, text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "accel" / file
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    assert [says in fault for fault in faults(tmp_path / "accel")].count(True) >= 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("core/a.py", "import json\nfrom accel.core.paths import home"),
        ("core/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import duckdb\n    import numpy as np"),
        ("core/a.py", "def f():\n    import torch"),
        ("core/database.py", "def f():\n    import duckdb"),
        ("families/a.py", "from accel.families._shared import x\nfrom accel.core import types"),
        ("commands/a.py", "import typer\nfrom accel.output import Output"),
    ],
)
def test_a_right_arrow_is_not_found(file: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "accel" / file
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    assert faults(tmp_path / "accel") == []


def test_core_does_not_print() -> None:
    found = []
    for module, tree in modules(PACKAGE):
        if part(module) in ("cli", "output", "commands", "reference"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                found.append(f"{module}:{node.lineno}")
    assert found == []


def test_no_file_is_longer_than_it_should_be() -> None:
    long = {str(p.relative_to(ROOT)): n for p in PACKAGE.rglob("*.py") if (n := p.read_text().count("\n")) > LONGEST}
    assert long == {}


def loaded(*words: str, first: str = "") -> set[str]:
    """The heavy libraries in memory at the end of a command; `first` is run before it."""
    code = (
        f"{first}\nimport sys\nfrom accel.cli import main\nsys.argv = ['accel', *sys.argv[1:]]\n"
        "try: main()\n"
        f"finally: print('loaded', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    last = done.stdout.splitlines()[-1].split()
    assert (done.returncode, last[0]) == (0, "loaded"), done.stderr
    return set(last[1:])


@pytest.mark.parametrize("words", [(), *((name,) for name in sorted(COMMANDS))])
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    assert loaded(*words, "--help") == set()


def test_what_is_loaded_would_be_seen() -> None:
    assert loaded("--help", first="import numpy, rich") == {"numpy", "rich"}
