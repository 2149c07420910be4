"""The trial meets engines that lie, crash, raise and answer NaN, and never chooses one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import thirdparty
from tests.program import accel, answers, succeed


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration of a very small BERT."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    config = {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 500, "max_position_embeddings": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH with the third party's package installed."""
    return thirdparty.install(tmp_path_factory.mktemp("site"))


def by_engine(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["engine"]: c for c in answer["plan"]["candidates"]}


def test_engines_that_misbehave_are_left_out_with_their_reason(tiny_bert: Path, site: str, tmp_path: Path) -> None:
    arguments = ["run", tiny_bert, "--weights", "random", "--input", "a test"]
    (first,) = answers(*arguments, home=tmp_path, PYTHONPATH=site)
    candidates = by_engine(first)
    assert first["plan"]["source"] == "trial"
    assert first["engine"] not in thirdparty.ENGINES
    assert "cosine" in candidates["liar"]["reason"]
    assert "not finite" in candidates["nan"]["reason"]
    assert "SIGABRT" in candidates["crash"]["reason"]
    assert "no beads left" in candidates["raise"]["reason"] and "second line" not in candidates["raise"]["reason"]
    for bad in ("liar", "nan", "crash", "raise"):
        assert candidates[bad]["latency_ms"] is None
    (second,) = answers(*arguments, home=tmp_path, PYTHONPATH=site)
    assert second["plan"]["source"] == "measured"
    assert second["engine"] == first["engine"]


def test_without_a_trial_the_priority_table_decides_and_says_so(tiny_bert: Path, tmp_path: Path) -> None:
    (answer,) = answers(
        "run", tiny_bert, "--weights", "random", "--input", "x", "--hw", "cpu", "--no-trial", home=tmp_path
    )
    assert answer["plan"]["source"] == "priority"
    assert not list(tmp_path.glob("plans/*.json"))


def test_a_single_plan_is_requested_and_not_tried(tiny_bert: Path, tmp_path: Path) -> None:
    arguments = ["--hw", "cpu", "--engine", "torch", "--precision", "fp32"]
    (answer,) = answers("run", tiny_bert, "--weights", "random", "--input", "x", *arguments, home=tmp_path)
    assert (answer["plan"]["source"], answer["engine"]) == ("requested", "torch")
    assert answer["weights"] == "random"
    assert any("random weights" in note for note in answer["notes"])


def test_a_platform_and_a_family_of_a_third_party_by_name(site: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "doubling"}))
    home = tmp_path / "home"
    done = succeed(
        "run", folder, "--weights", "random", "--hw", "abacus", "--input", "4", "--json", home=home, PYTHONPATH=site
    )
    answer = json.loads(done.stdout)
    assert answer["output"] == {"double": 8.0}
    assert (answer["platform"], answer["device"], answer["engine"]) == ("abacus", "abacus:0", "beads")
    assert answer["family"] == "doubling"


def test_without_a_trial_a_plan_that_fails_gives_way_to_the_next(tiny_bert: Path, tmp_path: Path) -> None:
    site = thirdparty.install(tmp_path / "site", ("raise",))
    arguments = [
        "run",
        tiny_bert,
        "--weights",
        "random",
        "--input",
        "x",
        "--no-trial",
        "--set",
        "hardware.allow_openvino=false",
    ]
    done = succeed(*arguments, "--json", home=tmp_path, PYTHONPATH=site)
    assert json.loads(done.stdout)["engine"] != "raise"
    alone = accel(*arguments, "--engine", "raise", home=tmp_path, PYTHONPATH=site)
    assert alone.returncode == 4
    assert "no beads left" in alone.stderr


def test_a_mixture_of_experts_that_cannot_be_exported_runs_with_torch(tmp_path: Path) -> None:
    config = {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32, "vocab_size": 300,
        "num_local_experts": 2,
    }  # fmt: skip
    (tmp_path / "experts").mkdir()
    (tmp_path / "experts/config.json").write_text(json.dumps(config))
    done = succeed(
        "run", tmp_path / "experts", "--weights", "random", "--input", "x", "--max-new-tokens", "2", "--no-trial",
        "--hw", "auto", "--json", home=tmp_path,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert (answer["engine"], answer["plan"]["source"]) == ("torch", "priority")
    assert "the others failed" in answer["plan"]["reason"]
    assert "openvino" in done.stderr and "onnxruntime" in done.stderr and "cannot be exported" in done.stderr
