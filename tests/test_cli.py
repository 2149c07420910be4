"""The command line as a shell sees it: options of all commands, exit statuses, signals, pipes and streams."""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from accel.commands import COMMANDS
from accel.core import errors

ROOT = Path(__file__).parents[1]

#: commands that behave as real ones may, behind the real command line
DRIVER = """
import errno, hashlib, json, math, os, sys, time
import accel.commands
from accel.core import errors, logs
from accel.output import Output

def sleepy(output: Output):
    "Sleeps, and takes every Exception for a failure it can work around."
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except Exception:
            pass

def native(output: Output):
    "Prints a line and then never comes back to Python."
    output.line("finished so far")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)

def tidy(output: Output):
    "Keeps what is finished when it is stopped."
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        output.line("kept")

def stubborn(output: Output):
    "Hangs while it tidies up."
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("tidying", flush=True)
        time.sleep(60)

def endless(output: Output):
    "Prints for ever."
    while True:
        output.line("x" * 100)

def fail(output: Output, how: str):
    "Fails in one of the ways that there are."
    if how == "worker": raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    if how == "eof": raise EOFError("a file ended early")
    if how == "memory": raise MemoryError
    if how == "full": raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")
    if how == "bug": raise KeyError("oh")
    if how == "exit": sys.exit("text of an exit")
    if how == "exit0": sys.exit()
    if how == "exit200": sys.exit(200)
    raise getattr(errors, how)("what happened", "what to try", {"number": 3})

def show(output: Output, what: str):
    "Prints things."
    if what == "nan": output.json({"a": math.nan, "b": [math.inf, 1.5], "c": (2,)})
    if what == "text": output.line("stra\\u00dfe \\U0001f600 \\udcff")
    if what == "json": output.json({"text": "stra\\u00dfe \\U0001f600 \\udcff"})
    if what == "notes":
        output.note("a note"); output.warning("a warning"); logs.warning("a logged warning"); logs.info("logged")
        output.result({"value": 1}, lambda: output.line("human"), "bare")
    if what == "table": output.table(("name", "value"), [("[red]x", "1")])
    if what == "progress":
        with output.progress("working", 10) as bar:
            bar._started -= 5
            bar._last -= 50
            bar.advance(5)

accel.commands.COMMANDS.update(
    sleepy=sleepy, native=native, tidy=tidy, stubborn=stubborn, endless=endless, fail=fail, show=show
)
import accel.cli
accel.cli.GRACE = 0.5
accel.cli.main()
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("driver") / "accel.py.txt"
    path.write_text(DRIVER)
    return path


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(driver: Path) -> Iterator[Start]:
    children = []

    def begin(*words: str, **options: Any) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, **options.pop("env", {})}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        child = subprocess.Popen([sys.executable, str(driver), *words], env=environment, text=True, **pipes)
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def finish(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


def accel(*words: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "accel", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


# --- time limits and signals


def test_timeout_ends_a_command_that_swallows_every_exception(start: Start) -> None:
    started = time.monotonic()
    code, out, err = finish(start("sleepy", "--timeout", "0.2"))
    assert (code, out) == (124, "ready\n")
    assert "time limit" in err
    assert "Traceback" not in err
    assert time.monotonic() - started < 20


def test_timeout_as_json(start: Start) -> None:
    code, _, err = finish(start("sleepy", "--timeout", "0.2", "--json"))
    assert (code, json.loads(err)["exit_code"], json.loads(err)["error"]) == (124, 124, "timeout")


def test_timeout_ends_native_code_and_keeps_what_was_printed(start: Start) -> None:
    code, out, err = finish(start("native", "--timeout", "0.2"))
    assert (code, out) == (124, "finished so far\n")
    assert "time limit" in err


def test_a_command_that_ends_in_time_is_not_bothered(start: Start) -> None:
    assert finish(start("show", "text", "--timeout", "30"))[0] == 0


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e30", "soon"])
def test_a_senseless_timeout_is_wrong_usage(value: str) -> None:
    code, out, err = accel("config", "path", "--timeout", value)
    assert (code, out) == (2, "")
    assert "--timeout" in err


STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def ready(child: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize(("signum", "status"), STOPS)
def test_a_signal_stops_a_command_and_what_is_finished_is_kept(signum: int, status: int, start: Start) -> None:
    child = ready(start("tidy"))
    child.send_signal(signum)
    assert finish(child) == (status, "kept\n", "")


@pytest.mark.parametrize(("signum", "status"), STOPS)
def test_a_signal_is_not_an_exception_to_work_around(signum: int, status: int, start: Start) -> None:
    child = ready(start("sleepy", "--json"))
    child.send_signal(signum)
    code, _, err = finish(child)
    assert (code, json.loads(err)["exit_code"], json.loads(err)["error"]) == (status, status, "interrupted")


def test_a_second_interrupt_ends_a_command_that_hangs_while_it_tidies_up(start: Start) -> None:
    child = ready(start("stubborn"))
    child.send_signal(signal.SIGINT)
    assert child.stdout is not None
    assert child.stdout.readline() == "tidying\n"
    child.send_signal(signal.SIGINT)
    assert finish(child)[0] == -signal.SIGINT


def test_a_hangup_that_nohup_ignores_stays_ignored(start: Start) -> None:
    child = ready(start("tidy", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)))
    child.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert finish(child)[0] == 143


# --- errors and their statuses

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.AccelError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_its_status_and_two_lines_or_one_object(kind: type[errors.AccelError], start: Start) -> None:
    text, data = start("fail", kind.__name__), start("fail", kind.__name__, "--json")
    assert finish(text) == (kind.exit_code, "", "error: what happened\n  try: what to try\n")
    code, out, err = finish(data)
    assert (code, out) == (kind.exit_code, "")
    assert json.loads(err) == {
        "schema": "accel.error/1",
        "error": kind.kind,
        "message": "what happened",
        "hint": "what to try",
        "exit_code": kind.exit_code,
        "details": {"number": 3},
    }


def test_the_statuses_are_those_of_the_design() -> None:
    assert {c.__name__: c.exit_code for c in CLASSES} == {
        "AccelError": 1,
        "InputError": 2,
        "UnavailableError": 3,
        "IncompatibleError": 4,
        "OutOfMemoryError": 4,
        "TransferError": 5,
        "GateError": 6,
        "PartialError": 7,
        "TimeLimitError": 124,
    }


@pytest.mark.parametrize(
    ("how", "status", "says"),
    [
        ("worker", 1, "bug"),  # a worker's broken pipe is not a reader of stdout that went away
        ("eof", 1, "bug"),  # nor is the early end of a file an interrupt
        ("bug", 1, "KeyError: 'oh'"),
        ("memory", 4, "memory ran out"),
        ("full", 5, "/data/x: No space left on device"),
        ("exit", 1, "text of an exit"),
        ("exit0", 0, ""),
        ("exit200", 200, ""),
    ],
)
def test_other_exceptions(how: str, status: int, says: str, start: Start) -> None:
    code, out, err = finish(start("fail", how))
    assert (code, out) == (status, "")
    assert says in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(start: Start) -> None:
    code, _, err = finish(start("fail", "bug", "--debug"))
    assert code == 1
    assert "Traceback" in err
    assert 'raise KeyError("oh")' in err


def test_profiling_shows_how_long_a_command_took() -> None:
    code, out, err = accel("config", "path", "--set", "performance.enable_profiling=true")
    assert code == 0
    assert re.fullmatch(r"info: phase path: [\d.]+ ms\n", err)
    assert accel("config", "path") == (0, out, "")


def test_the_log_file_gets_what_stderr_gets(tmp_path: Path, start: Start) -> None:
    log = tmp_path / "accel.log"
    environment = {"IPFS_ACCELERATE_LOGGING_FILE": str(log), "IPFS_ACCELERATE_LOGGING_LEVEL": "info"}
    _, _, err = finish(start("show", "notes", env=environment))
    assert [line.split(maxsplit=2)[2] for line in log.read_text().splitlines()] == [
        "warning a logged warning",
        "info logged",
    ]
    assert err.endswith("warning: a logged warning\ninfo: logged\n")


# --- usage


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("foo",), "No such command 'foo'"),
        (("detekt",), "Did you mean 'detect'?"),
        (("detect", "--bogus"), "No such option: --bogus"),
        (("config", "foo"), "No such command 'foo'"),
        (("config", "set", "hardware.precision"), "Missing argument"),
        (("config", "show", "a", "b"), "unexpected extra argument"),
        (("detect", "--set"), "--set"),
        (("config", "show", "--set", "hardware.precision"), "no value"),
        (("config", "show", "--set", "nonsense=1"), "there is no setting 'nonsense'"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], says: str) -> None:
    code, out, err = accel(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    code, out, err = accel(*words, "--json")
    assert (code, out) == (2, "")
    if "--set" not in words[-1:]:
        error = json.loads(err)
        assert (error["error"], error["exit_code"]) == ("input", 2)
        assert says in error["message"]


def test_a_bare_command_shows_its_help_and_is_wrong_usage() -> None:
    for words in ((), ("config",)):
        code, out, err = accel(*words)
        assert (code, out) == (2, "")
        assert err.startswith(f"Usage: {' '.join(('accel', *words))} ")
        assert accel(*words, "--help") == (0, err, "")


def test_python_m_accel_is_called_accel() -> None:
    code, out, _ = accel("-h")
    assert code == 0
    assert out.startswith("Usage: accel [OPTIONS]")


def test_version() -> None:
    from importlib.metadata import PackageNotFoundError, version

    code, out, err = accel("--version")
    assert (code, err) == (0, "")
    try:
        assert out == f"accel {version('ipfs-accel')}\n"
    except PackageNotFoundError:
        assert out.startswith("accel (not installed")


def leaves(commands: Mapping[str, Any] = COMMANDS) -> list[tuple[str, ...]]:
    """The words of every command, of groups within groups too."""
    found: list[tuple[str, ...]] = []
    for name, command in commands.items():
        if isinstance(command, dict):
            inner = {word: sub for word, sub in command.items() if word not in ("", "*")}
            found += [(name, *words) for words in leaves(inner)]
        else:
            found.append((name,))
    return found


@pytest.mark.parametrize("words", leaves())
def test_every_command_has_the_shared_options_a_summary_and_an_example(words: tuple[str, ...]) -> None:
    code, out, err = accel(*words, "--help")
    assert (code, err) == (0, "")
    for option in ("--json", "--quiet", "--timeout", "--set", "--debug", "--help"):
        assert re.search(rf"^ +(-\w, )?{option}\b", out, re.MULTILINE), option
    assert "Example: accel " in out.replace("\n", " ")
    assert max(map(len, out.splitlines())) <= 80
    summary = textwrap.dedent(out.split("\n\n")[1]).replace("\n", " ").strip()
    assert summary.endswith(".")


def test_the_help_of_accel_is_not_cut_short() -> None:
    out = accel("--help")[1]
    assert "..." not in out.partition("Options:")[2]
    assert max(map(len, out.splitlines())) <= 80


# --- streams


def test_a_closed_pipe_is_silent(start: Start) -> None:
    child = start("endless")
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == ""
    assert child.wait(60) == 0


def test_a_pipe_closed_before_anything_was_printed_is_silent(start: Start) -> None:
    read, write = os.pipe()
    os.close(read)
    child = start("show", "text", stdout=write)
    os.close(write)
    assert finish(child) == (0, None, "")


@pytest.mark.parametrize("words", [("show", "text"), ("endless",)])
def test_a_full_disk_behind_stdout_is_a_storage_error(words: tuple[str, ...], start: Start) -> None:
    with open("/dev/full", "w") as full:
        code, _, err = finish(start(*words, stdout=full))
    assert code == 5
    assert "cannot write standard output: No space left on device" in err
    assert "Traceback" not in err


def test_closed_streams_do_not_crash_it(driver: Path) -> None:
    for words, status in ((["show", "text"], 0), (["show", "notes"], 0), (["fail", "bug"], 1), (["nonsense"], 2)):
        command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, str(driver), *words]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
        assert done.returncode == status


def test_with_stdout_closed_errors_stay_on_stderr(driver: Path) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, str(driver), "fail", "InputError"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: what happened")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_that_the_encoding_lacks_is_escaped(encoding: str, start: Start) -> None:
    text = start("show", "text", env={"PYTHONIOENCODING": encoding, "LC_ALL": "C"}, encoding=encoding)
    data = start("show", "json", env={"PYTHONIOENCODING": encoding, "LC_ALL": "C"}, encoding=encoding)
    code, out, err = finish(text)
    assert (code, err) == (0, "")
    expected = "straße 😀 \udcff".encode(encoding, errors="backslashreplace").decode(encoding)
    assert out == expected + "\n"
    code, out, err = finish(data)
    assert (code, err) == (0, "")
    assert json.loads(out) == {"text": "straße 😀 \udcff"}


def test_nan_is_null_in_json(start: Start) -> None:
    code, out, _ = finish(start("show", "nan", "--json"))
    assert (code, json.loads(out)) == (0, {"a": None, "b": [None, 1.5], "c": [2]})


def test_notes_and_warnings_in_the_three_modes(start: Start) -> None:
    human, quiet, data = (start("show", "notes", *mode) for mode in ((), ("--quiet",), ("--json",)))
    assert finish(human) == (0, "human\n", "a note\nwarning: a warning\nwarning: a logged warning\n")
    assert finish(quiet) == (0, "bare\n", "warning: a warning\nwarning: a logged warning\n")
    code, out, err = finish(data)
    assert (code, json.loads(out)) == (0, {"value": 1})
    assert [json.loads(line)["message"] for line in err.splitlines()] == ["a warning", "a logged warning"]


def terminal(start: Start, *words: str, stream: str = "stdout", **environment: str) -> str:
    """What a command prints on a terminal."""
    master, slave = pty.openpty()
    child = start(*words, **{stream: slave}, env={"TERM": "xterm-256color", **environment})
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert child.wait(60) == 0
    return shown.decode()


def test_colour_and_movement_only_on_a_terminal(start: Start) -> None:
    assert "\x1b" not in finish(start("show", "table"))[1]
    assert "\x1b[1m" in terminal(start, "show", "table")
    assert "\x1b" not in terminal(start, "show", "table", NO_COLOR="1").replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "\x1b" not in terminal(start, "show", "table", TERM="dumb")
    assert "[red]x" in terminal(start, "show", "table")


def test_progress_moves_on_a_terminal_and_is_a_plain_line_in_a_log(start: Start) -> None:
    assert "\r\x1b[K" in terminal(start, "show", "progress", stream="stderr")
    assert "\x1b" not in terminal(start, "show", "progress", stream="stderr", TERM="dumb")
    log = finish(start("show", "progress"))[2]
    assert re.fullmatch(r"working  50 %  5/10  .*left\n", log)
    assert finish(start("show", "progress", "--json"))[2] == ""
    assert finish(start("show", "progress", "--quiet"))[2] == ""
