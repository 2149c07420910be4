"""Every family in the folder keeps the contract, and every engine here agrees with torch on it, within a tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.agreement import EXACT, agreement
from accel.core.contracts import ModelPlugin
from accel.core.registry import builtin_names, engine, family_class, plugin_class
from accel.core.types import FAMILIES, Model, Options
from tests.families.running import Running, _Given, random_model

NAMES = builtin_names("families")
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**SMALL, "vocab_size": 400, "initializer_range": 0.5}
PATCHES = {**SMALL, "image_size": 64, "patch_size": 16}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 400, "initializer_range": 0.3}
LLAMA = {**TEXT, "num_key_value_heads": 1, "max_position_embeddings": 64}
WAVES = {**SMALL, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
WHISPER = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 300, "decoder_start_token_id": 290,
    "eos_token_id": 291, "pad_token_id": 291, "bos_token_id": 291, "max_target_positions": 48, "init_std": 0.3,
}  # fmt: skip
CLIP = {"projection_dim": 16, "text_config": {**TEXT, "max_position_embeddings": 32}, "vision_config": PATCHES}
#: family, task, type of model, configuration
MODELS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("text-encoder", "feature-extraction", "bert", TEXT),
    ("text-encoder", "fill-mask", "distilbert", {"dim": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 400}),
    ("text-decoder", "text-generation", "gpt2", GPT2),
    ("text-decoder", "text-generation", "llama", LLAMA),
    ("cnn", "image-classification", "resnet", {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8}),
    ("vision", "image-classification", "vit", PATCHES),
    ("audio", "automatic-speech-recognition", "wav2vec2", {**WAVES, "vocab_size": 12, "pad_token_id": 0}),
    ("audio", "automatic-speech-recognition", "whisper", WHISPER),
    ("multimodal", "zero-shot-image-classification", "clip", CLIP),
    ("diffusion", "text-to-image", "stable-diffusion", {}),
]
SLOW = ("diffusion",)


@pytest.mark.parametrize("name", NAMES)
def test_the_class(name: str) -> None:
    plugin = plugin_class("families", name)
    assert issubclass(plugin, ModelPlugin)
    assert plugin.name == name
    assert plugin.tasks
    assert plugin.__doc__


def test_the_folder_holds_the_seven() -> None:
    assert set(NAMES) == set(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_family_leaves_unknown_models_to_others(name: str) -> None:
    for config in ({}, {"model_type": "no-such-model"}, {"model_type": None, "architectures": []}):
        assert family_class(name).infer_task(config) is None


def tiny_diffusion(folder: Path) -> Model:
    """A Stable Diffusion of a few thousand weights, on disk."""
    from tests.families.test_diffusion import pipeline, stable_model

    pipeline().save_pretrained(folder)
    return stable_model(folder)


@pytest.fixture(
    scope="module",
    params=[pytest.param(m, id=f"{m[0]}-{m[2]}", marks=[pytest.mark.slow] if m[0] in SLOW else []) for m in MODELS],
)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A small model with random weights of each family, with torch as its engine."""
    family, task, kind, config = request.param
    if family == "diffusion":
        return Running(tiny_diffusion(tmp_path_factory.mktemp(kind)), tmp_path_factory.mktemp(kind) / "m")
    return Running(random_model(family, task, {"model_type": kind, **config}), tmp_path_factory.mktemp(kind) / "m")


class Kept(_Given):
    """Exports each graph once for all engines."""

    def onnx(self, graph: str) -> Path:
        path = self._folder / f"{graph}.onnx"
        return path if path.exists() else super().onnx(graph)


def agree(running: Running, name: str, device: str, tmp_path: Path) -> None:
    """Every exact plan of an engine gives what torch gives, and answers to the example like torch."""
    expected = running.comparable()
    options = Options(max_new_tokens=6, steps=2, output_dir=tmp_path)
    answers = running.answer(options=options)
    chosen, original = engine(name), running.session
    plans = chosen.plans(device, running.recipe, ["fp32"])
    assert plans
    for number, plan in enumerate(plans):
        folder = tmp_path / str(number)
        folder.mkdir()
        chosen.prepare(Kept(running), plan, folder)
        running.session = chosen.load(folder, running.recipe, plan)
        try:
            found = agreement(np.asarray(running.comparable(), float), np.asarray(expected, float))
            assert found["cosine"] >= EXACT, plan
            assert same(running.answer(options=options), answers), plan
        finally:
            running.session.close()
            running.session = original


def same(one: Any, other: Any) -> bool:
    """Whether two answers say the same: equal texts, numbers within a thousandth."""
    if isinstance(one, float):
        return bool(abs(one - other) <= 1e-3)
    if isinstance(one, dict):
        # an image is saved under another name each time, and compared by `comparable`
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one if k != "image")
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_onnxruntime_agrees_with_torch(running: Running, tmp_path: Path) -> None:
    agree(running, "onnxruntime", "cpu:0", tmp_path)


def test_openvino_agrees_with_torch(running: Running, tmp_path: Path) -> None:
    if engine("openvino").missing():
        pytest.skip("openvino is not installed")
    agree(running, "openvino", "openvino:CPU", tmp_path)
