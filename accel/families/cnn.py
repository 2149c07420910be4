"""Convolutional image models of transformers, models with a factory of their own, and bare ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel.core.contracts import LoadedModel, Session
from accel.core.errors import IncompatibleError, InputError, UnavailableError
from accel.core.images import ImageProcessor
from accel.core.types import Item, Model, Options
from accel.families import _tensors
from accel.families._pictures import CLASSIFY, FEATURES, PictureFamily

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: how EfficientNet-lite was trained (TensorFlow's efficientnet_lite_builder and preprocessing: MEAN_RGB 127, STDDEV_RGB
#: 128, bicubic, the centre 224 of 256)
EFFICIENTNET_LITE: dict[str, Any] = {
    "kind": "ConvNext",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "crop_pct": 224 / 256,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
}


class Cnn(PictureFamily):
    """ResNet, MobileNet, EfficientNet, ConvNeXt and their like; any ONNX file as tensors in, tensors out."""

    name: ClassVar[str] = "cnn"
    tasks: ClassVar[tuple[str, ...]] = (CLASSIFY, FEATURES, _tensors.TASK)
    # fmt: off
    model_types = frozenset((
        "bit", "convnext", "convnextv2", "efficientnet", "focalnet", "hgnet_v2", "mobilenet_v1", "mobilenet_v2",
        "mobilevit", "mobilevitv2", "poolformer", "regnet", "resnet", "swiftformer", "textnet",
    ))
    # fmt: on

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        if "onnx" in config:
            return _tensors.TASK
        return super().infer_task(config)

    def load_model(self, model: Model, assets: Path) -> LoadedModel:
        if model.layout == "onnx":
            return _tensors.load(self.name, model)
        if model.layout == "python":
            return self._load_python(model, assets)
        return super().load_model(model, assets)

    def _load_python(self, model: Model, assets: Path) -> LoadedModel:
        import torch

        if model.task != CLASSIFY:
            raise IncompatibleError(f"{model.name} has no task {model.task!r}", f"use --task {CLASSIFY}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = _factory(model)
        if model.weights == "pretrained":
            _fill(module, model)
        module = module.to(torch.float32).eval()
        module.requires_grad_(False)
        processor = ImageProcessor.from_config(model.entry.get("preprocessor") or EFFICIENTNET_LITE)
        settings: dict[str, Any] = {"processor": processor.settings}
        return self.finish_classifier(model, module, lambda m, pixels: (m(pixels),), settings, assets, ())

    def example_items(self) -> list[Item]:
        if self.recipe is not None and self.task == _tensors.TASK:
            return _tensors.example_items(self.recipe)
        return super().example_items()

    def preprocess_inputs(self, inputs: Sequence[Item], options: Options) -> list[Any]:
        if self.recipe is not None and self.task == _tensors.TASK:
            return _tensors.encode(self.recipe, inputs)
        return super().preprocess_inputs(inputs, options)

    def execute(
        self, session: Session, batch: Sequence[Any], options: Options, emit: Callable[[str], None] | None = None
    ) -> list[Any]:
        if self.recipe is not None and self.task == _tensors.TASK:
            return _tensors.execute(self.recipe, session, batch)
        return super().execute(session, batch, options, emit)

    def postprocess_outputs(
        self, outputs: Sequence[Any], batch: Sequence[Any], options: Options
    ) -> list[dict[str, Any]]:
        if self.task == _tensors.TASK:
            return _tensors.answers(outputs, batch)
        return super().postprocess_outputs(outputs, batch, options)

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        if self.recipe is not None and self.task == _tensors.TASK:
            return _tensors.comparable(self.recipe, session, batch)
        return super().comparable(session, batch)


def _factory(model: Model) -> Any:
    """The module that the catalogue entry's factory (`package.module:Class.method`) makes."""
    import importlib

    where, _, attributes = str(model.entry.get("factory", "")).partition(":")
    try:
        made: Any = importlib.import_module(where)
        for attribute in attributes.split("."):
            made = getattr(made, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        fix = next(
            (r["install"] for r in model.entry.get("requires", ()) if r.get("module") == where), "check the entry"
        )
        raise UnavailableError(f"{model.name} is built by {where}, which cannot be imported: {error}", fix) from error
    arguments = model.entry.get("arguments") or ()
    return made(**arguments) if isinstance(arguments, dict) else made(*arguments)


def _fill(module: Any, model: Model) -> None:
    import torch

    names = [f for f in model.files if f.endswith((".pth", ".pt", ".bin", ".safetensors"))]
    if model.folder is None or not names:
        raise UnavailableError(f"{model.name} has no weights", "use --weights random")
    path = model.folder / names[0]
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(str(path))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except FileNotFoundError as error:
        raise UnavailableError(f"{path} is not there", "download the model again") from error
    except Exception as error:  # pickle, zip and safetensors readers raise unrelated exceptions on damaged files
        text = str(error).strip().splitlines()
        raise InputError(
            f"{path} cannot be read as the weights of {model.name}: {text[0][:300] if text else type(error).__name__}",
            "download the model again, and check its size and checksum",
        ) from error


PLUGIN = Cnn
