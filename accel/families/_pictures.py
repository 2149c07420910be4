"""Models that take one image: the part that the cnn and vision families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel.core.contracts import LoadedModel, ModelPlugin, Session, TorchGraph
from accel.core.errors import IncompatibleError, InputError
from accel.core.images import ImageProcessor, Picture
from accel.core.types import GraphSpec, Item, Model, Options, Recipe, TensorSpec
from accel.families._shared import (
    EXAMPLE_IMAGE,
    encode_each,
    finite,
    image_path,
    labels_of,
    module_from,
    operations,
    ranked,
    read_labels,
    run_by_shape,
    sigmoid,
    softmax,
    write_labels,
)

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

CLASSIFY = "image-classification"
FEATURES = "image-feature-extraction"


def example_pixels(settings: dict[str, Any], batch: int = 2) -> tuple[Any, bool]:
    """Example pixel values (batch, 3, height, width) as a torch tensor, and whether height and width can vary."""
    import torch
    from PIL import Image

    from accel.core.images import load_image

    processor = ImageProcessor(settings)
    image = load_image(EXAMPLE_IMAGE)
    wide = processor(image)
    tall = processor(image.transpose(Image.Transpose.ROTATE_90))
    varies = wide.shape != tall.shape
    if varies:
        # exports are also checked on pictures of twice this size, and attention costs the square of the pixels
        wide = wide[:, :160, :224].copy()
    return torch.from_numpy(wide)[None].repeat(batch, 1, 1, 1), varies


def try_once(model: Model, module: Any, call: Callable[..., Any], pixels: Any) -> Any:
    """Runs a loaded model on its example, after its batch norms were settled if its weights are random.

    Raises:
        InputError: its configuration does not fit together, or does not fit its image processor.
    """
    import torch

    try:
        with torch.no_grad():
            if model.weights == "random":
                settle_norms(module, call, pixels)
            return call(module, pixels)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{model.name} cannot run on an image of {pixels.shape[3]} x {pixels.shape[2]} pixels: {error}",
            "check config.json and preprocessor_config.json",
        ) from error


def settle_norms(module: Any, call: Callable[..., Any], pixels: Any) -> None:
    """Gives random batch norms the statistics of seeded noise; with their defaults deep activations vanish to zero."""
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    noise = torch.randn((4, *pixels.shape[1:]), generator=torch.Generator().manual_seed(0))
    try:
        call(module, noise)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def pixel_spec(pixels: Any, varies: bool) -> TensorSpec:
    """The spec of `pixel_values` as `example_pixels` made them."""
    height, width = ("height", "width") if varies else (int(pixels.shape[2]), int(pixels.shape[3]))
    return TensorSpec("pixel_values", "float32", ("batch", 3, height, width))


def task_from(config: dict[str, Any], heads: dict[str, str], default: str) -> str:
    """The task that a model's class was made for, by what its name ends in."""
    for architecture in config.get("architectures") or ():
        for ending, task in heads.items():
            if str(architecture).endswith(ending):
                return task
    return default


class PictureFamily(ModelPlugin):
    """Image classification and image embeddings with any architecture of transformers."""

    model_types: ClassVar[frozenset[str]]
    heads: ClassVar[dict[str, str]] = {"ForImageClassification": CLASSIFY, "Model": FEATURES, "Backbone": FEATURES}

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        if config.get("model_type") not in cls.model_types:
            return None
        return task_from(config, cls.heads, CLASSIFY)

    def example_items(self) -> list[Item]:
        return [Item(image=str(EXAMPLE_IMAGE))]

    @cached_property
    def processor(self) -> ImageProcessor:
        """The image processor that the recipe holds."""
        assert self.recipe is not None
        return ImageProcessor(self.recipe.settings["processor"])

    @cached_property
    def labels(self) -> list[str]:
        """The names of the classes."""
        return read_labels(self.assets)

    @property
    def task(self) -> str:
        """The recipe's task."""
        assert self.recipe is not None
        return self.recipe.task

    def load_model(self, model: Model, assets: Path) -> LoadedModel:
        if model.task == CLASSIFY:
            return self.load_classifier(model, assets)
        if model.task == FEATURES:
            return self.load_embedder(model)
        raise IncompatibleError(
            f"the {self.name} family has no task {model.task!r}", f"choose one of: {', '.join(self.tasks)}"
        )

    def load_classifier(self, model: Model, assets: Path) -> LoadedModel:
        """A graph from `pixel_values` to `logits`."""
        from accel.core.image_settings import freeze
        from accel.core.torch_models import load

        # where an architecture has several heads transformers looks for the model's own, and needs a list
        architectures = list(model.config.get("architectures") or ())
        loaded = load(model, "AutoModelForImageClassification", architectures=architectures)
        settings = {"processor": freeze(model.folder, model.config)}
        return self.finish_classifier(
            model, loaded.module, lambda m, pixels: (m(pixels).logits,), settings, assets, loaded.notes
        )

    def finish_classifier(
        self,
        model: Model,
        module: Any,
        call: Callable[..., Any],
        settings: dict[str, Any],
        assets: Path,
        notes: tuple[str, ...],
    ) -> LoadedModel:
        """Makes the graph and recipe of a classifier whose `call(module, pixels)` returns a tuple with the logits."""
        pixels, varies = example_pixels(settings["processor"])
        count = int(try_once(model, module, call, pixels)[0].shape[-1])
        labels, remarks = labels_of(model, count)
        settings["multiple"] = model.config.get("problem_type") == "multi_label_classification"
        spec = GraphSpec("model", (pixel_spec(pixels, varies),), (TensorSpec("logits", "float32", ("batch", count)),))
        graph = TorchGraph(spec, module_from(module, call), {"pixel_values": pixels})
        settings["flops"] = None if varies else operations(graph.module, [pixels[:1]])
        recipe = Recipe(
            self.name, CLASSIFY, {"model": spec}, settings, (write_labels(assets, labels),), (*notes, *remarks)
        )
        return LoadedModel({"model": graph}, recipe, module)

    def load_embedder(self, model: Model) -> LoadedModel:
        """A graph from `pixel_values` to `embeddings`, one vector an image."""
        from accel.core.image_settings import freeze
        from accel.core.torch_models import load

        loaded = load(model, "AutoModel", unused=(r"(^|\.)pooler\.",))
        settings: dict[str, Any] = {"processor": freeze(model.folder, model.config)}
        pixels, varies = example_pixels(settings["processor"])
        pooling, call = _pooling(loaded.module, try_once(model, loaded.module, lambda m, p: m(p), pixels))
        width = int(try_once(model, loaded.module, call, pixels)[0].shape[-1])
        settings["pooling"] = pooling
        spec = GraphSpec(
            "model", (pixel_spec(pixels, varies),), (TensorSpec("embeddings", "float32", ("batch", width)),)
        )
        graph = TorchGraph(spec, module_from(loaded.module, call), {"pixel_values": pixels})
        settings["flops"] = None if varies else operations(graph.module, [pixels[:1]])
        recipe = Recipe(self.name, FEATURES, {"model": spec}, settings, (), loaded.notes)
        return LoadedModel({"model": graph}, recipe, loaded.module)

    def preprocess_inputs(self, inputs: Sequence[Item], options: Options) -> list[Any]:
        return encode_each(inputs, lambda item: self.processor.open(image_path(item)))

    def execute(
        self,
        session: Session,
        batch: Sequence[Picture],
        options: Options,
        emit: Callable[[str], None] | None = None,
    ) -> list[Any]:
        return run_by_shape(session, "model", [{"pixel_values": p.pixels} for p in batch])

    def postprocess_outputs(
        self, outputs: Sequence[Any], batch: Sequence[Any], options: Options
    ) -> list[dict[str, Any]]:
        if self.task == FEATURES:
            return [{"embedding": finite(row["embeddings"]).tolist()} for row in outputs]
        assert self.recipe is not None
        scores = sigmoid if self.recipe.settings.get("multiple") else softmax
        return [{"labels": ranked(scores(finite(row["logits"])), self.labels, options.top_k)} for row in outputs]

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        import numpy as np

        rows = self.execute(session, batch, Options())
        return np.stack([np.concatenate([v.ravel() for v in row.values()]) for row in rows]).astype(np.float64)

    def flops(self, lengths: Sequence[int]) -> float | None:
        """Operations for images of the model's own size; None where pictures differ in size."""
        assert self.recipe is not None
        each = self.recipe.settings.get("flops")
        return None if each is None else float(each) * len(lengths)


def _pooling(module: Any, outputs: Any) -> tuple[str, Callable[..., Any]]:
    """How a model's images become one vector each.

    The model's own pooled output, unless that goes through a dense layer, which checkpoints mostly lack: then the class
    token, as the authors of ViT use it. Models without a pooled output average their positions.
    """
    pooler = getattr(module, "pooler", None)
    if getattr(outputs, "pooler_output", None) is not None and getattr(pooler, "dense", None) is None:
        return "pooler", lambda m, pixels: (m(pixels).pooler_output.flatten(1),)
    hidden = outputs.last_hidden_state
    if hidden.dim() == 4:
        return "mean", lambda m, pixels: (m(pixels).last_hidden_state.mean(dim=(2, 3)),)
    if (
        getattr(pooler, "dense", None) is not None
        or getattr(getattr(module, "embeddings", None), "cls_token", None) is not None
    ):
        return "cls", lambda m, pixels: (m(pixels).last_hidden_state[:, 0],)
    return "mean", lambda m, pixels: (m(pixels).last_hidden_state.mean(dim=1),)
