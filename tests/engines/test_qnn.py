"""Qualcomm's engine on its emulator, in a process of its own with bounds on memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from accel.core.padding import padded
from accel.core.registry import engine
from accel.core.types import Plan
from tests.engines.parts import GraphSource, bert, cnn

ROOT = Path(__file__).parents[2]
#: address space of the process (bytes), most of which the emulator only reserves, and its time (seconds)
MEMORY, TIME = 24 << 30, 240

SCRIPT = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
from pathlib import Path
import numpy as np, torch
from accel.core.errors import AccelError
from accel.core.registry import engine
from accel.core.types import Plan
from tests.engines import parts
from tests.engines.parts import GraphSource, cosine, feeds_of, one, worst

class Acosh(torch.nn.Module):
    def forward(self, x):
        return ((x @ torch.eye(6)).acosh(),)

kind, precision, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
graphs = {{"model": one(Acosh(), ("batch", 6))}} if kind == "acosh" else getattr(parts, kind)()
source = GraphSource(graphs, folder, "cnn" if kind == "cnn" else "text-encoder")
plan = Plan("qualcomm:0", "qualcomm", "qnn", precision, variant="calibrated" if precision == "int8" else "")
(folder / "p").mkdir()
try:
    engine("qnn").prepare(source, plan, folder / "p")
    session = engine("qnn").load(folder / "p", source.recipe, plan)
    plain = engine("torch").load(folder, source.recipe, Plan("cpu:0", "cpu", "torch", "fp32"), source)
    tries = [feeds_of(graphs["model"])]
    if kind == "bert":
        ids = np.random.default_rng(1).integers(1, 99, (2, 21))
        tries.append({{"input_ids": ids, "attention_mask": np.ones_like(ids)}})
    found = []
    for feeds in tries:
        (mine,), (expected,) = session.run("model", feeds).values(), plain.run("model", feeds).values()
        assert mine.shape == expected.shape
        found.append([cosine(mine, expected), worst(mine, expected)])
    print(json.dumps({{"found": found, "precision": session.effective_precision, "shapes": len(session._compiled)}}))
except AccelError as error:
    print(json.dumps({{"error": type(error).__name__, "message": error.message}}))
"""
pytestmark = pytest.mark.skipif(bool(engine("qnn").missing()), reason="onnxruntime-qnn is not installed")


def run(kind: str, precision: str, folder: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(memory=MEMORY), kind, precision, str(folder)],
        capture_output=True,
        text=True,
        timeout=TIME,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # one line: what Qualcomm's library has to say goes to stderr
    (line,) = done.stdout.splitlines()
    result: dict[str, object] = json.loads(line)
    return result


@pytest.mark.parametrize(
    ("kind", "precision", "lowest", "largest"),
    [
        ("cnn", "int8", 0.999, 0.03),
        ("cnn", "fp16", 0.99999, 0.005),
        ("bert", "int8", 0.998, 0.2),
        ("bert", "fp16", 0.9999, 0.01),
    ],
)
def test_agrees_with_torch(kind: str, precision: str, lowest: float, largest: float, tmp_path: Path) -> None:
    result = run(kind, precision, tmp_path)
    assert result.get("precision") == precision, result
    for cosine, worst in result["found"]:  # type: ignore[attr-defined]
        assert cosine >= lowest
        assert 1e-6 < worst <= largest
    # lengths 12 and 21 are padded to 16 and 32; rows go one by one
    assert result["shapes"] == (2 if kind == "bert" else 1)


def test_a_result_that_is_not_a_number_is_never_handed_out(tmp_path: Path) -> None:
    """The processor itself saturates; what it lacks, such as acosh, runs beside it and can give NaN."""
    result = run("acosh", "fp16", tmp_path)
    assert result.get("error") == "IncompatibleError", result
    assert "not numbers" in str(result["message"])


def test_plans(tmp_path: Path) -> None:
    chosen = engine("qnn")
    recipe = GraphSource(bert(), tmp_path).recipe
    everything = ("fp32", "fp16", "bf16", "int8")
    assert [p.precision for p in chosen.plans("qualcomm:0", recipe, everything)] == ["fp16", "int8"]
    assert chosen.plans("qualcomm:0", recipe, ("fp32",)) == []


def test_only_lengths_that_a_mask_covers_are_padded(tmp_path: Path) -> None:
    text = GraphSource(bert(), tmp_path).recipe.graphs["model"]
    ids = np.ones((1, 21), np.int64)
    wide, sizes = padded(text, {"input_ids": ids, "attention_mask": ids})
    assert wide["input_ids"].shape == wide["attention_mask"].shape == (1, 32)
    assert wide["attention_mask"].sum() == 21
    assert sizes == {"batch": 1, "length": 21}
    pixels = np.ones((1, 3, 64, 64), np.float32)
    wide, _ = padded(GraphSource(cnn(), tmp_path).recipe.graphs["model"], {"pixel_values": pixels})
    assert wide["pixel_values"] is pixels


def test_a_prepared_plan_names_both_libraries() -> None:
    plan = Plan("qualcomm:0", "qualcomm", "qnn", "int8", variant="calibrated")
    assert "calibrated" in plan.key
    assert "+" in engine("qnn").version()
