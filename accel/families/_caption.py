"""BLIP (Li et al. 2022): captions of images, and answers to questions about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, Session, TorchGraph
from accel.core.errors import AccelError, InputError
from accel.core.images import ImageProcessor, Picture
from accel.core.tokenization import Encoded, Tokenizer
from accel.core.types import GraphSpec, Item, Model, Options, Recipe, TensorSpec
from accel.families._cross import cross_specs, decoder_graph
from accel.families._parts import Part
from accel.families._pictures import example_pixels, pixel_spec, try_once
from accel.families._shared import EXAMPLE_IMAGE, encode_each, freeze_tokenizer, image_path
from accel.families._writing import stops, text_answer, write

if TYPE_CHECKING:
    from accel.core.contracts import Array

CAPTION, ANSWER = "image-to-text", "visual-question-answering"
#: the default of transformers' generate
NEW_TOKENS = 20
QUESTION = "What animal is this?"


@dataclass(frozen=True)
class Look:
    """An image and the beginning of its caption, or the question about it. `length` counts pixels."""

    picture: Picture
    tokens: Encoded | None = None

    @property
    def length(self) -> int:
        return self.picture.length


class Blip(Part):
    """A vision encoder whose output a text decoder attends to; for questions through a text encoder."""

    name = "blip"

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.core.image_settings import freeze
        from accel.core.torch_models import load

        asks = model.task == ANSWER
        loaded = load(model, "BlipForQuestionAnswering" if asks else "BlipForConditionalGeneration")
        config = loaded.module.config.text_config
        settings: dict[str, Any] = {"processor": freeze(model.folder, model.config)}
        ids = {"pad": config.pad_token_id, "bos": config.bos_token_id, "eos": config.sep_token_id}
        frozen = freeze_tokenizer(model, assets, int(config.vocab_size), ids)
        settings |= {
            "tokenizer": frozen.settings,
            "begin": int(config.bos_token_id),
            "stop": stops(config.sep_token_id),
            "generation": {},
            "max_length": int(config.max_position_embeddings),
        }
        graphs = _graphs(model, loaded.module, settings["processor"], asks)
        specs = {name: graph.spec for name, graph in graphs.items()}
        notes = (*loaded.notes, *frozen.notes)
        recipe = Recipe(family, model.task, specs, settings, ("tokenizer.json",), notes)
        return LoadedModel(graphs, recipe, loaded.module)

    @cached_property
    def processor(self) -> ImageProcessor:
        """The image processor that the recipe holds."""
        return ImageProcessor(self.settings["processor"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer, read on first use."""
        assert self.assets is not None
        return Tokenizer(self.assets, self.settings["tokenizer"])

    @property
    def asks(self) -> bool:
        """Whether each image comes with a question."""
        return self.recipe.task == ANSWER

    def example_items(self) -> list[Item]:
        return [Item(image=str(EXAMPLE_IMAGE), text=QUESTION if self.asks else None)]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        return encode_each(items, lambda item: self._look(item, options))

    def _look(self, item: Item, options: Options) -> Look:
        if self.asks and not item.text:
            raise InputError(f"input {item.index + 1} has no question", "give --input QUESTION")
        if self.asks and not item.image:
            raise InputError(f"input {item.index + 1} has no image", "give --image FILE")
        text = item.text if item.image else None
        tokens = None
        if text:
            (found,) = self.tokenizer.encode(
                [text], truncate=options.truncate, max_length=self.settings["max_length"] // 2
            )
            if isinstance(found, AccelError):
                raise found
            tokens = found
        return Look(self.processor.open(image_path(item)), tokens)

    def execute(
        self, session: Session, batch: Sequence[Look], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        """One `Generated` for each input. Inputs whose texts differ in length run one after the other."""
        results: list[Any] = [None] * len(batch)
        for rows in self._alike(batch).values():
            looks = [batch[row] for row in rows]
            crossed = session.run("encoder", self._feeds(looks))
            ids = self._prompts(looks)
            most = min(options.max_new_tokens or NEW_TOKENS, self.settings["max_length"] - ids.shape[1])
            decoding = session.decode(self.recipe.graphs["decoder"], crossed, ids.shape[1] + most)
            single = emit if len(batch) == 1 else None
            written = write(self.tokenizer, decoding, ids, None, [most] * len(rows), self.settings, options, single)
            for row, generated in zip(rows, written, strict=True):
                results[row] = (generated, ids[rows.index(row)][1:].tolist() if not self.asks else [])
        return results

    def _alike(self, batch: Sequence[Look]) -> dict[Any, list[int]]:
        groups: dict[Any, list[int]] = {}
        for row, look in enumerate(batch):
            groups.setdefault((look.picture.pixels.shape, look.tokens.length if look.tokens else 0), []).append(row)
        return groups

    def _feeds(self, looks: Sequence[Look]) -> dict[str, Array]:
        import numpy as np

        feeds = {"pixel_values": np.stack([look.picture.pixels for look in looks])}
        if self.asks:
            feeds["input_ids"] = np.array([look.tokens.ids for look in looks if look.tokens], np.int64)
        return feeds

    def _prompts(self, looks: Sequence[Look]) -> Array:
        """What the decoder goes on from: its first token, then the user's own words without their end token."""
        import numpy as np

        if self.asks or looks[0].tokens is None:
            return np.full((len(looks), 1), self.settings["begin"], np.int64)
        ids = np.array([look.tokens.ids for look in looks if look.tokens], np.int64)
        if self.settings["tokenizer"].get("substitute"):
            return np.concatenate([np.full((len(looks), 1), self.settings["begin"], np.int64), ids], axis=1)
        ids[:, 0] = self.settings["begin"]
        return ids[:, :-1]

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        results = []
        for generated, prompt in outputs:
            answer = text_answer(self.tokenizer, generated)
            if prompt:
                answer["text"] = self.tokenizer.decode([*prompt, *generated.tokens]).strip()
            results.append(answer)
        return results

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        """Logits after the first token and after one more, the same for every engine."""
        import numpy as np

        rows: list[Any] = [None] * len(batch)
        for group in self._alike(batch).values():
            crossed = session.run("encoder", self._feeds([batch[row] for row in group]))
            decoding = session.decode(self.recipe.graphs["decoder"], crossed, 2)
            ids = np.full((len(group), 1), self.settings["begin"], np.int64)
            logits = np.concatenate([decoding.step(ids), decoding.step(ids)], axis=1)
            for position, row in enumerate(group):
                rows[row] = logits[position]
        return np.stack(rows)


def _graphs(model: Model, module: Any, processor: dict[str, Any], asks: bool) -> dict[str, TorchGraph]:
    import torch

    config = module.config.text_config
    layers = module.text_decoder.bert.encoder.layer
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    pixels, varies = example_pixels(processor)
    seen = try_once(model, module.vision_model, lambda m, p: m(pixel_values=p), pixels)
    source: int | str = "question" if asks else int(seen.last_hidden_state.shape[1])

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.vision = module.vision_model
            self.question = module.text_encoder if asks else None
            self.attention = torch.nn.ModuleList(layer.crossattention.self for layer in layers)

        def forward(self, pixel_values: Any, *question: Any) -> tuple[Any, ...]:
            hidden = self.vision(pixel_values=pixel_values).last_hidden_state
            if self.question is not None:
                hidden = self.question(
                    input_ids=question[0],
                    attention_mask=torch.ones_like(question[0]),
                    encoder_hidden_states=hidden,
                ).last_hidden_state
            shape = (hidden.shape[0], -1, heads, size)
            crossed = [p(hidden).view(shape).transpose(1, 2) for a in self.attention for p in (a.key, a.value)]
            return tuple(tensor.contiguous() for tensor in crossed)

    def call(m: Any, input_ids: Any, mask: Any, positions: Any, cache: Any, crossed: Sequence[Any]) -> Any:
        hidden = m.bert(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            # only says that there is an encoder: the cache holds its keys and values
            encoder_hidden_states=crossed[0],
            past_key_values=cache,
            use_cache=True,
            is_decoder=True,
        ).last_hidden_state
        return m.cls(hidden[:, -1:])

    inputs: tuple[TensorSpec, ...] = (pixel_spec(pixels, varies),)
    example = {"pixel_values": pixels}
    if asks:
        inputs = (*inputs, TensorSpec("input_ids", "int64", ("batch", "question")))
        example["input_ids"] = (torch.arange(14).reshape(2, 7) * 7 + 3) % int(config.vocab_size)
    spec = GraphSpec("encoder", inputs, cross_specs(len(layers), heads, size, source))
    decoder = decoder_graph(
        module.text_decoder,
        call,
        layers=len(layers),
        heads=heads,
        size=size,
        source=source,
        vocabulary=int(config.vocab_size),
    )
    return {"encoder": TorchGraph(spec, Encoder().eval(), example), "decoder": decoder}
