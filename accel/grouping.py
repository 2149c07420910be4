"""Groups of subcommands one of which need not be named: `accel pin MODEL` is `accel pin add MODEL`.

The words of the other subcommands win: `accel pin ls` lists, and a path of that name is written `./ls`.
"""

from __future__ import annotations

from typing import Any

from accel.coercion import Group


class DefaultGroup(Group):
    """A group whose subcommand `default` is meant where no subcommand is named."""

    default = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the subcommand in front, then parses as Typer does."""
        position = self._first_word(args)
        if position is not None and args[position] in self.commands:
            args = [args[position], *args[:position], *args[position + 1 :]]
        elif position is not None or (args and not set(args) & set(ctx.help_option_names)):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def _first_word(self, args: list[str]) -> int | None:
        """Where the first argument is that is neither an option nor the value of one; None where there is none."""
        valued = self._options_with_value()
        number = 0
        while number < len(args):
            word = args[number]
            if word == "--":
                return number + 1 if number + 1 < len(args) else None
            if not word.startswith("-") or word == "-":
                return number
            number += 2 if word in valued else 1
        return None

    def _options_with_value(self) -> set[str]:
        found: set[str] = set()
        for command in self.commands.values():
            for param in command.params:
                if param.param_type_name == "option" and not getattr(param, "is_flag", False):
                    found.update(param.opts)
        return found


def with_default(name: str) -> type[DefaultGroup]:
    """A group class with this default."""
    return type("Group", (DefaultGroup,), {"default": name})
