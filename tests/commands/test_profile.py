"""`accel profile` as its user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel.core.performance import calibration
from tests.core.performance.figures import keep
from tests.program import ACCEL, accel, environment, succeed

KEYS = {
    "model", "device", "engine", "precision", "batch", "seq", "latency_ms", "latency_interval_ms", "measured_ms",
    "memory_bytes", "energy_j", "bottleneck", "calibrated",
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the operators of all-minilm are known already."""
    home = tmp_path_factory.mktemp("home")
    succeed("profile", "all-minilm", "--hw", "cpu", "--quiet", home=home)
    return home


def test_json(shared: Path) -> None:
    """The keys that the documents promise, for every combination asked for."""
    done = succeed(
        "profile", "all-minilm", "--hw", "cpu,cuda:h100", "--batch", "1,8", "--seq", "32,64", "--json", home=shared
    )
    data = json.loads(done.stdout)
    assert data["schema"] == "accel.profile/1"
    found = data["predictions"]
    assert all(one.keys() >= KEYS for one in found)
    assert {(o["batch"], o["seq"]) for o in found if o["device"] == "cuda:h100"} == {(1, 32), (8, 32), (1, 64), (8, 64)}
    for one in found:
        low, high = one["latency_interval_ms"]
        assert low < one["latency_ms"] < high
        assert one["bottleneck"] in ("compute", "bandwidth", "overhead")
        assert not one["calibrated"]
        assert one["measured_ms"] is None
        assert sum(one["memory"].values()) == one["memory_bytes"]
        assert sum(part["latency_ms"] for part in one["by_class"].values()) == pytest.approx(one["latency_ms"])


def test_a_known_model_needs_neither_torch_nor_transformers(shared: Path) -> None:
    """What was found once costs a look at a file, in the whole process."""
    code = (
        "import sys\n"
        "sys.argv = ['accel', 'profile', 'all-minilm', '--hw', 'cpu', '--seq', '77', '--batch', '3', '--quiet']\n"
        "import accel.cli\n"
        "try:\n    accel.cli.main()\n"
        "except SystemExit as e:\n    assert not e.code, e.code\n"
        "slow = {'torch', 'transformers', 'onnxruntime', 'openvino'} & sys.modules.keys()\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(shared), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def test_for_people(shared: Path) -> None:
    """A table, what bounds it, and a caution; nothing is wider than the terminal."""
    done = succeed("profile", "all-minilm", "--hw", "cpu,cuda:h100", home=shared, COLUMNS="80")
    assert "cuda:h100 torch *" in done.stdout
    assert "knee at" in done.stdout
    assert "energy" in done.stdout
    assert "uncalibrated: transferred" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_calibrated_predictions_say_so(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With figures of this machine the caution is gone and the interval is narrower."""
    keep(torch=1.0, onnxruntime=1.0)
    mine = Path(os.environ["IPFS_ACCELERATE_HOME"])
    (mine / "models").symlink_to(shared / "models")
    done = succeed("profile", "all-minilm", "--hw", "cpu", "--engine", "torch", "--json", home=mine)
    (one,) = json.loads(done.stdout)["predictions"]
    assert one["calibrated"]
    assert one["latency_interval_ms"][1] / one["latency_interval_ms"][0] <= 4.01


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--calibrate"),
        (("all-minilm", "--hw", "cuda:h101"), 2, "cuda:h100"),
        (("all-minilm", "--hw", "mps:m4"), 4, "does not publish"),
        (("all-minilm", "--hw", "cpu", "--engine", "torhc"), 2, "torch"),
        (("all-minilm", "--hw", "cpu", "--precision", "fp31"), 2, "fp32"),
        (("all-minilm", "--hw", "cpu", "--seq", "4000"), 2, "at most"),
        (("all-minilm", "--hw", "cpu", "--batch", "0"), 2, "above 0"),
        (("all-minilm", "--hw", "cpu", "--batch", "many"), 2, "whole numbers"),
        (("all-minlim", "--hw", "cpu"), 3, "all-minilm"),
        (("--calibrate", "--engine", "qnn"), 2, "onnxruntime"),
        (("all-minilm", "--hw", "cpu", "--weights", "pretrained"), 2, "random"),
    ],
)
def test_what_goes_wrong(arguments: tuple[str, ...], code: int, said: str, shared: Path) -> None:
    """Each with its exit code and what to try."""
    done = accel("profile", *arguments, home=shared)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_accuracy_of_nothing(tmp_path: Path) -> None:
    """An empty ledger is no error, and no number."""
    assert "nothing was measured" in succeed("profile", "--accuracy", home=tmp_path).stdout
    data = json.loads(succeed("profile", "--accuracy", "--json", home=tmp_path).stdout)
    assert data == {"schema": "accel.accuracy/1", "accuracy": [], "overall": None}


def test_help_has_an_example() -> None:
    """And is quick: it loads no library."""
    done = subprocess.run([*ACCEL, "profile", "--help"], capture_output=True, text=True, check=True)
    assert "accel profile bert-base" in done.stdout


def test_a_model_too_large_for_the_device_is_said(tmp_path: Path, shared: Path) -> None:
    """A decoder of 70 billion parameters, from its configuration alone, with all it needs set against the memory."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8192, "intermediate_size": 28672,
        "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80, "vocab_size": 128256,
        "max_position_embeddings": 8192,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = succeed("profile", tmp_path, "--hw", "cuda:h100", "--precision", "fp16", "--json", home=shared)
    (one,) = json.loads(done.stdout)["predictions"]
    assert one["fits"] is False
    assert one["memory"]["weights_bytes"] == pytest.approx(2 * 70.5e9, rel=0.01)
    assert one["memory"]["cache_bytes"] > 0
    assert one["per_token_ms"] < one["first_token_ms"]


@pytest.mark.slow
def test_calibrating_measuring_and_accuracy(tmp_path: Path) -> None:
    """The whole way on real engines: what is measured lands in the ledger beside its prediction.

    On a busy machine a calibration may be refused, which is an answer too.
    """
    done = accel("profile", "--calibrate", "--engine", "onnxruntime", "--json", home=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    if done.returncode == 0:
        (outcome,) = json.loads(done.stdout)["engines"]
        assert outcome["points"] > 40
        assert outcome["seconds"] < calibration.TIME_LIMIT_S
    else:
        assert "busy" in done.stderr
    one_engine = ("--hw", "cpu", "--engine", "onnxruntime")
    done = succeed("profile", "mobilenet-v2", *one_engine, "--measure", "--weights", "random", "--json", home=tmp_path)
    (one,) = json.loads(done.stdout)["predictions"]
    assert one["measured_ms"] > 0, one["not_measured"]
    assert one["measured_memory_bytes"] > 0
    assert one["measured_by_class_ms"].keys() >= {"convolution", "depthwise"}
    data = json.loads(succeed("profile", "--accuracy", "--json", home=tmp_path).stdout)
    assert data["overall"]["pairs"] == 1
