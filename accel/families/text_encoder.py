"""Text encoders (BERT and its kin): embeddings, filled masks, labels of texts and of words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, ModelPlugin, Session
from accel.core.decoding import NotANumber
from accel.core.errors import AccelError, IncompatibleError, InputError
from accel.core.tokenization import Encoded, Frozen, Tokenizer
from accel.core.types import Item, Model, Options, Recipe
from accel.families._shared import finite, labels_of, ranked, sigmoid, softmax

if TYPE_CHECKING:
    from accel.core.contracts import Array

AUTO_CLASSES = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
EXAMPLES = {
    "feature-extraction": "A cat sits on the mat.",
    "fill-mask": "Paris is the [MASK] of France.",
    "text-classification": "I really liked this film.",
    "token-classification": "Marie Curie was born in Warsaw and worked in Paris.",
}
#: how people write a mask, whatever their model calls it
MASK_WORDS = ("[MASK]", "<mask>")
MODEL_TYPES = {
    "albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "data2vec-text", "deberta",
    "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert",
    "jina_embeddings_v3", "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet", "mra",
    "neobert", "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "splinter", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
}  # fmt: skip
#: endings of `architectures` and the task that they were trained for
ENDINGS = {
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "WithLMHeadModel": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
}


@dataclass(slots=True)
class _Input:
    """One encoded text; `masks` are positions of mask tokens (fill-mask only)."""

    tokens: Encoded
    length: int
    masks: list[int]


class TextEncoder(ModelPlugin):
    """Embeddings, filled masks and labels from any encoder that transformers' auto classes know."""

    name = "text-encoder"
    tasks = tuple(AUTO_CLASSES)

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        """From the ending of the architecture's name; embeddings for a model without a head."""
        if config.get("model_type") not in MODEL_TYPES:
            return None
        name = next(iter(config.get("architectures") or ()), "")
        if config.get("model_type") == "electra" and name.endswith("ForPreTraining"):
            return "feature-extraction"  # a discriminator, which tells true tokens from replaced ones
        return next((task for ending, task in ENDINGS.items() if name.endswith(ending)), "feature-extraction")

    def load_model(self, model: Model, assets: Path) -> LoadedModel:
        """See `ModelPlugin.load_model`."""
        from accel.core import torch_models
        from accel.families._sentence import SentenceSettings, pooling_module
        from accel.families._text_graphs import capacity, encoder_graph, operations, pads

        if model.task not in AUTO_CLASSES:
            raise IncompatibleError(
                f"text encoders do not do {model.task!r}", f"choose --task from {', '.join(self.tasks)}"
            )
        embeds = model.task == "feature-extraction"
        sentence = SentenceSettings(model) if embeds else None
        pooling = pooling_module(sentence.steps) if sentence else None
        loaded = torch_models.load(model, AUTO_CLASSES[model.task], unused=("pooler", "position_ids") if embeds else ())
        module, config = loaded.module, loaded.module.config
        limit = capacity(module)
        if sentence and sentence.max_length:
            limit = min(limit or sentence.max_length, sentence.max_length)
        frozen, type_ids = _freeze_tokenizer(model, module, assets, limit)
        with torch_models.quiet():
            graph = encoder_graph(module, model.task, pooling, pad_id=frozen.settings["pad_id"], type_ids=type_ids)
        unnamed: tuple[str, ...] = ()
        settings: dict[str, Any] = {
            "tokenizer": frozen.settings,
            "vocabulary": int(module.get_input_embeddings().num_embeddings),
            "prompt": sentence.prompt if sentence else "",
            "pads": pads(graph),
            "flops": operations(graph),
        }
        if not embeds and model.task != "fill-mask":
            settings["labels"], unnamed = labels_of(model, int(graph.spec.outputs[0].axes[-1]))
            settings["scores"] = _scores(config, model.task)
        notes = (*loaded.notes, *frozen.notes, *unnamed)
        recipe = Recipe(self.name, model.task, {"model": graph.spec}, settings, ("tokenizer.json",), notes)
        return LoadedModel({"model": graph}, recipe, module)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer, read on first use."""
        assert self.recipe is not None and self.assets is not None
        return Tokenizer(self.assets, self.recipe.settings["tokenizer"])

    @functools.cached_property
    def _task(self) -> str:
        assert self.recipe is not None
        return self.recipe.task

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        assert self.recipe is not None
        return self.recipe.settings

    @functools.cached_property
    def _feeds(self) -> tuple[str, ...]:
        assert self.recipe is not None
        return tuple(tensor.name for tensor in self.recipe.graphs["model"].inputs)

    def example_items(self) -> list[Item]:
        """One sentence; for fill-mask with the tokenizer's own mask token."""
        return [Item(text=EXAMPLES[self._task])]

    def preprocess_inputs(self, inputs: Sequence[Item], options: Options) -> list[Any]:
        """See `ModelPlugin.preprocess_inputs`."""
        texts = [self._text_of(item) for item in inputs]
        usable = [text for text in texts if isinstance(text, str)]
        details = self._task == "token-classification"
        encoded = iter(self.tokenizer.encode(usable, truncate=options.truncate, details=details) if usable else ())
        return [self._input(next(encoded)) if isinstance(text, str) else text for text in texts]

    def _text_of(self, item: Item) -> str | AccelError:
        if item.text is None:
            return InputError(f"{self._task} needs a text", "give one with --input")
        text: str = self._settings["prompt"] + item.text
        if self._task == "fill-mask":
            mask = self.tokenizer.special_text("mask")
            for word in MASK_WORDS:
                text = text.replace(word, mask or word)
            if mask is None:
                return InputError("the tokenizer of this model has no mask token", "choose another --task")
            if mask not in text:
                return InputError(f"the text has no {mask}", f"put {mask} where a word is missing")
        return text

    def _input(self, tokens: Encoded | AccelError) -> _Input | AccelError:
        if isinstance(tokens, AccelError):
            return tokens
        if not tokens.ids:
            return InputError("the input is empty, there are no tokens in it", "give a text")
        if max(tokens.ids) >= self._settings["vocabulary"]:
            return InputError(
                f"the tokenizer gives token {max(tokens.ids)}, the model knows {self._settings['vocabulary']} tokens",
                "use the tokenizer that came with the model",
            )
        masks: list[int] = []
        if self._task == "fill-mask":
            wanted = self.tokenizer.special_id("mask")
            masks = [i for i, token in enumerate(tokens.ids) if token == wanted]
            if not masks:
                return InputError("the mask was cut off with the end of the text", "give a shorter text")
        return _Input(tokens, tokens.length, masks)

    def execute(
        self, session: Session, batch: Sequence[Any], options: Options, emit: Callable[[str], None] | None = None
    ) -> list[Any]:
        """See `ModelPlugin.execute`. Pads on the right; a model that padding disturbs runs once per length."""
        if self._settings["pads"]:
            return list(self._run(session, batch))
        results: list[Any] = [None] * len(batch)
        for length in {item.length for item in batch}:
            rows = [row for row, item in enumerate(batch) if item.length == length]
            for row, output in zip(rows, self._run(session, [batch[row] for row in rows]), strict=True):
                results[row] = output
        return results

    def _run(self, session: Session, batch: Sequence[_Input]) -> Array:
        feeds = self.tokenizer.pad([item.tokens for item in batch])
        if self._task == "fill-mask":
            import numpy as np

            feeds["mask_positions"] = np.zeros((len(batch), max(len(item.masks) for item in batch)), np.int64)
            for row, item in enumerate(batch):
                feeds["mask_positions"][row, : len(item.masks)] = item.masks
        outputs = session.run("model", {name: feeds[name] for name in self._feeds})
        return next(iter(outputs.values()))

    def postprocess_outputs(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[Any]:
        """Answers: `embedding`; `masks` and `text`; `labels`; or `entities`. A `NotANumber` stands for a broken one."""
        answer = getattr(self, "_" + self._task.replace("-", "_"))
        results: list[Any] = []
        for output, item in zip(outputs, batch, strict=True):
            try:
                results.append(answer(finite(output[: item.length] if output.ndim > 1 else output), item, options))
            except NotANumber as error:
                results.append(error)
        return results

    def _feature_extraction(self, output: Array, item: _Input, options: Options) -> dict[str, Any]:
        # eight decimals keep every digit that fp32 has in numbers below one, and print three times faster
        return {"embedding": output.astype(float).round(8).tolist()}

    def _fill_mask(self, output: Array, item: _Input, options: Options) -> dict[str, Any]:
        text, mask = item.tokens.text, self.tokenizer.special_text("mask") or ""
        masks: list[list[dict[str, Any]]] = []
        for logits in output[: len(item.masks)]:
            scores = softmax(logits)
            best = _top(scores, max(1, options.top_k))
            masks.append([{"token": self.tokenizer.decode([i]).strip(), "score": float(scores[i])} for i in best])
            word = str(masks[-1][0]["token"])
            text = text.replace(f" {mask}", word[2:], 1) if word.startswith("##") else text.replace(mask, word, 1)
        return {"masks": masks, "text": text}

    def _text_classification(self, output: Array, item: _Input, options: Options) -> dict[str, Any]:
        kind = self._settings["scores"]
        scores = softmax(output) if kind == "softmax" else sigmoid(output) if kind == "sigmoid" else output
        return {"labels": ranked(scores, self._settings["labels"], options.top_k)}

    def _token_classification(self, output: Array, item: _Input, options: Options) -> dict[str, Any]:
        return {"entities": _entities(softmax(output), item.tokens, self._settings["labels"])}

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        """Embeddings or logits, one row each; what belongs to padding is left out."""
        import numpy as np

        rows = []
        for output, item in zip(self.execute(session, batch, Options()), batch, strict=True):
            count = {"fill-mask": len(item.masks), "token-classification": item.length}.get(self._task)
            rows.append(output[:count].ravel())
        width = max(row.size for row in rows)
        return np.stack([np.pad(row, (0, width - row.size)) for row in rows])

    def flops(self, lengths: Sequence[int]) -> float | None:
        """Operations for these texts without their padding."""
        c2, c1, c0 = self._settings["flops"]
        return float(sum(c2 * n * n + c1 * n + c0 for n in lengths))


def _freeze_tokenizer(model: Model, module: Any, assets: Path, limit: int | None) -> tuple[Frozen, bool]:
    """The frozen tokenizer, and whether the model has to be told token types."""
    import inspect

    from accel.core import tokenization, torch_models

    tokenizer = torch_models.load_tokenizer(model)
    if tokenizer is None:
        config = module.config
        ids = {name: getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep", "mask")}
        vocabulary = int(module.get_input_embeddings().num_embeddings)
        return tokenization.freeze_substitute(assets, vocabulary, ids, kind="encoder", max_length=limit), False
    frozen = tokenization.freeze(tokenizer, assets, max_length=limit)
    takes = "token_type_ids" in inspect.signature(module.forward).parameters
    return frozen, takes and any(tokenizer("a b", return_token_type_ids=True)["token_type_ids"])


def _scores(config: Any, task: str) -> str:
    """How logits become scores, as in transformers' pipelines."""
    if task == "token-classification":
        return "softmax"
    if getattr(config, "problem_type", None) == "regression":
        return "raw"
    one = config.num_labels == 1 or getattr(config, "problem_type", None) == "multi_label_classification"
    return "sigmoid" if one else "softmax"


def _top(scores: Array, count: int) -> list[int]:
    """Indices of the largest values, largest first, without sorting the whole vocabulary."""
    import numpy as np

    count = min(count, len(scores))
    candidates = np.argpartition(scores, -count)[-count:]
    return [int(i) for i in candidates[np.lexsort((candidates, -scores[candidates]))]]


def _entities(scores: Array, tokens: Encoded, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Neighbouring tokens of one entity as one span with the mean of their scores (`B-x` and `I-x` are both x)."""
    assert tokens.offsets is not None and tokens.special is not None
    spans: list[dict[str, Any]] = []
    previous = ""
    for row, (start, end), special in zip(scores, tokens.offsets, tokens.special, strict=True):
        best = int(row.argmax())
        label = "O" if special else labels[best]
        kind = label[2:] if label[:2] in ("B-", "I-") else label
        if label != "O":
            if spans and kind == previous and not label.startswith("B-"):
                spans[-1]["end"] = end
                spans[-1]["scores"].append(float(row[best]))
            else:
                spans.append({"label": kind, "start": start, "end": end, "scores": [float(row[best])]})
        previous = "" if label == "O" else kind
    return [
        {
            "label": span["label"],
            "score": sum(span["scores"]) / len(span["scores"]),
            "start": span["start"],
            "end": span["end"],
            "text": tokens.text[span["start"] : span["end"]],
        }
        for span in spans
    ]


PLUGIN = TextEncoder
