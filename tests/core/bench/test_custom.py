"""A user's own benchmarks: from a file and from an installed package, also those that go wrong."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from accel.core.bench.matrix import Axes
from accel.core.bench.registry import BenchmarkBase, BenchmarkRegistry
from accel.core.bench.session import Gates, Order, carry_out
from accel.core.errors import AccelError, InputError
from tests.core.bench.test_runner import QUICK, Notes, rows

MINE = """
import os
import time

from accel.core.bench.registry import BenchmarkBase, BenchmarkRegistry
import beside

@BenchmarkRegistry.register(name="sorting", category="plain", models=["short", "long"], hardware=["cpu"])
class Sorting(BenchmarkBase):
    def setup(self):
        self.numbers = list(range(beside.SIZES[self.model], 0, -1))
        self.marker = open(os.environ["MARKER"], "a")

    def execute(self):
        sorted(self.numbers)
        return {"size": len(self.numbers), "odd": float("nan")}

    def teardown(self):
        self.marker.write(f"down {self.model} {self.hardware} {self.device}\\n")
        self.marker.close()

@BenchmarkRegistry.register(name="broken", hardware=["cpu", "cuda"])
class Broken(BenchmarkBase):
    def execute(self):
        raise ValueError("it is broken")

@BenchmarkRegistry.register(name="instant")
class Instant(BenchmarkBase):
    def execute(self):
        pass

@BenchmarkRegistry.register(name="dying")
class Dying(BenchmarkBase):
    def execute(self):
        os._exit(3)

@BenchmarkRegistry.register(name="odd")
class Odd(BenchmarkBase):
    def execute(self):
        return {"word": "text"}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("SIZES = {'short': 1000, 'long': 20000}\n")
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    return tmp_path / "mine.py"


def order(*sources: object, hw: str = "auto") -> Order:
    return Order(Axes((), hw), dataclasses.replace(QUICK, processes=1), tuple(map(str, sources)))


def test_a_file_of_benchmarks(mine: Path) -> None:
    notes = Notes()
    report = carry_out(order(mine), Gates(), notes)
    by_key = {cell["key"]: cell for cell in report.cells}
    short, long = by_key["sorting / short / cpu:0 / batch 1"], by_key["sorting / long / cpu:0 / batch 1"]
    assert short["status"] == long["status"] == "ok"
    assert 5 * short["latency_ms"] < long["latency_ms"]
    assert long["values"] == {"size": 20000.0, "odd": None}
    assert (long["benchmark"], long["model"], long["hardware"]) == ("sorting", "long", "cpu")
    assert "down long cpu cpu:0" in Path(os.environ["MARKER"]).read_text()
    broken = by_key["broken / cpu:0 / batch 1"]
    assert broken["status"] == "failed" and "ValueError: it is broken" in broken["reason"]
    skipped = by_key["broken / cuda / batch 1"]
    assert skipped["status"] == "skipped" and "no cuda device" in skipped["reason"]
    assert by_key["dying / cpu:0 / batch 1"]["cause"] == "crash"
    assert "which is no number" in by_key["odd / cpu:0 / batch 1"]["reason"]
    # runs that take no time at all are samples like others
    assert by_key["instant / cpu:0 / batch 1"]["latency_ms"] < 0.05
    assert len(rows()) == 6


def test_an_installed_package_of_benchmarks(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    about = site / "acme-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[accel.benchmarks]\nacme = acme_bench\n")
    (site / "acme_bench.py").write_text(
        "from accel.core.bench.registry import BenchmarkBase, BenchmarkRegistry\n"
        "@BenchmarkRegistry.register(name='counting')\n"
        "class Counting(BenchmarkBase):\n"
        "    def execute(self):\n"
        "        sum(range(1000))\n"
    )
    monkeypatch.syspath_prepend(str(site))
    report = carry_out(order("acme"), Gates(), Notes())
    assert [(c["key"], c["status"]) for c in report.cells] == [("counting / cpu:0 / batch 1", "ok")]
    with pytest.raises(InputError, match="offers benchmarks called 'acne'") as caught:
        carry_out(order("acne"), Gates(), Notes())
    assert "acme" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "registers no benchmark"),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("def f(:\n", "SyntaxError"),
        ("import os; os._exit(4)\n", "exit status 4"),
        (
            "from accel.core.bench.registry import BenchmarkRegistry\n"
            "@BenchmarkRegistry.register(name='x')\nclass X: pass\n",
            "BenchmarkBase",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(AccelError) as caught:
        carry_out(order(tmp_path / "bad.py"), Gates(), Notes())
    assert says in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        carry_out(order(tmp_path / "none.py"), Gates(), Notes())


def test_registering_wrongly() -> None:
    class Good(BenchmarkBase):
        def execute(self) -> None:
            pass

    class Other(Good):
        pass

    BenchmarkRegistry.register(name="test-good")(Good)
    BenchmarkRegistry.register(name="test-good")(Good)
    with pytest.raises(InputError, match="two benchmarks"):
        BenchmarkRegistry.register(name="test-good")(Other)
    with pytest.raises(InputError, match="is a text, not a list"):
        BenchmarkRegistry.register(name="test-other", models="bert")(Other)
    with pytest.raises(TypeError, match="abstract"):
        BenchmarkBase()  # type: ignore[abstract]
