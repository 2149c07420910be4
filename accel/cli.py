"""The Typer app: shared options, and the only place where an error becomes an exit status."""

from __future__ import annotations

import functools
import inspect
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from accel.coercion import Command, Group
from accel.commands import COMMANDS
from accel.core.errors import AccelError, InputError, TimeLimitError
from accel.output import Output

output = Output()

SHARED: dict[str, Any] = {
    "json_": Annotated[bool, typer.Option("--json", help="Print JSON on stdout; errors as JSON on stderr.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare value only.")],
    "timeout": Annotated[
        float | None,
        typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Give up after this time (exit 124)."),
    ],
    "set_": Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a configuration key, such as hardware.precision=bf16."
        ),
    ],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}


def _expired(_signum: int, _frame: object) -> NoReturn:
    raise TimeLimitError("the time limit of --timeout ran out", "raise it, or ask for less work")


def _terminated(_signum: int, _frame: object) -> NoReturn:
    raise SystemExit(143)


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that every command has and hands the command its `Output` as first argument."""

    @functools.wraps(command)
    def call(
        *args: Any, json_: bool, quiet: bool, timeout: float | None, set_: Any, debug: bool, **kwargs: Any
    ) -> None:
        output.mode = "json" if json_ else "quiet" if quiet else "human"
        output.debug = debug
        if timeout is not None:
            signal.signal(signal.SIGALRM, _expired)
            signal.setitimer(signal.ITIMER_REAL, timeout)
        if set_:
            from accel.core.config import set_overrides

            set_overrides(set_)
        command(output, *args, **kwargs)

    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]
    defaults: dict[str, Any] = {"json_": False, "quiet": False, "timeout": None, "set_": None, "debug": False}
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation)
        for name, annotation in SHARED.items()
    ]
    call.__signature__ = signature.replace(parameters=[*own, *extra])  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in [*own, *extra]}
    return call


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"accel {version('ipfs-accel')}")
        raise typer.Exit


app = typer.Typer(
    name="accel",
    cls=Group,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run, measure and share machine-learning models on the hardware you have.",
    epilog='Example: accel run all-minilm --input "hello world"',
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for _name, _command in COMMANDS.items():
    if isinstance(_command, dict):
        _group = typer.Typer(cls=Group, rich_markup_mode=None, no_args_is_help=True, help=_command[""])
        for _sub, _function in _command.items():
            if _sub:
                _group.command(_sub, cls=Command)(shared(_function))
        app.add_typer(_group, name=_name)
    else:
        app.command(_name, cls=Command)(shared(_command))

#: the base of Typer's own usage errors, reached through its public class
_TyperError: Any = typer.BadParameter.__mro__[2]


def _execute() -> int:
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except AccelError as error:
        if output.debug:
            import traceback

            traceback.print_exc()
        output.error(error)
        return error.exit_code
    except _TyperError as error:
        if "--json" in sys.argv:
            output.mode = "json"
        output.error(InputError(error.format_message(), f"{' '.join(_command_path(error))} --help"))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if output.debug:
            raise
        bug = AccelError(
            f"this is a bug in accel: {type(error).__name__}: {error}",
            "run again with --debug and report the traceback",
        )
        bug.kind = "bug"
        output.error(bug)
        return 1


def _command_path(error: Any) -> list[str]:
    context = getattr(error, "ctx", None)
    return [context.command_path] if context is not None else ["accel"]


def _silence_stdout() -> None:
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())


def main() -> NoReturn:
    """Runs the command line and exits with its status."""
    signal.signal(signal.SIGTERM, _terminated)
    status = _execute()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    sys.exit(status)
