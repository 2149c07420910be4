"""LLaVA (Liu et al. 2023): a language model that reads an image as a stretch of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, Session, TorchGraph
from accel.core.errors import AccelError, InputError
from accel.core.images import ImageProcessor, Picture
from accel.core.tokenization import Tokenizer
from accel.core.types import GraphSpec, Item, Model, Options, Recipe, TensorSpec
from accel.families._parts import Part
from accel.families._pictures import example_pixels, pixel_spec, try_once
from accel.families._shared import EXAMPLE_IMAGE, encode_each, freeze_tokenizer, module_from
from accel.families._writing import stops, text_answer, write

if TYPE_CHECKING:
    from accel.core.contracts import Array

TASK = "image-text-to-text"
NEW_TOKENS = 64
MARK = "<image>"
#: the form that LLaVA 1.5 was trained with, for models without a chat template
FORM = "USER: {image}\n{text} ASSISTANT:"
QUESTION = "What animal is this?"
BATCH, LENGTH, PAST = 2, 3, 5
TOTAL = "past + length"


@dataclass(frozen=True)
class Question:
    """An image and the tokens around it. `length` counts tokens, those of the image included."""

    picture: Picture
    ids: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.ids)


class Llava(Part):
    """Graphs "vision", from pixels to the image's tokens, and "decoder", which puts them in place of its marks."""

    name = "llava"

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.core.image_settings import freeze
        from accel.core.torch_models import load

        loaded = load(model, "AutoModelForImageTextToText")
        module, config = loaded.module, loaded.module.config
        own = config.text_config
        processor = freeze(model.folder, model.config)
        vocabulary = int(module.get_input_embeddings().num_embeddings)
        ids = {name: getattr(own, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
        frozen = freeze_tokenizer(model, assets, vocabulary, ids)
        vision = _vision_graph(model, module, processor)
        settings: dict[str, Any] = {
            "processor": processor,
            "tokenizer": frozen.settings,
            "image_token": int(config.image_token_id),
            "image_length": int(vision.spec.outputs[0].axes[1]),
            "stop": stops(getattr(module.generation_config, "eos_token_id", None), own.eos_token_id),
            "generation": {},
            "max_length": int(own.max_position_embeddings),
        }
        graphs = {"vision": vision, "decoder": _decoder_graph(module, settings, vocabulary)}
        specs = {name: graph.spec for name, graph in graphs.items()}
        notes = (*loaded.notes, *frozen.notes)
        return LoadedModel(graphs, Recipe(family, TASK, specs, settings, ("tokenizer.json",), notes), module)

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
        return [Item(image=str(EXAMPLE_IMAGE), text=QUESTION)]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        return encode_each(items, lambda item: self._question(item, options))

    def _question(self, item: Item, options: Options) -> Question:
        if not item.image or not item.text:
            missing = "text" if item.image else "image"
            raise InputError(f"input {item.index + 1} has no {missing}", "give --image FILE and --input QUESTION")
        if MARK in item.text:
            raise InputError(f"input {item.index + 1} holds {MARK}, which stands for the image", "leave it out")
        ids = self._ids(item.text)
        room = self.settings["max_length"] - 1
        if len(ids) > room:
            raise InputError(f"the input has {len(ids)} tokens, and the model takes at most {room}", "shorten the text")
        return Question(self.processor.open(item.image), tuple(ids))

    def _ids(self, text: str) -> list[int]:
        """Tokens of the whole prompt; the image takes as many as its features."""
        image, count = self.settings["image_token"], self.settings["image_length"]
        if self.tokenizer.settings["chat_template"]:
            content = [{"type": "image"}, {"type": "text", "text": text}]
            prompt = self.tokenizer.render_chat([{"role": "user", "content": content}])  # type: ignore[dict-item]
        else:
            prompt = FORM.format(image=MARK, text=text)
        whole = self._encode(prompt)
        if whole.count(image) == 1:
            place = whole.index(image)
            return [*whole[:place], *[image] * count, *whole[place + 1 :]]
        before, _, after = prompt.partition(MARK)
        return [*self._encode(before), *[image] * count, *self._encode(after, add_special=False)]

    def _encode(self, text: str, add_special: bool = True) -> list[int]:
        (found,) = self.tokenizer.encode([text], add_special=add_special)
        if isinstance(found, AccelError):
            raise found
        return found.ids

    def _padded(self, batch: Sequence[Question]) -> tuple[Array, Array]:
        import numpy as np

        longest = max(question.length for question in batch)
        ids = np.full((len(batch), longest), self.tokenizer.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, question in enumerate(batch):
            ids[row, longest - question.length :] = question.ids
            mask[row, longest - question.length :] = 1
        return ids, mask

    def execute(
        self, session: Session, batch: Sequence[Question], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        import numpy as np

        features = session.run("vision", {"pixel_values": np.stack([q.picture.pixels for q in batch])})
        ids, mask = self._padded(batch)
        wanted = options.max_new_tokens or NEW_TOKENS
        most = [min(wanted, self.settings["max_length"] - question.length) for question in batch]
        decoding = session.decode(self.recipe.graphs["decoder"], features, ids.shape[1] + max(most))
        return write(self.tokenizer, decoding, ids, mask, most, self.settings, options, emit)

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        return [text_answer(self.tokenizer, generated) for generated in outputs]

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        """Logits after the prompt and after one fixed token more."""
        import numpy as np

        features = session.run("vision", {"pixel_values": np.stack([q.picture.pixels for q in batch])})
        ids, mask = self._padded(batch)
        decoding = session.decode(self.recipe.graphs["decoder"], features, ids.shape[1] + 1)
        again = np.array([[question.ids[-1]] for question in batch], np.int64)
        return np.concatenate([decoding.step(ids, mask), decoding.step(again)], axis=1)


def _vision_graph(model: Model, module: Any, processor: dict[str, Any]) -> TorchGraph:
    import torch

    config = module.config
    chosen = config.vision_feature_layer
    layers = [chosen] if isinstance(chosen, int) else list(chosen)
    first = 1 if config.vision_feature_select_strategy == "default" else 0
    pixels, varies = example_pixels(processor)

    def call(m: Any, images: Any) -> tuple[Any, ...]:
        hidden = m.vision_tower(images, output_hidden_states=True).hidden_states
        return (m.multi_modal_projector(torch.cat([hidden[layer][:, first:] for layer in layers], dim=-1)),)

    shape = try_once(model, module.model, call, pixels)[0].shape
    output = TensorSpec("image_features", "float32", ("batch", int(shape[1]), int(shape[2])))
    spec = GraphSpec("vision", (pixel_spec(pixels, varies),), (output,))
    return TorchGraph(spec, module_from(module.model, call), {"pixel_values": pixels})


def _decoder_graph(module: Any, settings: dict[str, Any], vocabulary: int) -> TorchGraph:
    import torch
    from transformers import DynamicCache

    own = module.config.text_config
    layers, heads = own.num_hidden_layers, own.num_key_value_heads
    size = getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads
    mark, count = settings["image_token"], settings["image_length"]

    class Decoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.language = module.model.language_model
            self.head = module.lm_head

        def forward(
            self, input_ids: Any, attention_mask: Any, position_ids: Any, image_features: Any, *past: Any
        ) -> tuple[Any, ...]:
            marked = input_ids == mark
            # the mark has no embedding of its own: any will do, it is replaced below
            embedded = self.language.get_input_embeddings()(torch.where(marked, torch.zeros_like(input_ids), input_ids))
            place = (marked.cumsum(dim=1) - 1).clamp(0, count - 1)
            seen = image_features.gather(1, place.unsqueeze(-1).expand(-1, -1, image_features.shape[-1]))
            embedded = torch.where(marked.unsqueeze(-1), seen, embedded)
            cache = DynamicCache([(past[i], past[i + 1]) for i in range(0, len(past), 2)])
            hidden = self.language(
                inputs_embeds=embedded,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            states = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
            return (self.head(hidden[:, -1]), *states)

    names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    inputs = (
        TensorSpec("input_ids", "int64", ("batch", "length")),
        TensorSpec("attention_mask", "int64", ("batch", TOTAL)),
        TensorSpec("position_ids", "int64", ("batch", "length")),
        TensorSpec("image_features", "float32", ("batch", count, int(own.hidden_size))),
        *(TensorSpec(f"past_key_values.{name}", "float32", ("batch", heads, "past", size)) for name in names),
    )
    outputs = (
        TensorSpec("logits", "float32", ("batch", int(module.lm_head.out_features))),
        *(TensorSpec(f"present.{name}", "float32", ("batch", heads, TOTAL, size)) for name in names),
    )
    random = torch.Generator().manual_seed(0)
    mask = torch.ones((BATCH, PAST + LENGTH), dtype=torch.int64)
    mask[0, :2] = 0
    ids = (torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) * 7 + 3) % vocabulary
    ids[1, 1] = mark
    example: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1)[:, -LENGTH:],
        "image_features": torch.randn((BATCH, count, int(own.hidden_size)), generator=random),
    }
    for spec in inputs[4:]:
        example[spec.name] = torch.randn((BATCH, heads, PAST, size), generator=random)
    return TorchGraph(GraphSpec("decoder", inputs, outputs, cache=True), Decoder().eval(), example)
