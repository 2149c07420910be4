"""The Typer app: shared options, and the only place where an error becomes an exit status."""

from __future__ import annotations

import errno
import functools
import inspect
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from accel.coercion import Command, Group
from accel.commands import COMMANDS
from accel.core.errors import AccelError, InputError, OutOfMemoryError, TimeLimitError, TransferError
from accel.grouping import with_default
from accel.output import ClosedPipe, Output

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

#: what a process that does not answer in Python any more gets on top of --timeout, in seconds
GRACE = 5.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _TimeUp(BaseException):
    """The time limit ran out. Not an Exception, so that no command mistakes it for a failure it can work around."""


class _Passed(Exception):
    """Carries an exception of a command through Typer, which would turn some kinds into statuses of its own."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def _expired(_signum: int, _frame: object) -> NoReturn:
    raise _TimeUp


def _stopped(signum: int, _frame: object) -> NoReturn:
    signal.signal(signum, signal.SIG_DFL)  # a second signal ends the process at once
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)


def _limit(seconds: float) -> None:
    """Raises `_TimeUp` in the main thread after this time; ends the process if that thread is stuck in native code."""
    import threading

    if not math.isfinite(seconds) or seconds > threading.TIMEOUT_MAX - GRACE:
        raise InputError(f"--timeout cannot be {seconds}", "give the seconds as a number")
    signal.signal(signal.SIGALRM, _expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)

    def end() -> None:
        output.error(_time_limit())
        flushing = threading.Thread(target=sys.stdout.flush, daemon=True)  # may never end: the main thread has the lock
        flushing.start()
        flushing.join(1.0)
        os._exit(TimeLimitError.exit_code)

    last = threading.Timer(seconds + GRACE, end)
    last.daemon = True
    last.start()


def _time_limit() -> TimeLimitError:
    return TimeLimitError("the time limit of --timeout ran out", "raise it, or ask for less work")


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that every command has and hands the command its `Output` as first argument."""

    @functools.wraps(command)
    def call(
        *args: Any, json_: bool, quiet: bool, timeout: float | None, set_: Any, debug: bool, **kwargs: Any
    ) -> None:
        output.mode = "json" if json_ else "quiet" if quiet else "human"
        output.debug = debug
        try:
            if timeout is not None:
                _limit(timeout)
            if set_:
                from accel.core.config import set_overrides

                set_overrides(set_)
            from accel.core import logs

            logs.setup(output.log, debug=debug)
            with logs.profiled(command.__name__.strip("_")):
                command(output, *args, **kwargs)
        except Exception as error:
            raise _Passed(error) from error
        except KeyboardInterrupt as error:
            raise _Passed(error) from error
        finally:
            if timeout is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)

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
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"accel {version('ipfs-accel')}")
        except PackageNotFoundError:
            typer.echo("accel (not installed, run from its source)")
        raise typer.Exit


def _help_if_bare(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    _help_if_bare(context)


def _listed() -> None:
    """Stands for a command that is only listed."""


def build(word: str | None = None) -> typer.Typer:
    """The command line.

    Args:
        word: what the user typed as the command. The other commands are then only listed, with their summaries:
            building the options of all of them would cost every start more than importing the one that runs.
    """
    app = typer.Typer(
        name="accel",
        cls=Group,
        rich_markup_mode=None,
        invoke_without_command=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Run, measure and share machine-learning models on the hardware you have.",
        epilog='Example: accel run all-minilm --input "hello world"',
    )
    app.callback()(_root)
    for name, command in COMMANDS.items():
        whole = word is None or word == name
        if not isinstance(command, dict):
            app.command(name, cls=Command, short_help=_first_line(command.__doc__))(
                shared(command) if whole else _listed
            )
        elif not whole:
            app.command(name, cls=Command, short_help=command[""])(_listed)
        else:
            app.add_typer(_group(command), name=name, short_help=command[""])
    return app


def _group(commands: dict[str, Any]) -> typer.Typer:
    """A group of subcommands, some of which may be groups."""
    kind = with_default(commands["*"]) if "*" in commands else Group
    group = typer.Typer(cls=kind, rich_markup_mode=None, invoke_without_command=True, help=commands[""])
    group.callback()(_help_if_bare)
    for name, command in commands.items():
        if name in ("", "*"):
            continue
        if isinstance(command, dict):
            group.add_typer(_group(command), name=name, short_help=command[""])
        else:
            group.command(name, cls=Command, short_help=_first_line(command.__doc__))(shared(command))
    return group


def _run() -> int:
    try:
        # accel itself has no option that takes a value, so the first word that is no option names the command
        word = next((text for text in sys.argv[1:] if not text.startswith("-")), "")
        code = typer.main.get_command(build(word))(standalone_mode=False, prog_name="accel")
        return code if isinstance(code, int) else 0
    except BaseException as error:
        return _status(error)


def _status(error: BaseException) -> int:
    """Prints what there is to say about an exception and returns the exit status."""
    if isinstance(error, _Passed):
        error = error.error
    if isinstance(error, ClosedPipe):
        return 0
    if isinstance(error, SystemExit):
        return _left(error)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _interrupted(130)
    if isinstance(error, typer.TyperException):
        if "--json" in sys.argv:
            output.mode = "json"
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "accel"
        output.error(InputError(error.format_message(), f"{path} --help"))
        return 2
    expected = _expected(error)
    if output.debug and not isinstance(error, _TimeUp):
        import traceback

        traceback.print_exception(error)
    output.error(expected)
    return expected.exit_code


def _expected(error: BaseException) -> AccelError:
    """The error that the user is told about."""
    if isinstance(error, AccelError):
        return error
    if isinstance(error, _TimeUp):
        return _time_limit()
    if isinstance(error, MemoryError):
        return OutOfMemoryError("memory ran out", "use a smaller model, a smaller --batch or a lower precision")
    storage = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in storage:
        where = f"{error.filename}: " if error.filename else ""
        return TransferError(f"{where}{error.strerror}", "free space there, or see to the rights of the file or folder")
    bug = AccelError(
        f"this is a bug in accel: {type(error).__name__}: {error}", "run again with --debug and report the traceback"
    )
    bug.kind = "bug"
    return bug


def _left(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if not isinstance(stop.code, int):
        output.error(AccelError(str(stop.code)))
        return 1
    return _interrupted(stop.code) if stop.code - 128 in STOPPING else stop.code


def _interrupted(status: int) -> int:
    if output.mode == "json":
        error = AccelError(f"stopped by {signal.Signals(status - 128).name}")
        error.kind, error.exit_code = "interrupted", status
        output.error(error)
    return status


def main() -> NoReturn:
    """Runs the command line and exits with its status."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the caller; print() would take the other one
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        # text that the terminal's encoding lacks, and names of files that are no text, are shown escaped
        getattr(sys, stream).reconfigure(errors="backslashreplace")
    for signum in STOPPING:
        if signal.getsignal(signum) != signal.SIG_IGN:  # nohup, and background jobs of a script
            signal.signal(signum, _stopped)
    status = _run()
    try:
        output.flush()
    except (ClosedPipe, AccelError) as error:
        status = max(status, _status(error))
    sys.exit(status)
