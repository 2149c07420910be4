"""Image transformers: labels, embeddings, boxes, depth, segments, and the saliency of a bare ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel.core.contracts import LoadedModel, Session, TorchGraph
from accel.core.images import Picture
from accel.core.types import GraphSpec, Model, Options, Recipe, TensorSpec
from accel.families import _saliency
from accel.families._pictures import (
    CLASSIFY,
    FEATURES,
    PictureFamily,
    example_pixels,
    pixel_spec,
    try_once,
)
from accel.families._shared import (
    finite,
    labels_of,
    module_from,
    run_by_shape,
    sigmoid,
    softmax,
    write_labels,
)

if TYPE_CHECKING:
    from accel.core.images import Array

DETECT = "object-detection"

#: detectors whose classes compete with a class "nothing" (softmax); the others score every class by itself (sigmoid)
WITH_NOTHING = frozenset(("detr", "yolos", "table-transformer"))


class Vision(PictureFamily):
    """ViT, Swin, BEiT, DINOv2 and their like; DETR and YOLOS."""

    name: ClassVar[str] = "vision"
    tasks: ClassVar[tuple[str, ...]] = (CLASSIFY, FEATURES, DETECT, _saliency.TASK)
    # fmt: off
    model_types = frozenset((
        "beit", "conditional_detr", "cvt", "data2vec-vision", "deformable_detr", "deit", "detr", "dinov2",
        "dinov2_with_registers", "dinov3_vit", "hiera", "ijepa", "levit", "pvt", "pvt_v2", "rt_detr", "segformer",
        "siglip_vision_model", "clip_vision_model", "swin", "swinv2", "table-transformer", "vit", "vit_mae", "vit_msn",
        "yolos",
    ))
    # fmt: on
    detectors: ClassVar[frozenset[str]] = frozenset(
        ("conditional_detr", "deformable_detr", "detr", "rt_detr", "table-transformer", "yolos")
    )
    heads: ClassVar[dict[str, str]] = {**PictureFamily.heads, "ForObjectDetection": DETECT}

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        if "onnx" in config:
            return _saliency.TASK if _saliency.matches(config["onnx"]) else None
        if config.get("model_type") in cls.detectors:
            return DETECT
        task = super().infer_task(config)
        if task == CLASSIFY and str(config.get("model_type", "")).startswith(("dinov", "ijepa", "vit_m")):
            return FEATURES if not config.get("architectures") else task
        return task

    def load_model(self, model: Model, assets: Path) -> LoadedModel:
        if model.layout == "onnx":
            return _saliency.load(self.name, model)
        if model.task == DETECT:
            return self._load_detector(model, assets)
        return super().load_model(model, assets)

    def _load_detector(self, model: Model, assets: Path) -> LoadedModel:
        from accel.core.image_settings import freeze
        from accel.core.torch_models import load

        changes: dict[str, Any] = {"use_pretrained_backbone": False} if model.weights == "random" else {}
        loaded = load(model, "AutoModelForObjectDetection", **changes)
        settings: dict[str, Any] = {"processor": freeze(model.folder, model.config)}
        pixels, varies = example_pixels(settings["processor"])

        def call(module: Any, images: Any) -> tuple[Any, ...]:
            outputs = module(images)
            return outputs.logits, outputs.pred_boxes

        logits, boxes = try_once(model, loaded.module, call, pixels)
        kind = str(model.config.get("model_type"))
        settings["nothing"] = kind in WITH_NOTHING
        labels, remarks = labels_of(model, int(logits.shape[-1]) - (1 if settings["nothing"] else 0))
        outputs = (
            TensorSpec("logits", "float32", ("batch", int(logits.shape[1]), int(logits.shape[2]))),
            TensorSpec("pred_boxes", "float32", ("batch", int(boxes.shape[1]), 4)),
        )
        spec = GraphSpec("model", (pixel_spec(pixels, varies),), outputs)
        graph = TorchGraph(spec, module_from(loaded.module, call), {"pixel_values": pixels})
        names = (write_labels(assets, labels),)
        recipe = Recipe(self.name, DETECT, {"model": spec}, settings, names, (*loaded.notes, *remarks))
        return LoadedModel({"model": graph}, recipe, loaded.module)

    def preprocess_inputs(self, inputs: Sequence[Any], options: Options) -> list[Any]:
        if self.task == _saliency.TASK:
            return _saliency.encode(inputs)
        return super().preprocess_inputs(inputs, options)

    def execute(
        self,
        session: Session,
        batch: Sequence[Picture],
        options: Options,
        emit: Callable[[str], None] | None = None,
    ) -> list[Any]:
        if self.task == _saliency.TASK:
            return run_by_shape(session, "model", [{_saliency.INPUT: p.pixels} for p in batch])
        return super().execute(session, batch, options, emit)

    def postprocess_outputs(
        self, outputs: Sequence[Any], batch: Sequence[Any], options: Options
    ) -> list[dict[str, Any]]:
        if self.task == _saliency.TASK:
            return [_saliency.answer(row, picture) for row, picture in zip(outputs, batch, strict=True)]
        if self.task == DETECT:
            assert self.recipe is not None
            nothing = bool(self.recipe.settings["nothing"])
            return [
                {
                    "boxes": boxes(
                        row["logits"], row["pred_boxes"], picture.size, nothing, options.threshold, self.labels
                    )
                }
                for row, picture in zip(outputs, batch, strict=True)
            ]
        return super().postprocess_outputs(outputs, batch, options)


def boxes(
    logits: Array,
    centred: Array,
    size: tuple[int, int],
    nothing: bool,
    threshold: float,
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """Detections of one image above the threshold, best first.

    Args:
        logits: (queries, classes). centred: (queries, 4), centre x, centre y, width, height in parts of the image.
        size: (height, width) of the original in pixels.
        nothing: the last class means that nothing is there (DETR, Carion et al. 2020); otherwise every class of every
            query is a candidate by itself, and the best `queries` of them count (Deformable DETR, Zhu et al. 2021).

    Returns:
        dicts with label, score and box, [left, top, right, bottom] in pixels of the original.
    """
    import numpy as np

    finite(logits)
    finite(centred)
    if nothing:
        scores = softmax(logits)[:, :-1]
        classes = scores.argmax(axis=-1)
        best, queries = scores.max(axis=-1), np.arange(len(scores))
    else:
        scores = sigmoid(logits)
        flat = np.argsort(-scores.ravel(), kind="stable")[: len(scores)]
        best, queries, classes = scores.ravel()[flat], flat // scores.shape[1], flat % scores.shape[1]
    x, y, width, height = centred[queries].astype(np.float64).T
    tall, wide = size
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    corners *= np.array([wide, tall, wide, tall], dtype=np.float64)
    return [
        {
            "label": labels[int(classes[i])] if int(classes[i]) < len(labels) else f"LABEL_{int(classes[i])}",
            "score": float(best[i]),
            "box": [round(float(v), 2) for v in corners[i]],
        }
        for i in np.argsort(-best, kind="stable")
        if best[i] > threshold
    ]


PLUGIN = Vision
