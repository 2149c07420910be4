"""What a result says about a model: the content id is the one that pinning its files gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from accel.core.bench.identity import content_id
from accel.core.content import pinning
from accel.core.content.settings import Settings
from accel.core.models import resolve
from accel.core.types import Model
from tests.core.bench import parts


def model(where: Path, *files: str, **more: Any) -> Model:
    plain = Model(
        "m", "hub", where, files, "onnx", {}, "", "", weights="pretrained", digest="|".join(files), revision=None
    )
    return dataclasses.replace(plain, **more)


def test_a_file_has_the_id_that_pinning_it_gives(tmp_path: Path) -> None:
    path = parts.onnx_model(tmp_path / "tiny.onnx", width=600, layers=2)  # more than one block
    pinned = pinning.pin(pinning.Request(str(path)), Settings.current(offline=True))
    assert content_id(resolve(str(path))) == pinned.pin.cid


def test_files_have_the_id_of_a_folder_of_just_them(tmp_path: Path) -> None:
    given, alone = tmp_path / "given", tmp_path / "alone"
    for folder in (given, alone):
        (folder / "sub").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "sub" / "weights.bin").write_bytes(b"w" * 3_000_000)
    (given / "README.md").write_text("not of the model")
    pinned = pinning.pin(pinning.Request(str(alone)), Settings.current(offline=True))
    assert content_id(model(given, "config.json", "sub/weights.bin")) == pinned.pin.cid
    # remembered for the same bytes, wherever they are
    (given / "config.json").unlink()
    assert content_id(model(given, "config.json", "sub/weights.bin")) == pinned.pin.cid


@pytest.mark.parametrize(
    "given",
    [{"folder": None, "digest": "none"}, {"weights": "random"}, {"files": ("gone.bin",), "digest": "gone"}],
    ids=["no files", "random weights", "a file that vanished"],
)
def test_what_has_no_content_has_no_id(tmp_path: Path, given: dict[str, Any]) -> None:
    assert content_id(model(tmp_path, **given)) is None


def test_content_that_came_by_its_id_has_that_one(tmp_path: Path) -> None:
    assert content_id(model(tmp_path, "a", revision="ipfs://bafyroot/inside")) == "bafyroot"
