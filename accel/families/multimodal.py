"""Models of images and texts together: CLIP, SigLIP, BLIP and LLaVA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from accel.core.types import Model
from accel.families._caption import ANSWER, CAPTION, Blip
from accel.families._contrast import EMBED, ZERO_SHOT, Contrast
from accel.families._llava import TASK as CONVERSE
from accel.families._llava import Llava
from accel.families._parts import Part, PartedFamily


class Multimodal(PartedFamily):
    """Scores of texts for images, embeddings of both, captions, and answers to questions about images."""

    name: ClassVar[str] = "multimodal"
    tasks: ClassVar[tuple[str, ...]] = (ZERO_SHOT, EMBED, CAPTION, ANSWER, CONVERSE)

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        kind = config.get("model_type")
        if kind in ("clip", "siglip"):
            return ZERO_SHOT
        if kind == "blip":
            asks = any(str(a).endswith("ForQuestionAnswering") for a in config.get("architectures") or ())
            return ANSWER if asks else CAPTION
        return CONVERSE if kind == "llava" else None

    @classmethod
    def parts(cls) -> Sequence[type[Part]]:
        return (Contrast, Blip, Llava)

    @classmethod
    def choose(cls, model: Model) -> type[Part] | None:
        known: dict[Any, tuple[type[Part], tuple[str, ...]]] = {
            "clip": (Contrast, (ZERO_SHOT, EMBED)),
            "siglip": (Contrast, (ZERO_SHOT, EMBED)),
            "blip": (Blip, (CAPTION, ANSWER)),
            "llava": (Llava, (CONVERSE,)),
        }
        part, tasks = known.get(model.config.get("model_type"), (None, ()))
        return part if model.task in tasks else None


PLUGIN = Multimodal
