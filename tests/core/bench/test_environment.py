"""What a later comparison has to know about the machine, the software and the commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel.core.bench import environment
from accel.core.bench.environment import code_digest, commit, plugin_digest, versions
from tests.core.bench import parts


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment._COMMIT:
        monkeypatch.delenv(name, raising=False)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        cwd=folder, check=True, capture_output=True, text=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull},
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    return folder


def test_everything_is_there_and_is_json(tmp_path: Path) -> None:
    found = environment.environment(tmp_path)
    assert found["interpreter"] == sys.executable and found["python"].startswith("3.")
    assert found["memory_bytes"] > 1e8 and found["threads"] >= found["cores"] >= 1
    assert all(Path(entry).is_dir() for entry in found["path"])
    assert {"torch", "onnxruntime", "numpy"} <= set(versions()) and found["versions"] == versions()
    assert json.loads(json.dumps(found)) == found


def test_the_commit_is_what_git_says(repository: Path) -> None:
    (repository / "below").mkdir()
    assert commit(repository / "below") == git(repository, "rev-parse", "HEAD")
    git(repository, "pack-refs", "--all")
    git(repository, "gc", "-q")
    assert commit(repository) == git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "-q", "--detach")
    assert commit(repository) == git(repository, "rev-parse", "HEAD")


def test_a_worktree_has_its_own_commit(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    git(tmp_path / "side", "commit", "-q", "--allow-empty", "-m", "two")
    assert commit(tmp_path / "side") == git(tmp_path / "side", "rev-parse", "HEAD") != commit(repository)


def test_without_git_the_ci_system_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(tmp_path) is None
    monkeypatch.setenv("GITHUB_SHA", "abc")
    assert commit(tmp_path) == "abc"


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) is None
    (tmp_path / ".git" / "HEAD").write_text("")
    assert commit(tmp_path) is None


def test_accels_own_code_has_one_digest() -> None:
    assert code_digest() == code_digest() and len(code_digest()) == 16
    assert plugin_digest("engines", "onnxruntime") == "" and plugin_digest("families", "") == ""


def test_a_plugin_of_a_third_party_that_changes_has_another_digest(tmp_path: Path) -> None:
    """In processes of their own, since a module is imported once."""
    code = "from accel.core.bench.environment import plugin_digest as d; print(d('engines', 'evil-plain'))"
    found = []
    for name, deed in (("one", "pass"), ("same", "pass"), ("other", "unused = 1")):
        parts.install(tmp_path / name, 0, {"plain": deed})
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path / name)},
            cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(done.stdout.strip())
    assert found[0] == found[1] != found[2] and len(found[0]) == 16
    assert plugin_digest("engines", "not-there") == "unknown"
