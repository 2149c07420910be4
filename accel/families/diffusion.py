"""Diffusion models: Stable Diffusion, unconditional pixel diffusion, and a consistency model of terrain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from accel.core.types import Model
from accel.families import _terrain
from accel.families._parts import Part, PartedFamily
from accel.families._stable import FROM_NOTHING, FROM_TEXT, StableDiffusion, Unconditional
from accel.families._terrain import Terrain

#: pipelines of diffusers by their class name
PIPELINES = {
    "StableDiffusionPipeline": FROM_TEXT,
    "LatentConsistencyModelPipeline": FROM_TEXT,
    "DDPMPipeline": FROM_NOTHING,
    "DDIMPipeline": FROM_NOTHING,
}


class Diffusion(PartedFamily):
    """Images out of noise, saved as PNG files."""

    name: ClassVar[str] = "diffusion"
    tasks: ClassVar[tuple[str, ...]] = (FROM_TEXT, FROM_NOTHING)

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        if "onnx" in config:
            return _terrain.TASK if _terrain.matches(config["onnx"]) else None
        return PIPELINES.get(str(config.get("_class_name")))

    @classmethod
    def parts(cls) -> Sequence[type[Part]]:
        return (StableDiffusion, Unconditional, Terrain)

    @classmethod
    def choose(cls, model: Model) -> type[Part] | None:
        if model.layout == "onnx":
            return Terrain if model.task == _terrain.TASK else None
        if model.layout != "diffusers" or cls.infer_task(model.config) != model.task:
            return None
        return {FROM_TEXT: StableDiffusion, FROM_NOTHING: Unconditional}[model.task]


PLUGIN = Diffusion
