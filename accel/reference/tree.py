"""The commands, options and arguments of the command line as plain data, read from the Typer app."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from accel.cli import build
from accel.commands import COMMANDS
from accel.core.catalogue import entries
from accel.core.records import KINDS
from accel.core.registry import builtin_names
from accel.core.report.exporting import FORMATS
from accel.core.report.ranking import GOALS
from accel.core.settings import SCHEMA
from accel.core.types import PLATFORMS, PRECISIONS

#: words that complete the value of an option, where its type does not say them
_VALUES: dict[str, tuple[str, ...]] = {
    "--hw": ("auto", *PLATFORMS),
    "--engine": builtin_names("engines"),
    "--precision": ("auto", *PRECISIONS),
    "--weights": ("pretrained", "random"),
    "--batch": ("auto",),
    "--profile": ("unixfs-v1-2025", "kubo-legacy"),
    "--to": ("kubo",),
    "--format": FORMATS,
    "--goal": GOALS,
    "--kind": KINDS,
    "--set": tuple(f"{name}=" for name in SCHEMA),
}
#: words that complete an argument, by command and name of the argument
_WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("accel config show", "key"): tuple(SCHEMA),
    ("accel config set", "key"): tuple(SCHEMA),
}
#: arguments and metavars that stand for a file or folder
_PATHS = ("model", "file", "files", "path", "paths", "folder", "dir", "target", "source", "other", "script")


@dataclass(frozen=True)
class Option:
    """An option.

    Attributes:
        names: shortest first: `-q`, `--quiet`.
        metavar: what its value is called; empty for a flag.
        values: words that complete its value.
        files: its value may be the name of a file.
        repeats: it may be given more than once.
        default: as text; empty where it does not help to know it.
    """

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    values: tuple[str, ...] = ()
    files: bool = False
    repeats: bool = False
    required: bool = False
    default: str = ""


@dataclass(frozen=True)
class Argument:
    """A positional argument; `values` and `files` say what completes it."""

    metavar: str
    help: str
    required: bool
    repeats: bool
    values: tuple[str, ...] = ()
    files: bool = False


@dataclass(frozen=True)
class Command:
    """A command or a group of commands.

    Attributes:
        path: `accel config show`.
        summary: one line.
        text: paragraphs of description without the summary.
        examples: command lines.
        default: the subcommand of a group that is meant where none is named.
    """

    path: str
    summary: str
    text: tuple[str, ...]
    examples: tuple[str, ...]
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...] = ()
    default: Command | None = None

    @property
    def name(self) -> str:
        """The last word of the path."""
        return self.path.rpartition(" ")[2]

    @property
    def offered(self) -> tuple[tuple[Option, ...], tuple[Argument, ...]]:
        """Options and arguments that may follow the path; those of the default command too."""
        if self.default is None:
            return self.options, self.arguments
        own = {option.names for option in self.options}
        more = tuple(option for option in self.default.options if option.names not in own)
        return (*self.options, *more), self.default.arguments

    def walk(self) -> Iterator[Command]:
        """This command and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def read() -> Command:
    """The whole command line."""
    root: Any = typer.main.get_command(build())
    return _command(root, typer.Context(root, info_name="accel", help_option_names=["-h", "--help"]), "accel")


def _command(command: Any, context: typer.Context, path: str) -> Command:
    paragraphs = [re.sub(r"\s+", " ", p).strip() for p in (command.help or "").split("\n\n")]
    paragraphs += [command.epilog] if command.epilog else []
    examples = [p.partition(":")[2].strip() for p in paragraphs if re.match(r"Examples?:", p)]
    text = [p for p in paragraphs if p and not re.match(r"Examples?:", p)]
    options, arguments = [], []
    for parameter in command.get_params(context):
        if parameter.hidden:
            continue
        if parameter.param_type_name == "option":
            options.append(_option(parameter))
        else:
            arguments.append(_argument(parameter, path))
    below = []
    # Typer puts groups last; the user sees the order of COMMANDS
    order = list(COMMANDS) if path == "accel" else []
    children = getattr(command, "commands", {})
    for name, child in sorted(children.items(), key=lambda item: order.index(item[0]) if order else 0):
        if not child.hidden:
            below.append(_command(child, typer.Context(child, info_name=name, parent=context), f"{path} {name}"))
    group = COMMANDS.get(path.removeprefix("accel "))
    default = group.get("*") if isinstance(group, dict) else None
    return Command(
        path,
        text[0] if text else "",
        tuple(text[1:]),
        tuple(examples),
        tuple(options),
        tuple(arguments),
        tuple(below),
        next((child for child in below if child.name == default), None),
    )


def _choices(parameter: Any) -> tuple[str, ...]:
    known = getattr(getattr(parameter, "type_descriptor", None), "choices", None) or ()
    return tuple(str(getattr(choice, "value", choice)) for choice in known)


def _is_path(parameter: Any, metavar: str) -> bool:
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    typed = isinstance(annotation, type) and issubclass(annotation, Path)
    return typed or any(word in _PATHS for word in re.split(r"[^a-z]+", metavar.lower()))


def _option(parameter: Any) -> Option:
    names = tuple(sorted(parameter.opts, key=len)) + tuple(parameter.secondary_opts)
    long = max(parameter.opts, key=len)
    metavar = "" if parameter.is_flag else parameter.metavar or long.lstrip("-").upper().replace("-", "_")
    default = parameter.default
    shown = isinstance(default, (str, int, float)) and not isinstance(default, bool) and parameter.show_default
    return Option(
        names,
        parameter.help or "",
        metavar,
        (_choices(parameter) or _VALUES.get(long, ())) if metavar else (),
        bool(metavar) and _is_path(parameter, parameter.metavar or ""),
        parameter.multiple,
        parameter.required,
        str(default) if shown and default != "" else "",
    )


def _argument(parameter: Any, path: str) -> Argument:
    words = _choices(parameter) or _WORDS.get((path, parameter.name), ())
    if parameter.name in ("model", "models"):
        words = tuple(sorted(entries()))
    return Argument(
        (parameter.metavar or parameter.name).upper(),
        parameter.help or "",
        parameter.required,
        parameter.nargs != 1,
        words,
        _is_path(parameter, parameter.name) or parameter.name == "models",
    )
