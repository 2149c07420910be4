"""Plain option values are converted without pydantic, and wrong ones are still told in Typer's words."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any

import pytest
import typer

from accel.coercion import Command, Group


def run_app(arguments: list[str]) -> dict[str, Any]:
    """Parses arguments with an application made of our classes and returns what the command received."""
    seen: dict[str, Any] = {}
    app = typer.Typer(cls=Group)

    @app.callback()
    def root() -> None:
        pass

    @app.command(cls=Command)
    def work(
        text: Annotated[str, typer.Argument()] = "none",
        count: Annotated[int, typer.Option(min=1, max=9)] = 3,
        size: Annotated[float | None, typer.Option(min=0.5)] = None,
        tag: Annotated[list[str] | None, typer.Option()] = None,
        hidden: Annotated[bool, typer.Option()] = False,
        hexadecimal: Annotated[int, typer.Option(parser=lambda value: int(str(value), 16))] = 0,
    ) -> None:
        seen.update(text=text, count=count, size=size, tag=tag, hidden=hidden, hexadecimal=hexadecimal)

    app(["work", *arguments], standalone_mode=False)
    return seen


def test_plain_values() -> None:
    seen = run_app(["hello", "--count", "7", "--size", "1.5e1", "--tag", "a", "--tag", "b", "--hidden"])
    assert seen == {"text": "hello", "count": 7, "size": 15.0, "tag": ["a", "b"], "hidden": True, "hexadecimal": 0}
    assert isinstance(seen["size"], float)


def test_defaults() -> None:
    seen = run_app([])
    assert (seen["text"], seen["count"], seen["size"]) == ("none", 3, None)
    assert not seen["tag"]


def test_a_parser_of_its_own_still_works() -> None:
    assert run_app(["--hexadecimal", "ff"])["hexadecimal"] == 255


@pytest.mark.parametrize("arguments", [["--count", "x"], ["--count", "0"], ["--count", "10"], ["--size", "0.1"]])
def test_wrong_values_are_told_by_typer(arguments: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match=r"Input should be"):
        run_app(arguments)


def test_the_command_line_loads_no_pydantic() -> None:
    code = (
        "import sys; sys.argv=['accel', 'detect', '--hw', 'cpu', '--timeout', '60']\n"
        "import accel.cli\ntry: accel.cli.main()\nexcept SystemExit: pass\n"
        "sys.stderr.write('loaded' if 'pydantic' in sys.modules else 'light')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stderr.endswith("light")
