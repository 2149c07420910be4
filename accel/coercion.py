"""Turns plain option values into Python values without pydantic.

Typer 0.29 imports pydantic to convert the first value that it meets, whatever its type, which costs more than twice
the time of importing Typer itself. Text, numbers and lists of text need no such help; everything else, and every value
that is not plainly right, still goes through Typer's own conversion, so that messages stay the same.
"""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class _PlainValue:
    """Stands where Typer keeps the converter of one parameter."""

    def convert(self, value: Any, info: Any, annotation: Any) -> tuple[bool, Any]:
        """Whether the value was converted here, and to what."""
        if getattr(info, "parser", None) is not None or getattr(info, "click_type", None) is not None:
            return False, None
        if annotation is str and isinstance(value, str):
            return True, value
        if annotation == list[str] and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return True, list(value)
        number: int | float
        if annotation is int and (type(value) is int or (isinstance(value, str) and _INTEGER.fullmatch(value))):
            number = int(value)
        elif annotation is float and (
            type(value) in (int, float) or (isinstance(value, str) and _NUMBER.fullmatch(value))
        ):
            number = float(value)
        else:
            return False, None
        low, high = getattr(info, "min", None), getattr(info, "max", None)
        inside = (low is None or number >= low) and (high is None or number <= high)
        return inside, number

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """What Typer calls for every parameter."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        done, converted = self.convert(value, param.type_descriptor.parameter_info, param.type_descriptor.annotation)
        if done:
            return converted
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _lighten(params: list[Any]) -> None:
    # the attribute is Typer's own; where another version of Typer has none, its own conversion stays in place
    for param in params:
        if getattr(param, "_runtime_param", param) is None and hasattr(param, "type_descriptor"):
            param._runtime_param = _PlainValue()


class Command(TyperCommand):
    """A command whose plain values are converted here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses as Typer does."""
        _lighten(self.get_params(ctx))
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """A group whose plain values are converted here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses as Typer does."""
        _lighten(self.get_params(ctx))
        return super().parse_args(ctx, args)
