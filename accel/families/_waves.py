"""Speech encoders that need one pass: letters by CTC, labels, embeddings (wav2vec 2.0, HuBERT, WavLM, AST)."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel.core.contracts import LoadedModel, Session, TorchGraph
from accel.core.errors import InputError
from accel.core.mel import SoundProcessor
from accel.core.sounds import load_sound, quiet_cuts
from accel.core.types import GraphSpec, Item, Model, Options, Recipe, TensorSpec
from accel.families._parts import Part
from accel.families._shared import (
    EXAMPLE_SOUND,
    encode_each,
    finite,
    labels_of,
    module_from,
    operations,
    ranked,
    read_labels,
    run_by_shape,
    sigmoid,
    softmax,
    sound_path,
    write_labels,
)

if TYPE_CHECKING:
    from accel.core.contracts import Array

#: longer sounds are cut at their quietest places: attention costs the square of the length
MOST_SECONDS = 30.0
#: shorter sounds end before the first frame of the usual feature encoders (25 ms)
LEAST_SAMPLES = 400
VOCABULARY = "vocabulary.json"


@dataclass(frozen=True)
class Sound:
    """Features of the pieces of a sound. `length` counts samples."""

    pieces: tuple[Array, ...]
    length: int


def encode_sound(item: Item, processor: SoundProcessor, most_s: float) -> Sound:
    """Reads a sound, cuts it into pieces of at most `most_s` seconds and computes their features."""
    import numpy as np

    samples = load_sound(sound_path(item), processor.rate)
    pieces = quiet_cuts(samples, processor.rate, most_s)
    padded = [np.pad(p, (0, max(0, LEAST_SAMPLES - len(p)))) for p in pieces]
    return Sound(tuple(processor(p) for p in padded), len(samples))


def several(pieces: Sequence[Any]) -> dict[str, int]:
    """Says in an answer that its sound was cut into pieces."""
    return {"pieces": len(pieces)} if len(pieces) > 1 else {}


def example_features(settings: dict[str, Any], batch: int = 2) -> tuple[Any, bool]:
    """Features (batch, ...) of part of the example sound as a torch tensor, and whether their length can vary."""
    import torch

    processor = SoundProcessor(settings)
    samples = load_sound(EXAMPLE_SOUND, processor.rate)[: processor.rate]
    features = processor(samples)
    varies = processor(samples[: len(samples) // 2]).shape != features.shape
    return torch.from_numpy(features)[None].repeat(batch, *[1] * features.ndim), varies


class Waves(Part):
    """One graph from `input_values` to the part's output."""

    auto_class: ClassVar[str]
    task: ClassVar[str]

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.core.sound_settings import freeze
        from accel.core.torch_models import load

        architectures = list(model.config.get("architectures") or ())
        unused = (r"(^|\.)pooler\.", r"masked_spec_embed")
        loaded = load(model, cls.auto_class, unused=unused, architectures=architectures)
        _plain_weights(loaded.module)
        settings: dict[str, Any] = {"processor": freeze(model.folder, model.config)}
        features, varies = example_features(settings["processor"])
        call, output = cls.graph(loaded.module, model, features)
        axes: tuple[int | str, ...] = ("batch", "samples") if varies else ("batch", *map(int, features.shape[1:]))
        spec = GraphSpec("model", (TensorSpec("input_values", "float32", axes),), (output,))
        names, remarks = cls.freeze(model, int(output.axes[-1]), settings, assets)
        graph = TorchGraph(spec, module_from(loaded.module, call), {"input_values": features})
        settings["flops"] = _operations(graph.module, features, varies)
        recipe = Recipe(family, cls.task, {"model": spec}, settings, names, (*loaded.notes, *remarks))
        return LoadedModel({"model": graph}, recipe, loaded.module)

    @classmethod
    @abstractmethod
    def graph(cls, module: Any, model: Model, features: Any) -> tuple[Callable[..., Any], TensorSpec]:
        """What the graph computes, and the spec of its output."""

    @classmethod
    def freeze(
        cls, model: Model, size: int, settings: dict[str, Any], assets: Path
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Adds to settings and assets; returns the assets' names and notes."""
        return (), ()

    @cached_property
    def processor(self) -> SoundProcessor:
        """The feature extractor that the recipe holds."""
        return SoundProcessor(self.settings["processor"])

    def example_items(self) -> list[Item]:
        return [Item(audio=str(EXAMPLE_SOUND))]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        most = self.processor.window_s or MOST_SECONDS
        return encode_each(items, lambda item: encode_sound(item, self.processor, most))

    def execute(
        self, session: Session, batch: Sequence[Sound], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        """One list of outputs for each sound, an output for each piece."""
        pieces = [piece for sound in batch for piece in sound.pieces]
        rows = run_by_shape(session, "model", [{"input_values": piece} for piece in pieces])
        outputs = iter(next(iter(row.values())) for row in rows)
        return [[next(outputs) for _ in sound.pieces] for sound in batch]

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        import numpy as np

        rows = [np.concatenate([o.ravel() for o in row]) for row in self.execute(session, batch, Options(), None)]
        width = max(map(len, rows))
        return np.stack([np.pad(row, (0, width - len(row))) for row in rows]).astype(np.float64)

    def flops(self, lengths: Sequence[int]) -> float | None:
        """Operations for sounds of so many samples, each in pieces of at most the model's window."""
        c2, c1, c0 = self.settings["flops"]
        most = int((self.processor.window_s or MOST_SECONDS) * self.processor.rate)
        pieces = [n for length in lengths for n in (*[most] * (length // most), length % most) if n]
        return float(sum(c2 * n * n + c1 * n + c0 for n in pieces))


def _operations(module: Any, features: Any, varies: bool) -> list[float]:
    """Coefficients (c2, c1, c0) of the operations for a sound of so many samples."""
    import numpy as np

    if not varies:
        return [0.0, 0.0, operations(module, [features[:1]])]
    lengths = [features.shape[1] // 4, features.shape[1] // 2, features.shape[1]]
    counts = [operations(module, [features[:1, :length]]) for length in lengths]
    return [float(c) for c in np.polyfit(lengths, counts, 2)]


def _logits(module: Any, values: Any) -> tuple[Any, ...]:
    return (module(values).logits,)


def _once(module: Any, call: Callable[..., Any], features: Any, model: Model) -> Any:
    import torch

    try:
        with torch.no_grad():
            return call(module, features)[0]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"{model.name} cannot run on a sound: {error}", "check its config.json") from error


def _plain_weights(module: Any) -> None:
    """Replaces weights that are computed from others (weight norm) by their values, which cannot change any more."""
    from torch.nn.utils import parametrize

    for child in module.modules():
        if parametrize.is_parametrized(child):
            for name in list(child.parametrizations):
                parametrize.remove_parametrizations(child, name, leave_parametrized=True)


class Letters(Waves):
    """Speech recognition by connectionist temporal classification (Graves et al. 2006), best path."""

    name = "ctc"
    task = "automatic-speech-recognition"
    auto_class = "AutoModelForCTC"

    @classmethod
    def graph(cls, module: Any, model: Model, features: Any) -> tuple[Callable[..., Any], TensorSpec]:
        size = int(_once(module, _logits, features, model).shape[-1])
        return _logits, TensorSpec("logits", "float32", ("batch", "frames", size))

    @classmethod
    def freeze(
        cls, model: Model, size: int, settings: dict[str, Any], assets: Path
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        vocabulary, letters, notes = _vocabulary(model, size)
        settings["letters"] = letters
        (assets / VOCABULARY).write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        return (VOCABULARY,), notes

    @cached_property
    def vocabulary(self) -> list[str]:
        """The token of each id."""
        assert self.assets is not None
        return [str(t) for t in json.loads((self.assets / VOCABULARY).read_text(encoding="utf-8"))]

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        texts = ([self.text(finite(logits).argmax(axis=-1)) for logits in pieces] for pieces in outputs)
        return [{"text": " ".join(filter(None, pieces)), **several(pieces)} for pieces in texts]

    def text(self, ids: Array) -> str:
        """The text of the likeliest token of each frame: repeats collapse, blanks go."""
        letters = self.settings["letters"]
        kept = [int(i) for n, i in enumerate(ids) if (n == 0 or i != ids[n - 1]) and int(i) != letters["blank"]]
        tokens = (self.vocabulary[i] if i < len(self.vocabulary) else "" for i in kept)
        text = "".join(" " if token == letters["delimiter"] else token for token in tokens).strip()
        text = text.lower() if letters["lower"] else text
        if letters["clean_up"]:
            for spaced in (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're"):
                text = text.replace(spaced, spaced[1:])
        return text


def _vocabulary(model: Model, size: int) -> tuple[list[str], dict[str, Any], tuple[str, ...]]:
    """Tokens by id, how they become text, and notes."""
    import transformers

    blank = int(model.config.get("pad_token_id") or 0)
    if model.folder is None or not (model.folder / "vocab.json").is_file():
        return (
            [f"<{i}>" for i in range(size)],
            {"blank": blank, "delimiter": "|", "lower": False, "clean_up": False},
            ("token numbers in place of the model's own letters, which are not to be had",),
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model.folder, local_files_only=True)
        tokens = [str(t) for t in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    except Exception as error:  # tokenizer files are parsed by several libraries with their own exceptions
        raise InputError(
            f"the vocabulary in {model.folder} cannot be read: {error}", "download the model again"
        ) from error
    letters = {
        "blank": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else blank,
        "delimiter": getattr(tokenizer, "word_delimiter_token", None) or "|",
        "lower": bool(getattr(tokenizer, "do_lower_case", False)),
        "clean_up": bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)),
    }
    return tokens, letters, ()


class Labels(Waves):
    """What kind of sound it is."""

    name = "labels"
    task = "audio-classification"
    auto_class = "AutoModelForAudioClassification"

    @classmethod
    def graph(cls, module: Any, model: Model, features: Any) -> tuple[Callable[..., Any], TensorSpec]:
        size = int(_once(module, _logits, features, model).shape[-1])
        return _logits, TensorSpec("logits", "float32", ("batch", size))

    @classmethod
    def freeze(
        cls, model: Model, size: int, settings: dict[str, Any], assets: Path
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        labels, notes = labels_of(model, size)
        # AudioSet models hear several things at once; transformers' pipeline says so through problem_type only
        settings["multiple"] = model.config.get("problem_type") == "multi_label_classification"
        return (write_labels(assets, labels),), notes

    @cached_property
    def labels(self) -> list[str]:
        """The names of the classes."""
        return read_labels(self.assets)

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        """Scores of the whole sound: the mean over its pieces."""
        import numpy as np

        scores = sigmoid if self.settings["multiple"] else softmax
        results = []
        for pieces in outputs:
            mean = np.mean([scores(finite(logits)) for logits in pieces], axis=0)
            results.append({"labels": ranked(mean, self.labels, options.top_k), **several(pieces)})
        return results


class Embeddings(Waves):
    """One vector for a sound: the model's pooled output, or the mean of its frames."""

    name = "embeddings"
    task = "audio-feature-extraction"
    auto_class = "AutoModel"

    @classmethod
    def graph(cls, module: Any, model: Model, features: Any) -> tuple[Callable[..., Any], TensorSpec]:
        def pooled(m: Any, values: Any) -> tuple[Any, ...]:
            return (m(values).pooler_output,)

        def mean(m: Any, values: Any) -> tuple[Any, ...]:
            return (m(values).last_hidden_state.mean(dim=1),)

        call = pooled if model.config.get("model_type") == "audio-spectrogram-transformer" else mean
        size = int(_once(module, call, features, model).shape[-1])
        return call, TensorSpec("embeddings", "float32", ("batch", size))

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        """The mean over the pieces of each sound."""
        import numpy as np

        means = (np.mean([finite(v) for v in pieces], axis=0).tolist() for pieces in outputs)
        return [{"embedding": mean, **several(pieces)} for mean, pieces in zip(means, outputs, strict=True)]
