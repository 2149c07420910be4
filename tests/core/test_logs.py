"""What is logged, where, and how long phases took."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.core import config, logs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    config.clear_overrides()
    yield
    config.clear_overrides()
    logs.setup(None)


def listen(*settings: str, debug: bool = False) -> list[tuple[str, str]]:
    config.set_overrides(settings)
    seen: list[tuple[str, str]] = []
    logs.setup(lambda level, text: seen.append((level, text)), debug=debug)
    return seen


@pytest.mark.parametrize(("level", "count"), [("error", 1), ("warning", 2), ("info", 3), ("debug", 4)])
def test_the_level_decides_what_is_shown(level: str, count: int) -> None:
    seen = listen(f"logging.level={level}")
    for name in reversed(logs.LEVELS):
        getattr(logs, name)(f"at {name}")
    assert [level for level, _ in seen] == list(reversed(logs.LEVELS))[:count]


def test_debug_shows_everything_whatever_the_level() -> None:
    seen = listen("logging.level=error", debug=True)
    logs.debug("detail")
    with logs.profiled("work"):
        pass
    assert seen[0] == ("debug", "detail")
    assert seen[1][1].startswith("phase work: ")


def test_the_file_gets_one_line_for_each_message(tmp_path: Path) -> None:
    file = tmp_path / "accel.log"
    seen = listen(f"logging.file={file}", "logging.level=info")
    logs.info("first\nstill first\\")
    logs.debug("not this one")
    logs.warning("straße \udcff")
    first, second = file.read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ info first\\nstill first\\\\", first)
    assert second.endswith(" warning straße \\udcff")
    assert len(seen) == 2
    file.unlink()  # as log rotation does
    logs.warning("again")
    assert len(file.read_text().splitlines()) == 1


def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    seen = listen(f"logging.file={tmp_path / 'nowhere' / 'accel.log'}")
    logs.warning("one")
    logs.warning("two")
    assert [text for _, text in seen if "cannot write the log file" in text] == [seen[0][1]]
    assert [text for _, text in seen[1:]] == ["one", "two"]


def test_a_full_disk_stops_nothing() -> None:
    seen = listen("logging.file=/dev/full")
    logs.warning("one")
    assert [level for level, _ in seen] == ["warning", "warning"]
    assert "No space left" in seen[0][1]


def test_processes_share_a_file_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "accel.log"
    code = "from accel.core import logs\nfor i in range(200): logs.error('x' * 300)"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    environment = {"IPFS_ACCELERATE_LOGGING_FILE": str(file), "IPFS_ACCELERATE_HOME": str(tmp_path)}
    children = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    lines = file.read_text().splitlines()
    assert len(lines) == 800
    assert all(re.fullmatch(r"\S+ \d+ error x{300}", line) for line in lines)


def test_a_library_user_gets_messages_through_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    logs.setup(None)
    logs.warning("look here")
    assert [(r.name, r.levelno, r.getMessage()) for r in caplog.records] == [("accel", logging.WARNING, "look here")]


def test_a_broken_configuration_does_not_keep_warnings_away(isolated_home: Path) -> None:
    (isolated_home / "config.json").write_text("{broken")
    seen = listen()
    logs.warning("still here")
    assert seen == [("warning", "still here")]


def test_profiling_is_off_and_free_by_default() -> None:
    seen = listen("logging.level=debug")
    with logs.profiled("load"):
        pass
    assert logs.profiled("a") is logs.profiled("b")
    assert (seen, logs.phases()) == ([], [])


def test_enable_profiling_records_phases_at_any_level(tmp_path: Path) -> None:
    file = tmp_path / "accel.log"
    seen = listen("performance.enable_profiling=true", "logging.level=error", f"logging.file={file}")
    with logs.profiled("whole"), logs.profiled("part"):
        sum(range(200_000))
    with pytest.raises(ZeroDivisionError), logs.profiled("fails"):
        print(1 / 0)
    names = [name for name, _ in logs.phases()]
    times = dict(logs.phases())
    assert names == ["part", "whole", "fails"]
    assert 0 < times["part"] <= times["whole"] < 60
    assert [re.sub(r"[\d.]+ ms", "N ms", text) for _, text in seen] == [
        *("phase part: N ms", "phase whole: N ms", "phase fails: N ms (failed)")
    ]
    assert len(file.read_text().splitlines()) == 3
