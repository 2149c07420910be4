"""CLIP and SigLIP: images and texts as vectors in one space, and how well they fit each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, Session, TorchGraph
from accel.core.errors import AccelError, InputError
from accel.core.images import ImageProcessor, Picture
from accel.core.tokenization import Encoded, Frozen, Tokenizer
from accel.core.types import GraphSpec, Item, Model, Options, Recipe, TensorSpec
from accel.families._parts import Part
from accel.families._pictures import example_pixels, pixel_spec, try_once
from accel.families._shared import (
    EXAMPLE_IMAGE,
    encode_each,
    finite,
    image_path,
    module_from,
    ranked,
    run_by_shape,
    sigmoid,
    softmax,
)

if TYPE_CHECKING:
    from accel.core.contracts import Array

ZERO_SHOT, EMBED = "zero-shot-image-classification", "image-text-embedding"
#: the sentence that transformers' pipeline puts candidates into
TEMPLATE = "This is a photo of {}."
CANDIDATES = ("a cat", "a dog", "a bicycle")


@dataclass(frozen=True)
class Pair:
    """An image and candidate texts, or one of both. `length` counts pixels, or tokens where there is no image."""

    picture: Picture | None
    texts: tuple[Encoded, ...] = ()
    labels: tuple[str, ...] = field(default=())

    @property
    def length(self) -> int:
        return self.picture.length if self.picture else sum(text.length for text in self.texts)


class Contrast(Part):
    """Scores of candidate texts for an image; embeddings of either."""

    name = "contrast"

    def __init__(self, recipe: Recipe, assets: Path | None) -> None:
        super().__init__(recipe, assets)
        self._known: tuple[Session, dict[tuple[int, ...], Array]] | None = None

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.core.image_settings import freeze
        from accel.core.torch_models import load

        loaded = load(model, "AutoModel")
        module = loaded.module
        sig = str(model.config.get("model_type")).startswith("siglip")
        settings: dict[str, Any] = {"processor": freeze(model.folder, model.config), "sigmoid": sig}
        frozen = _freeze_tokenizer(model, module, assets)
        longest = int(module.config.text_config.max_position_embeddings)
        settings |= {"tokenizer": frozen.settings, "max_length": longest, "padded": sig}
        settings["scale"] = float(module.logit_scale.exp())
        settings["bias"] = float(module.logit_bias) if sig else 0.0
        graphs = {
            "image": _image_graph(model, module, settings["processor"]),
            "text": _text_graph(module, longest, sig),
        }
        specs = {name: graph.spec for name, graph in graphs.items()}
        notes = (*loaded.notes, *frozen.notes)
        return LoadedModel(graphs, Recipe(family, model.task, specs, settings, ("tokenizer.json",), notes), module)

    @cached_property
    def processor(self) -> ImageProcessor:
        """The image processor that the recipe holds."""
        return ImageProcessor(self.settings["processor"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer, read on first use."""
        assert self.assets is not None
        return Tokenizer(self.assets, self.settings["tokenizer"])

    def example_items(self) -> list[Item]:
        if self.recipe.task == EMBED:
            return [Item(0, image=str(EXAMPLE_IMAGE)), Item(1, text="a photo of a cat")]
        return [Item(image=str(EXAMPLE_IMAGE), texts=CANDIDATES)]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        one = self._embeddable if self.recipe.task == EMBED else self._scorable
        return encode_each(items, lambda item: one(item, options))

    def _embeddable(self, item: Item, options: Options) -> Pair:
        if item.image:
            return Pair(self.processor.open(item.image))
        if item.text is None:
            raise InputError(f"input {item.index + 1} has neither image nor text", "give --image FILE or --input TEXT")
        return Pair(None, self._tokens([item.text], options.truncate))

    def _scorable(self, item: Item, options: Options) -> Pair:
        labels = item.texts or ((item.text,) if item.image and item.text else ())
        if not labels:
            raise InputError(f"input {item.index + 1} has no texts to score its image against", "give --candidate TEXT")
        tokens = self._tokens([TEMPLATE.format(label) for label in labels], options.truncate)
        return Pair(self.processor.open(image_path(item)), tokens, labels)

    def _tokens(self, texts: Sequence[str], truncate: bool) -> tuple[Encoded, ...]:
        encoded = self.tokenizer.encode(texts, truncate=truncate, max_length=int(self.settings["max_length"]))
        good: list[Encoded] = []
        for one in encoded:
            if isinstance(one, AccelError):
                raise one
            good.append(one)
        return tuple(good)

    def execute(
        self, session: Session, batch: Sequence[Pair], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        """For each input the image's vector or None, and the vectors of its texts (texts, size)."""
        import numpy as np

        pictures = [pair.picture for pair in batch if pair.picture]
        rows = iter(run_by_shape(session, "image", [{"pixel_values": p.pixels} for p in pictures]) if pictures else ())
        images = [next(rows)["image_embeds"] if pair.picture else None for pair in batch]
        known = self._text_vectors(session, [text for pair in batch for text in pair.texts])
        return [
            (image, np.stack([known[tuple(t.ids)] for t in pair.texts]) if pair.texts else None)
            for image, pair in zip(images, batch, strict=True)
        ]

    def _text_vectors(self, session: Session, texts: Sequence[Encoded]) -> dict[tuple[int, ...], Array]:
        """Vectors by tokens; those of earlier batches are kept, since candidates mostly come again."""
        if self._known is None or self._known[0] is not session or len(self._known[1]) > 10_000:
            self._known = (session, {})
        known = self._known[1]
        new = {tuple(text.ids): text for text in texts if tuple(text.ids) not in known}
        if new:
            vectors = session.run("text", self._feeds(list(new.values())))["text_embeds"]
            known.update(zip(new, vectors, strict=True))
        return known

    def _feeds(self, texts: Sequence[Encoded]) -> dict[str, Array]:
        import numpy as np

        feeds = self.tokenizer.pad(texts, "right")
        if not self.settings["padded"]:
            return {"input_ids": feeds["input_ids"], "attention_mask": feeds["attention_mask"]}
        missing = int(self.settings["max_length"]) - feeds["input_ids"].shape[1]
        ids = np.pad(feeds["input_ids"], ((0, 0), (0, missing)), constant_values=self.tokenizer.pad_id)
        return {"input_ids": ids}

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        return [self._answer(image, texts, pair) for (image, texts), pair in zip(outputs, batch, strict=True)]

    def _answer(self, image: Array | None, texts: Array | None, pair: Pair) -> dict[str, Any]:
        if image is None or texts is None:
            vector = texts[0] if texts is not None else image
            assert vector is not None
            return {"embedding": finite(vector).tolist()}
        logits = finite(texts) @ finite(image) * self.settings["scale"] + self.settings["bias"]
        scores = sigmoid(logits) if self.settings["sigmoid"] else softmax(logits)
        return {"labels": ranked(scores, pair.labels, len(pair.labels))}

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        import numpy as np

        rows = [
            np.concatenate([v.ravel() for v in (image, texts) if v is not None])
            for image, texts in self.execute(session, batch, Options(), None)
        ]
        width = max(map(len, rows))
        return np.stack([np.pad(row, (0, width - len(row))) for row in rows])


def _freeze_tokenizer(model: Model, module: Any, assets: Path) -> Frozen:
    from accel.core.tokenization import freeze, freeze_substitute
    from accel.core.torch_models import load_tokenizer

    tokenizer = load_tokenizer(model)
    if tokenizer is not None:
        return freeze(tokenizer, assets)
    config = module.config.text_config
    ids = {name: getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    # the encoders read a text off its end token, so a text has to have one
    return freeze_substitute(assets, int(config.vocab_size), ids, kind="encoder")


def _unit(vectors: Any) -> Any:
    return vectors / vectors.norm(p=2, dim=-1, keepdim=True)


def _image_graph(model: Model, module: Any, processor: dict[str, Any]) -> TorchGraph:
    pixels, varies = example_pixels(processor)

    def call(m: Any, images: Any) -> tuple[Any, ...]:
        return (_unit(m.get_image_features(pixel_values=images).pooler_output),)

    size = int(try_once(model, module, call, pixels)[0].shape[-1])
    output = TensorSpec("image_embeds", "float32", ("batch", size))
    spec = GraphSpec("image", (pixel_spec(pixels, varies),), (output,))
    return TorchGraph(spec, module_from(module, call), {"pixel_values": pixels})


def _text_graph(module: Any, longest: int, padded: bool) -> TorchGraph:
    import torch

    vocabulary = int(module.config.text_config.vocab_size)
    length = longest if padded else min(7, longest)
    ids = (torch.arange(2 * length).reshape(2, length) * 7 + 3) % vocabulary
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    axes: tuple[int | str, ...] = ("batch", longest if padded else "length")
    inputs: tuple[TensorSpec, ...] = (TensorSpec("input_ids", "int64", axes),)
    example = {"input_ids": ids}
    if not padded:
        inputs = (*inputs, TensorSpec("attention_mask", "int64", axes))
        example["attention_mask"] = mask

    def call(m: Any, *tensors: Any) -> tuple[Any, ...]:
        more = {"attention_mask": tensors[1]} if len(tensors) > 1 else {}
        return (_unit(m.get_text_features(input_ids=tensors[0], **more).pooler_output),)

    with torch.no_grad():
        size = int(call(module, *example.values())[0].shape[-1])
    spec = GraphSpec("text", inputs, (TensorSpec("text_embeds", "float32", ("batch", size)),))
    return TorchGraph(spec, module_from(module, call), example)
