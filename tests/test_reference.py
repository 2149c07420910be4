"""Completions and man pages: up to date, and real shells and man programs take them."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.reference import __main__ as program
from accel.reference import files, shells
from accel.reference.tree import Command, read

ROOT = Path(__file__).parents[1]
TREE = read()
LEAVES = [command for command in TREE.walk() if not command.commands]


def need(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_files_in_the_checkout_are_what_the_command_line_says() -> None:
    differing = {str(path.relative_to(ROOT)): text for path, text in program.stale(ROOT).items()}
    assert differing == {}, "run python -m accel.reference"


def test_writing_and_checking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").touch()
    root = ["--root", str(tmp_path)]
    assert program.main([*root, "--check"]) == 1
    assert program.main(root) == 0
    assert program.main([*root, "--check"]) == 0
    page = tmp_path / "man" / "accel-run.1"
    page.write_text(page.read_text().replace("Run a model", "Walk a model"))
    (tmp_path / "man" / "accel-gone.1").write_text("old")
    assert program.main([*root, "--check"]) == 1
    err = capsys.readouterr().err
    assert "Walk a model" in err
    assert "accel-gone.1" in err
    assert program.main(root) == 0
    assert not (tmp_path / "man" / "accel-gone.1").exists()
    assert program.main([*root, "--check"]) == 0


def test_it_does_not_write_into_an_installation(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        program.main(["--root", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_the_text_does_not_depend_on_where_and_when(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = files()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_PRECISION", "fp16")
    assert files() == first
    assert not any(str(ROOT) in text for text in first.values())


# --- completions


def bash(*words: str, cwd: Path = ROOT) -> list[str]:
    """What bash offers for the last of the words; no program can be started meanwhile."""
    script = (
        f"source {ROOT}/completions/accel.bash; PATH=/nowhere\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        # `--hw=cpu` arrives as three words, as COMP_WORDBREAKS has it
        '_accel; for word in "${COMPREPLY[@]}"; do echo "$word"; done'
    )
    command = [need("bash"), "--norc", "-c", script, "bash", "accel", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=20)
    # compopt complains outside of a real completion, which the script ignores
    assert done.stderr == ""
    return done.stdout.splitlines()


def fish(*words: str, cwd: Path = ROOT) -> list[str]:
    line = " ".join(["accel", *words])
    script = f"source {ROOT}/completions/accel.fish; set PATH /nowhere; complete -C '{line}'"
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", script], cwd=cwd, capture_output=True, text=True, timeout=20
    )
    assert done.stderr == ""
    return [text.split("\t")[0] for text in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", [bash, fish])
def test_a_shell_completes_commands_options_and_values(shell: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "some picture.png").touch()
    assert set(shell("")) == {command.name for command in TREE.commands}
    assert shell("det") == ["detect"]
    assert shell("config", "s") and set(shell("config", "s")) == {"set", "show"}
    assert shell("run", "all-m") == ["all-minilm"]
    assert shell("run", "all-minilm", "--no-t") == ["--no-trial"]
    assert set(shell("detect", "--hw", "c")) == {"cpu", "cuda"}
    assert set(shell("run", "--precision", "")) == {"auto", "fp32", "fp16", "bf16", "int8"}
    assert shell("run", "--set", "hardware.pre")[0].startswith("hardware.pre")
    assert "hardware.precision" in shell("config", "set", "hardware.")
    assert shell("run", "--timeout", "") == []
    assert [word.replace("\\", "") for word in shell("run", "--image", "som", cwd=tmp_path)] == ["some picture.png"]
    assert [word.replace("\\", "") for word in shell("run", "som", cwd=tmp_path)] == ["some picture.png"]
    assert shell("detect", "som", cwd=tmp_path) == []
    # the value of an option is no command, and a command's name elsewhere is none either
    assert "--hw" in shell("run", "--input", "config", "--h")
    assert "show" not in shell("run", "config", "sh")


@pytest.mark.parametrize("command", LEAVES, ids=lambda command: command.path)
def test_bash_knows_every_option_of_every_command(command: Command) -> None:
    words = command.path.split()[1:]
    names = {name for option in command.options for name in option.names}
    assert names >= {"--json", "--quiet", "-q", "--timeout", "--set", "--debug", "--help", "-h"}
    assert set(bash(*words, "-")) == names
    assert set(bash(*words, "--")) == {name for name in names if name.startswith("--")}


def test_bash_takes_a_value_after_an_equals_sign() -> None:
    assert bash("detect", "--hw", "=", "cu") == ["cuda"]
    assert set(bash("run", "--precision", "=")) == {"auto", "fp32", "fp16", "bf16", "int8"}


def test_a_group_with_a_default_command_offers_what_that_takes() -> None:
    group = next((command for command in TREE.commands if command.default is not None), None)
    if group is None:
        pytest.skip("no group has a default command")
    offered = set(bash(group.name, ""))
    assert offered >= {child.name for child in group.commands}
    for option in group.default.options:
        assert set(option.names) <= set(bash(group.name, "-"))


class Terminal:
    """An interactive zsh on a pseudo-terminal."""

    def __init__(self, folder: Path) -> None:
        start = f"fpath=({ROOT}/completions $fpath); autoload -Uz compinit; compinit -u -d {folder}/dump"
        (folder / ".zshrc").write_text(f"PS1='ready> '; unsetopt beep zle_bracketed_paste; {start}\nLISTMAX=0\n")
        environment = {
            "TERM": "dumb",
            "ZDOTDIR": str(folder),
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "LANG": "C",
        }
        environment |= {"COLUMNS": "200", "LINES": "200"}
        zsh = need("zsh")
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(zsh, ["zsh", "-i", "+o", "globalrcs"], environment)
        self.seen = ""
        self.wait("ready> ")

    def wait(self, pattern: str) -> str:
        """Everything shown since the last call, up to and with the pattern."""
        import select

        deadline = time.monotonic() + 20
        while not (match := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.seen!r}"
            if select.select([self.handle], [], [], 0.2)[0]:
                self.seen += os.read(self.handle, 65536).decode(errors="replace")
        shown, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return shown

    def complete(self, line: str, pattern: str) -> str:
        """Types a line and a Tab, waits for the pattern, and clears the line."""
        os.write(self.handle, line.encode() + b"\t")
        shown = self.wait(pattern)
        os.write(self.handle, b"\x15echo cle''ared\n")
        self.wait("cleared\r?\n(.|\n)*ready> ")
        return shown

    def close(self) -> None:
        os.close(self.handle)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def test_zsh_completes_commands_options_and_values(tmp_path: Path) -> None:
    (tmp_path / "some picture.png").touch()
    zsh = Terminal(tmp_path)
    try:
        zsh.complete("accel det", r"accel detect ")
        zsh.complete("accel config sho", r"show ")
        zsh.complete("accel run all-m", r"all-minilm ")
        zsh.complete("accel run all-minilm --no-t", r"--no-trial ")
        zsh.complete("accel detect --hw cu", r"--hw cuda ")
        zsh.complete("accel detect --hw=cu", r"--hw=cuda ")
        zsh.complete("accel run --image som", r"some\\ picture.png ")
        zsh.complete("accel config set hardware.precis", r"hardware.precision ")
        # a list with descriptions, in which no escape is left over
        shown = zsh.complete("accel detect --de", r"--deep[^\n]*some seconds each")
        assert "device: matrix" in shown
    finally:
        zsh.close()


@pytest.mark.parametrize("shell", sorted(shells.SCRIPTS))
def test_the_shell_itself_finds_no_fault(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "completions" / shells.SCRIPTS[shell][0]
    done = subprocess.run([need(shell), "-n", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert program.main(["--print", shell]) == 0
    assert capsys.readouterr().out == path.read_text()


# --- man pages

PAGES = sorted(name for name in files() if name.startswith("man/"))


def rendered(name: str) -> str:
    """The page as a reader sees it, without overstriking."""
    command = ["mandoc", "-T", "utf8", "-O", "width=200"] if shutil.which("mandoc") else ["man", "-l"]
    environment = {**os.environ, "MANWIDTH": "200"}
    done = subprocess.run([*command, str(ROOT / name)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return re.sub(".\x08", "", done.stdout)


def test_there_is_a_page_for_accel_and_for_each_command() -> None:
    assert sorted(["man/accel.1", *(f"man/accel-{command.name}.1" for command in TREE.commands)]) == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_valid(name: str) -> None:
    done = subprocess.run([need("mandoc"), "-T", "lint", str(ROOT / name)], capture_output=True, text=True)
    complaints = [line for line in done.stdout.splitlines() if "missing date" not in line]  # it would change every day
    assert complaints == []


@pytest.mark.parametrize("command", list(TREE.walk()), ids=lambda command: command.path)
def test_a_page_says_what_the_help_says(command: Command) -> None:
    words = command.path.split()
    if not shutil.which("mandoc"):
        need("man")
    text = rendered(f"man/{'-'.join(words[:2])}.1")
    flat = re.sub(r"\s+", " ", text.replace("‐", "-").replace("−", "-"))
    assert command.summary in flat
    for example in command.examples:
        assert re.sub(r"\s+", " ", example) in flat
    for option in command.options:
        assert option.help in flat
        assert all(name in flat for name in option.names)
    for argument in command.arguments:
        assert argument.metavar in flat


@pytest.mark.parametrize("command", LEAVES, ids=lambda command: command.path)
def test_every_command_has_an_example_that_begins_with_itself(command: Command) -> None:
    examples = command.examples
    assert examples
    words = command.path.split()
    assert any(example.split()[:2] == words[:2] for example in examples)


def test_roff_takes_no_text_for_a_request() -> None:
    from accel.reference.manual import _text

    text = ".profile 'quoted' \\fB --flag " + "word " * 30 + ".end"
    for line in _text(text).splitlines():
        assert not line.startswith((".", "'"))
        assert len(line) <= 80
    page = f'.TH T 1 "" x y\n.SH NAME\nt \\- t\n.SH TEXT\n{_text(text)}\n'
    done = subprocess.run([need("mandoc"), "-T", "utf8", "-O", "width=400"], input=page, capture_output=True, text=True)
    assert re.sub(r"\s+", " ", text) in re.sub(r"\s+", " ", done.stdout)
