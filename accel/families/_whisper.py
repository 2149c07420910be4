"""Whisper (Radford et al. 2022): an encoder over 30 s of log-mel spectrum and a decoder that writes the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, Session, TorchGraph
from accel.core.decoding import Generated
from accel.core.errors import AccelError
from accel.core.mel import SoundProcessor
from accel.core.tokenization import Tokenizer
from accel.core.types import GraphSpec, Item, Model, Options, Recipe, TensorSpec
from accel.families._cross import BATCH, cross_specs, decoder_graph
from accel.families._parts import Part
from accel.families._shared import EXAMPLE_SOUND, encode_each, freeze_tokenizer, operations
from accel.families._waves import Sound, encode_sound, several
from accel.families._writing import stops, write

if TYPE_CHECKING:
    from accel.core.contracts import Array

TASK = "automatic-speech-recognition"
#: windows of 30 s that are encoded and written down at the same time
TOGETHER = 8


class Whisper(Part):
    """Speech to text in the language that is spoken, without timestamps.

    Sounds of more than 30 s are cut at their quietest places, and the texts of the pieces are joined.
    """

    name = "whisper"

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.core.sound_settings import freeze
        from accel.core.torch_models import load

        loaded = load(model, "WhisperForConditionalGeneration")
        config = loaded.module.config
        processor = freeze(model.folder, model.config)
        frozen = freeze_tokenizer(
            model,
            assets,
            int(config.vocab_size),
            {"pad": config.pad_token_id, "bos": config.bos_token_id, "eos": config.eos_token_id},
        )
        settings: dict[str, Any] = {
            "processor": processor,
            "tokenizer": frozen.settings,
            **_generation(loaded.module),
        }
        graphs = _graphs(loaded.module)
        encoder = graphs["encoder"]
        settings["flops"] = operations(encoder.module, [encoder.example["input_features"][:1]])
        specs = {name: graph.spec for name, graph in graphs.items()}
        notes = (*loaded.notes, *frozen.notes)
        recipe = Recipe(family, TASK, specs, settings, ("tokenizer.json",), notes)
        return LoadedModel(graphs, recipe, loaded.module)

    @cached_property
    def processor(self) -> SoundProcessor:
        """The feature extractor that the recipe holds."""
        return SoundProcessor(self.settings["processor"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer, read on first use."""
        assert self.assets is not None
        return Tokenizer(self.assets, self.settings["tokenizer"])

    def example_items(self) -> list[Item]:
        return [Item(audio=str(EXAMPLE_SOUND))]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        window = self.processor.window_s or 30.0

        def one(item: Item) -> Sound:
            sound = encode_sound(item, self.processor, window)
            # every piece costs a whole window
            return Sound(sound.pieces, len(sound.pieces) * int(window * self.processor.rate))

        return encode_each(items, one)

    def execute(
        self, session: Session, batch: Sequence[Sound], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        """One list for each sound, of (language or None, `Generated`) for each piece."""
        pieces = [piece for sound in batch for piece in sound.pieces]
        written: list[tuple[str | None, Generated]] = []
        single = emit if len(batch) == 1 else None
        step = 1 if single else TOGETHER
        for start in range(0, len(pieces), step):
            written += self._write(session, pieces[start : start + step], options, single)
        results = iter(written)
        return [[next(results) for _ in sound.pieces] for sound in batch]

    def _write(
        self, session: Session, pieces: Sequence[Array], options: Options, emit: Callable[[str], None] | None
    ) -> list[tuple[str | None, Generated]]:
        import numpy as np

        crossed = session.run("encoder", {"input_features": np.stack(pieces)})
        prompt = self.settings["prompt"]
        room = int(self.settings["max_length"]) - len(prompt)
        most = min(room, options.max_new_tokens) if options.max_new_tokens else room
        decoding = session.decode(self.recipe.graphs["decoder"], crossed, int(self.settings["max_length"]))
        rest: Array = np.array([[token or 0 for token in prompt]] * len(pieces), np.int64)
        languages: list[str | None] = [None] * len(pieces)
        if None in prompt:
            spoken = self._languages(decoding.step(rest[:, :1]))
            rest[:, prompt.index(None)] = spoken
            languages = [self.settings["languages"][str(token)] for token in spoken]
            rest = rest[:, 1:]
        most_each = [most] * len(pieces)
        written = write(self.tokenizer, decoding, rest, None, most_each, self.settings, options, emit)
        return list(zip(languages, written, strict=True))

    def _languages(self, logits: Array) -> list[int]:
        """The likeliest language token of each row."""
        import numpy as np

        tokens = np.array([int(token) for token in self.settings["languages"]])
        return [int(token) for token in tokens[logits[:, tokens].argmax(axis=1)]]

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        return [self._answer(pieces) for pieces in outputs]

    def _answer(self, pieces: Sequence[tuple[str | None, Generated]]) -> dict[str, Any]:
        errors: list[AccelError] = [g.error for _, g in pieces if g.error is not None]
        if errors:
            raise errors[0]
        texts = [self.tokenizer.decode(generated.tokens).strip() for _, generated in pieces]
        answer: dict[str, Any] = {"text": " ".join(filter(None, texts)), **several(pieces)}
        languages = [language for language, _ in pieces if language]
        return {**answer, "language": max(set(languages), key=languages.count)} if languages else answer

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        """Logits of the first window after the prompt and after one more token, which are the same for every engine."""
        import numpy as np

        first = next(iter(self.settings["languages"] or {"0": None}))
        prompt = [int(first) if token is None else token for token in self.settings["prompt"]]
        crossed = session.run("encoder", {"input_features": np.stack([sound.pieces[0] for sound in batch])})
        decoding = session.decode(self.recipe.graphs["decoder"], crossed, len(prompt) + 1)
        ids = np.array([prompt] * len(batch), np.int64)
        return np.concatenate([decoding.step(ids), decoding.step(ids[:, :1])], axis=1)

    def flops(self, lengths: Sequence[int]) -> float | None:
        """Operations for encoding sounds that fill so many samples of whole windows, without the text."""
        window = (self.processor.window_s or 30.0) * self.processor.rate
        return float(self.settings["flops"] * sum(lengths) / window)


def _generation(module: Any) -> dict[str, Any]:
    """Prompt, stop tokens, languages and suppressed tokens, as transformers' `generate` reads them.

    The prompt holds None where the language belongs, if it is to be recognised.
    """
    own, config = module.generation_config, module.config

    def ask(name: str) -> Any:
        value = getattr(own, name, None)
        return value if value is not None else getattr(config, name, None)

    prompt: list[int | None] = [ask("decoder_start_token_id")]
    for place, token in ask("forced_decoder_ids") or ():
        if place == len(prompt):
            prompt.append(token)
    languages = getattr(own, "lang_to_id", None) or {}
    if languages and len(prompt) == 1:
        prompt.append(None)
    if not languages:
        prompt = [token for token in prompt if token is not None]
    silent = getattr(own, "no_timestamps_token_id", None)
    if silent is not None and prompt[-1] != silent:
        prompt.append(silent)
    return {
        "prompt": prompt,
        "stop": stops(ask("eos_token_id")),
        "languages": {str(token): name.strip("<|>") for name, token in languages.items()},
        "max_length": int(config.max_target_positions),
        "generation": {
            "suppress_tokens": list(ask("suppress_tokens") or ()),
            "begin_suppress_tokens": list(ask("begin_suppress_tokens") or ()),
        },
    }


def _graphs(module: Any) -> dict[str, TorchGraph]:
    import torch

    config, layers = module.config, module.model.decoder.layers
    heads, size = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
    source = config.max_source_positions

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = module.model.encoder
            self.attention = torch.nn.ModuleList(layer.encoder_attn for layer in layers)

        def forward(self, input_features: Any) -> tuple[Any, ...]:
            hidden = self.encoder(input_features).last_hidden_state
            shape = (hidden.shape[0], -1, heads, size)
            crossed = [p(hidden).view(shape).transpose(1, 2) for a in self.attention for p in (a.k_proj, a.v_proj)]
            return tuple(tensor.contiguous() for tensor in crossed)

    def call(model: Any, input_ids: Any, mask: Any, positions: Any, cache: Any, crossed: Sequence[Any]) -> Any:
        hidden = model.model.decoder(
            input_ids=input_ids,
            attention_mask=mask,
            # only says that there is an encoder: the cache holds its keys and values
            encoder_hidden_states=crossed[0],
            past_key_values=cache,
            position_ids=positions,
            use_cache=True,
        ).last_hidden_state
        return model.proj_out(hidden[:, -1:])

    frames = 2 * source
    spec = GraphSpec(
        "encoder",
        (TensorSpec("input_features", "float32", ("batch", config.num_mel_bins, frames)),),
        cross_specs(len(layers), heads, size, source),
    )
    features = torch.randn((BATCH, config.num_mel_bins, frames), generator=torch.Generator().manual_seed(0))
    return {
        "encoder": TorchGraph(spec, Encoder().eval(), {"input_features": features}),
        "decoder": decoder_graph(
            module,
            call,
            layers=len(layers),
            heads=heads,
            size=size,
            source=source,
            vocabulary=int(config.vocab_size),
        ),
    }
