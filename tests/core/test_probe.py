"""Children that hang or fail, answers kept on disk, files that are not there."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from accel.core import probe
from accel.core.probe import ProbeError, kept, run_child
from tests import machines


def test_an_answer_is_computed_once_per_key(isolated_home: Path) -> None:
    asked: list[str] = []

    def compute() -> list[str]:
        asked.append("x")
        return ["answer"]

    assert [kept("thing", ["a", 1], compute) for _ in range(3)] == [["answer"]] * 3
    assert len(asked) == 1
    kept("thing", ["a", 2], compute)
    kept("thing", ("a", 2), compute)
    assert len(asked) == 2


def test_no_answer_is_not_kept() -> None:
    assert kept("thing", 1, lambda: None) is None
    assert kept("thing", 1, lambda: 5) == 5


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"{}", b'{"key": 1}', b"\xff\xfe", b'{"value": 3}'])
def test_a_damaged_file_is_made_again(isolated_home: Path, damage: bytes) -> None:
    kept("thing", 1, lambda: 5)
    (isolated_home / "cache" / "thing.json").write_bytes(damage)
    assert kept("thing", 1, lambda: 6) == 6
    assert kept("thing", 1, lambda: 7) == 6


def test_a_home_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "file" / "home"))
    assert [kept("thing", 1, lambda: 5) for _ in range(2)] == [5, 5]


def test_a_child_that_hangs_is_killed_with_its_own_children(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{inner.pid}}')\n"
        "time.sleep(60)"
    )
    start = time.monotonic()
    with pytest.raises(ProbeError, match=r"no answer within 1\.5 s"):
        run_child([sys.executable, "-c", code], 1.5)
    assert time.monotonic() - start < 10
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    stat = probe.read_text(f"/proc/{pid}/stat")
    return bool(stat) and stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", "signal 6"),
        ("raise SystemExit(3)", "status 3"),
        ("raise RuntimeError('the driver is broken')", "the driver is broken"),
    ],
)
def test_a_child_that_fails_says_how(code: str, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        run_child([sys.executable, "-c", code], 30)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ProbeError, match="could not be started"):
        run_child(["/no/such/program"], 5)


def test_a_child_says_what_it_prints() -> None:
    assert run_child([sys.executable, "-c", "print('é' * 3)"], 30, dict(os.environ)).strip() == "é" * 3


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    assert probe.read_text(str(tmp_path / "none")) == ""
    assert probe.read_text(str(tmp_path)) == ""
    assert probe.read_int(str(tmp_path / "none")) is None
    assert probe.listing(str(tmp_path / "none")) == []
    assert probe.pci_devices(str(tmp_path)) == ()


def test_properties_take_both_forms_and_the_first_of_a_repeated_key() -> None:
    text = "a: 1\nb  2\nModel: \t\t NVIDIA L4\nc\na: 9\nBus: 0000:65:00.0"
    assert probe.properties(text) == {"a": "1", "b": "2", "Model": "NVIDIA L4", "Bus": "0000:65:00.0"}


@pytest.mark.parametrize(
    ("kind", "expected"), [(0x030000, True), (0x030200, True), (0x120000, True), (0x020000, False)]
)
def test_a_card_counts_by_its_class(tmp_path: Path, kind: int, expected: bool) -> None:
    machines.pci(tmp_path, "0000:01:00.0", 0x10DE, kind)
    assert probe.has_display(0x10DE, str(tmp_path)) is expected
    assert not probe.has_display(0x1002, str(tmp_path))
