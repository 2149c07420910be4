"""`accel run`: models from a hub, damaged and hostile files, limits and settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.hubserver import HubServer, write_small_bert
from tests.program import accel, answers, succeed

BERT = "google-bert/bert-base-uncased"
FIXED = ("--hw", "cpu", "--engine", "onnxruntime")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small masked language model in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("bert")
    write_small_bert(folder)
    return folder


def run_there(hub: HubServer, home: Path, *arguments: object, **more: str) -> Any:
    variables = {**hub.environment(home), **more}
    accel_home = Path(variables.pop("IPFS_ACCELERATE_HOME"))
    return accel("run", *arguments, home=accel_home, **variables)


def test_bert_base_comes_through_the_hub_and_fills_its_mask(bert: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        commit = hub.add(BERT, bert)
        first = run_there(hub, tmp_path, "bert-base", "--hw", "auto", "--json")
        assert first.returncode == 0, first.stderr
        answer = json.loads(first.stdout)
        assert answer["revision"] == commit
        assert answer["weights"] == "pretrained"
        assert answer["task"] == "fill-mask"
        assert len(answer["output"]["masks"][0]) == 5
        asked = len(hub.requests)
        second = run_there(hub, tmp_path, "bert-base", "--hw", "auto", "--json")
        assert json.loads(second.stdout)["output"] == answer["output"]
        assert json.loads(second.stdout)["plan"]["source"] == "measured"
        assert len(hub.requests) == asked, "a prepared run asks the hub nothing"


def test_a_broken_download_goes_on_and_wrong_bytes_are_refused(bert: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        hub.add(BERT, bert)
        hub.faults.corrupt = {"model.safetensors"}
        wrong = run_there(hub, tmp_path, "bert-base", *FIXED)
        assert wrong.returncode == 5, wrong.stderr
        assert "model.safetensors" in wrong.stderr
        hub.faults.corrupt = set()
        hub.faults.break_after, hub.faults.break_times = 100_000, 1
        assert run_there(hub, tmp_path, "bert-base", *FIXED).returncode == 0
        assert any(request.range for request in hub.transfers(".safetensors"))


def test_a_gated_model_and_no_network_are_told_apart(bert: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        hub.add(BERT, bert, gated=True, tokens=("hf_good",))
        gated = run_there(hub, tmp_path, "bert-base", *FIXED)
        assert gated.returncode == 3
        assert "HF_TOKEN" in gated.stderr and "--weights random" in gated.stderr
        assert run_there(hub, tmp_path, "bert-base", *FIXED, HF_TOKEN="hf_good").returncode == 0
    gone = run_there(hub, tmp_path / "other", "bert-base", *FIXED)
    assert gone.returncode == 5
    assert "--weights random" in gone.stderr
    offline = run_there(hub, tmp_path, "bert-base", *FIXED, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, "what is cached runs without a network"


def broken(bert: Path, folder: Path, how: str) -> Path:
    shutil.copytree(bert, folder)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    if how == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    elif how == "pickle":
        weights.write_bytes(b"\x80\x04cposix\nsystem\n(S'touch owned'\ntR.")
    elif how == "architecture":
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "nobody-knows", "architectures": ["NobodyKnows"]}
        (folder / "config.json").write_text(json.dumps(config))
    elif how == "remote-code":
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "evil.Model"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text("raise SystemExit('owned')")
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how == "nan":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("how", "codes", "said"),
    [
        ("truncated", {2}, "model.safetensors"),
        ("pickle", {2}, "pickle"),
        ("architecture", {4}, "nobody-knows"),
        ("remote-code", {2, 3, 4}, "--trust-remote-code"),
        ("config", {2}, "config.json"),
        ("nan", {2, 4}, "finite"),
    ],
)
def test_damaged_and_hostile_models_are_refused(
    bert: Path, tmp_path: Path, how: str, codes: set[int], said: str
) -> None:
    done = accel("run", broken(bert, tmp_path / "model", how), *FIXED, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode in codes, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "owned").exists()


def test_a_memory_limit_that_is_too_small_is_told(bert: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    succeed("run", bert, *FIXED, home=home)
    done = accel("run", bert, *FIXED, "--memory-limit", "30MB", home=home)
    assert done.returncode == 4, done.stderr
    assert "memory" in done.stderr


def test_settings_take_effect(bert: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (answer,) = answers("run", bert, "--no-trial", home=home)
    assert answer["platform"] == "openvino"
    (answer,) = answers("run", bert, "--no-trial", "--set", "hardware.allow_openvino=false", home=home)
    assert answer["platform"] == "cpu"
    (answer,) = answers(
        "run", bert, "--hw", "cpu", "--engine", "torch", home=home, IPFS_ACCELERATE_HARDWARE_PRECISION="bf16"
    )
    assert answer["precision"] == "bf16"
    limited = accel("run", bert, *FIXED, home=home, IPFS_ACCELERATE_HARDWARE_MEMORY_LIMIT="30MB")
    assert limited.returncode == 4, limited.stderr
    log = tmp_path / "accel.log"
    succeed(
        "run", bert, *FIXED, "--set", f"logging.file={log}", "--set", "logging.level=debug",
        "--set", "performance.enable_profiling=true", home=home,
    )  # fmt: skip
    assert all(phase in log.read_text() for phase in ("resolve", "plan", "open", "execute"))


def test_ready_plans_stay_within_their_bound(bert: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    other = shutil.copytree(bert, tmp_path / "other")
    (other / "config.json").write_text(
        (bert / "config.json").read_text().replace('"hidden_act"', '"x": 1, "hidden_act"')
    )
    for model in (bert, other):
        succeed("run", model, *FIXED, "--set", "performance.prepared_size=1MB", home=home)
    assert len([p for p in (home / "prepared").iterdir() if p.is_dir()]) == 1
