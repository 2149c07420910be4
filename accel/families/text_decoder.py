"""Text decoders (GPT-2, Llama, Qwen and their kin): text that goes on from a prompt."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, ModelPlugin, Session
from accel.core.decoding import Generated, choice_from, generate
from accel.core.errors import AccelError, IncompatibleError, InputError
from accel.core.tokenization import Encoded, Frozen, Tokenizer
from accel.core.types import Item, Model, Options, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import Array

DEFAULT_NEW_TOKENS = 64
EXAMPLE = "The capital of France is"
#: endings of `architectures` that stand for a causal language model
ENDINGS = ("ForCausalLM", "LMHeadModel")
#: model types that are decoders even where a configuration names no architecture
MODEL_TYPES = {
    "bloom", "codegen", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "exaone4", "falcon", "gemma", "gemma2",
    "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite",
    "helium", "llama", "ministral", "mistral", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "openai-gpt",
    "opt", "persimmon", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
    "xglm",
}  # fmt: skip
#: architectures with these endings whose inputs are more than text
NOT_TEXT = {"git", "trocr", "speech_to_text_2", "bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie",
            "rembert", "roformer", "big_bird", "megatron-bert", "data2vec-text", "xlm", "whisper", "fuyu",
            "xmod", "roberta-prelayernorm", "roc_bert", "bert-generation", "xlm-roberta-xl", "flaubert",
            "xlm-prophetnet", "prophetnet", "marian", "pegasus", "bart", "mbart", "musicgen", "moshi",
            "plbart", "blenderbot", "blenderbot-small", "mvp", "bigbird_pegasus"}  # fmt: skip


@dataclass(slots=True)
class _Prompt:
    """One encoded prompt and how many tokens may follow it."""

    tokens: Encoded
    length: int
    new_tokens: int
    index: int


class TextDecoder(ModelPlugin):
    """Text generation with any causal language model of transformers that keeps keys and values."""

    name = "text-decoder"
    tasks = ("text-generation",)

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        """`text-generation` for causal language models."""
        kind = config.get("model_type")
        name = next(iter(config.get("architectures") or ()), "")
        known = kind in MODEL_TYPES and (not name or name.endswith((*ENDINGS, "Model")))
        generic = name.endswith(ENDINGS) and kind not in NOT_TEXT
        return "text-generation" if known or generic else None

    def load_model(self, model: Model, assets: Path) -> LoadedModel:
        """See `ModelPlugin.load_model`."""
        from accel.core import torch_models
        from accel.families._decoder_graph import decoder_graph

        if model.task not in self.tasks:
            raise IncompatibleError(f"text decoders do not do {model.task!r}", "leave --task out")
        with torch_models.reading(model):
            loaded = torch_models.load(model, "AutoModelForCausalLM")
            module = loaded.module
            vocabulary = int(module.get_input_embeddings().num_embeddings)
            frozen = _freeze_tokenizer(model, module, vocabulary, assets)
        limit = _positions(module.config)
        with torch_models.quiet():
            graph = decoder_graph(module, model.name, vocabulary)
        settings = {
            "tokenizer": frozen.settings,
            "architecture": type(module).__name__,
            "vocabulary": vocabulary,
            "positions": limit,
            "window": getattr(module.config.get_text_config(), "sliding_window", None),
            "stop": _stop_tokens(module, frozen),
            "generation": _generation_settings(module),
            "flops": _operations(module, graph.spec.inputs),
        }
        notes = (*loaded.notes, *frozen.notes)
        recipe = Recipe(self.name, model.task, {"model": graph.spec}, settings, ("tokenizer.json",), notes)
        return LoadedModel({"model": graph}, recipe, module)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer, read on first use."""
        assert self.assets is not None
        return Tokenizer(self.assets, self._settings["tokenizer"])

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        assert self.recipe is not None
        return self.recipe.settings

    def example_items(self) -> list[Item]:
        """A prompt whose continuation anyone can check."""
        return [Item(text=EXAMPLE)]

    def preprocess_inputs(self, inputs: Sequence[Item], options: Options) -> list[Any]:
        """See `ModelPlugin.preprocess_inputs`. With `options.chat` the text becomes the user's message of a chat.

        A prompt that leaves no room for the wanted tokens is an `InputError`; with `options.truncate` its beginning
        is cut off instead.
        """
        texts = [self._text_of(item, options) for item in inputs]
        usable = [text for text in texts if isinstance(text, str)]
        room = self._room(options) if options.truncate else None
        if isinstance(room, AccelError):
            return [room for _ in inputs]
        encoded = iter(
            self.tokenizer.encode(usable, truncate=room is not None, max_length=room, add_special=not options.chat)
            if usable
            else ()
        )
        results: list[Any] = []
        for item, text in zip(inputs, texts, strict=True):
            tokens = next(encoded) if isinstance(text, str) else text
            results.append(self._prompt(item.index, tokens, options))
        return results

    def _text_of(self, item: Item, options: Options) -> str | AccelError:
        if item.text is None:
            return InputError("text generation needs a prompt", "give one with --input")
        if not options.chat:
            return item.text
        try:
            return self.tokenizer.render_chat([{"role": "user", "content": item.text}])
        except InputError as error:
            return error

    def _room(self, options: Options) -> int | AccelError | None:
        """Tokens that a prompt may have if the wanted number of new ones is to fit after it."""
        limit, wanted = self._settings["positions"], options.max_new_tokens or DEFAULT_NEW_TOKENS
        if limit is None:
            return None
        if options.max_new_tokens is None:
            wanted = min(wanted, limit // 2)
        if wanted >= limit:
            return InputError(
                f"{wanted} new tokens were asked for, and the model has {limit} positions for prompt and text together",
                f"ask for fewer with --max-new-tokens, at most {limit - 1}",
            )
        return int(limit - wanted)

    def _prompt(self, index: int, tokens: Encoded | AccelError, options: Options) -> _Prompt | AccelError:
        if isinstance(tokens, AccelError):
            return tokens
        if not tokens.ids:
            return InputError("the prompt is empty, there is nothing to go on from", "give a text")
        if max(tokens.ids) >= self._settings["vocabulary"]:
            return InputError(
                f"the tokenizer gives token {max(tokens.ids)}, the model knows {self._settings['vocabulary']} tokens",
                "use the tokenizer that came with the model",
            )
        limit, wanted = self._settings["positions"], options.max_new_tokens
        if limit is not None:
            room = limit - tokens.length
            if room < (wanted or 1):
                together = f" and {wanted} new tokens were asked for" if wanted else ""
                return InputError(
                    f"the prompt has {tokens.length} tokens{together}, and the model has {limit} positions for both",
                    "ask for fewer new tokens, shorten the prompt, or cut its beginning with --truncate",
                    {"tokens": tokens.length, "limit": limit},
                )
            wanted = wanted or min(DEFAULT_NEW_TOKENS, room)
        return _Prompt(tokens, tokens.length, wanted or DEFAULT_NEW_TOKENS, index)

    def execute(
        self, session: Session, batch: Sequence[Any], options: Options, emit: Callable[[str], None] | None = None
    ) -> list[Any]:
        """See `ModelPlugin.execute`. Pads prompts on the left; `emit` takes the text of a single prompt."""
        feeds = self.tokenizer.pad([prompt.tokens for prompt in batch], "left")
        stream = self.tokenizer.stream() if emit is not None and len(batch) == 1 else None

        def show(_: int, token: int) -> None:
            if stream is not None and emit is not None:
                piece = stream.push(token)
                if piece:
                    emit(piece)

        assert self.recipe is not None
        longest = feeds["input_ids"].shape[1]
        decoding = session.decode(self.recipe.graphs["model"], {}, longest + max(prompt.new_tokens for prompt in batch))
        generated = generate(
            decoding,
            feeds["input_ids"],
            feeds["attention_mask"],
            max_new_tokens=[prompt.new_tokens for prompt in batch],
            stop=self._settings["stop"],
            choice=choice_from(self._settings["generation"], options.temperature, options.seed),
            rows=[prompt.index for prompt in batch],
            pad_id=self.tokenizer.pad_id,
            on_token=show if stream is not None else None,
        )
        if stream is not None and emit is not None and (rest := stream.finish()):
            emit(rest)
        return generated

    def postprocess_outputs(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[Any]:
        """Answers: `text` without the prompt, `new_tokens`, and `finish`: `stop` or `length`."""
        return [self._answer(generated) for generated in outputs]

    def _answer(self, generated: Generated) -> dict[str, Any] | AccelError:
        if generated.error is not None:
            return generated.error
        return {
            "text": self.tokenizer.decode(generated.tokens),
            "new_tokens": len(generated.tokens),
            "finish": "stop" if generated.ended else "length",
        }

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        """Logits after the prompt and after each of two fixed tokens, so that prompt and cache are both compared."""
        import numpy as np

        assert self.recipe is not None
        feeds = self.tokenizer.pad([prompt.tokens for prompt in batch], "left")
        decoding = session.decode(self.recipe.graphs["model"], {}, feeds["input_ids"].shape[1] + 2)
        steps = [decoding.step(feeds["input_ids"], feeds["attention_mask"])]
        for position in (0, 1):
            again = np.array([[prompt.tokens.ids[position % prompt.length]] for prompt in batch], np.int64)
            steps.append(decoding.step(again))
        return np.concatenate(steps, axis=1)

    def flops(self, lengths: Sequence[int]) -> float | None:
        """Operations for reading prompts of these lengths, without new tokens; None for mixtures of experts."""
        if self._settings["flops"] is None:
            return None
        c2, c1, c0 = self._settings["flops"]
        return float(sum(c2 * n * n + c1 * n + c0 for n in lengths))


def _freeze_tokenizer(model: Model, module: Any, vocabulary: int, assets: Path) -> Frozen:
    from accel.core import tokenization, torch_models

    tokenizer = torch_models.load_tokenizer(model)
    if tokenizer is None:
        config = module.config.get_text_config()
        ids = {name: _single(getattr(config, f"{name}_token_id", None)) for name in ("pad", "bos", "eos")}
        frozen = tokenization.freeze_substitute(assets, vocabulary, ids, kind="decoder")
    else:
        frozen = tokenization.freeze(tokenizer, assets)
    # a prompt goes on at its end, so that is the part to keep; the model's own positions are the limit
    return Frozen({**frozen.settings, "truncation_side": "left", "max_length": None}, frozen.notes)


def _single(ids: Any) -> int | None:
    return ids[0] if isinstance(ids, (list, tuple)) and ids else ids if isinstance(ids, int) else None


def _positions(config: Any) -> int | None:
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def _stop_tokens(module: Any, frozen: Frozen) -> list[int]:
    """End tokens of the generation settings, else of the configuration."""
    for source in (getattr(module, "generation_config", None), module.config.get_text_config()):
        found = getattr(source, "eos_token_id", None)
        if isinstance(found, int):
            return [found]
        if found:
            return [int(i) for i in found]
    return []


def _generation_settings(module: Any) -> dict[str, Any]:
    """What transformers' `generate` would apply even when greedy."""
    settings = getattr(module, "generation_config", None)
    names = ("repetition_penalty", "suppress_tokens", "begin_suppress_tokens")
    return {name: value for name in names if (value := getattr(settings, name, None))}


def _operations(module: Any, inputs: Sequence[Any]) -> list[float] | None:
    """Coefficients (c2, c1, c0) of the operations for a prompt's length.

    Two operations per weight of every matrix and token, except that the vocabulary's matrix is applied to the last
    token alone; attention scores and their use take 4 x heads x head size per pair of tokens and layer.
    """
    import torch

    config = module.config.get_text_config()
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    head = module.get_output_embeddings()
    tables = {id(p) for part in module.modules() if isinstance(part, torch.nn.Embedding) for p in part.parameters()}
    if head is not None:
        tables.add(id(head.weight))
    inner = sum(p.numel() for p in module.parameters() if p.dim() >= 2 and id(p) not in tables)
    last = head.weight.numel() if head is not None else 0
    layers = sum(tensor.name.endswith(".key") for tensor in inputs)
    size = getattr(config, "head_dim", None)
    width = config.num_attention_heads * size if size else config.hidden_size
    return [4.0 * width * layers, 2.0 * inner, 2.0 * last]


PLUGIN = TextDecoder
