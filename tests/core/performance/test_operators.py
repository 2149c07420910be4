"""Operations against values derived by hand from the published architectures, and the laws that graphs obey."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accel.core.errors import AccelError, IncompatibleError, InputError
from accel.core.performance.graphs import graph_of, layers_of, resolve
from accel.core.performance.memory import memory_of
from accel.core.performance.operators import Operator, OperatorGraph, Tensor, flops_of
from accel.core.performance.tracing import Tracer
from accel.core.types import Options


def phase_flops(graph: OperatorGraph, phase: str) -> float:
    """Operations of all executions of a phase."""
    return sum(op.count * op.flops for op in graph.of_phase(phase))


def layer(tokens: int, width: int, inner: int) -> float:
    """One transformer layer: four projections, two products of the feed-forward part, scores and their use."""
    return 2.0 * tokens * (4 * width**2 + 2 * width * inner) + 4.0 * tokens**2 * width


def test_bert_base_by_hand() -> None:
    """12 layers of width 768 over 128 tokens; the head transforms every token and scores the vocabulary for one."""
    head = 2.0 * 128 * 768**2 + 2.0 * 768 * 30522
    expected = 12 * layer(128, 768, 3072) + head
    assert 12 * layer(128, 768, 3072) == pytest.approx(22.35e9, rel=1e-3)
    assert graph_of(resolve("bert-base"), 1, 128).flops == pytest.approx(expected, rel=0.005)
    assert graph_of(resolve("bert-base"), 4, 128).flops == pytest.approx(4 * expected, rel=0.005)


def test_gpt2_by_hand() -> None:
    """Prompt and steps apart: a step is one token that attends to all before it, with the vocabulary's matrix each."""
    graph = graph_of(resolve("gpt2"), 1, 128, new_tokens=33)
    head = 2.0 * 768 * 50257
    assert phase_flops(graph, "prefill") == pytest.approx(12 * layer(128, 768, 3072) + head, rel=0.005)
    one = 12 * (2.0 * (4 * 768**2 + 2 * 768 * 3072) + 4.0 * (128 + 16) * 768) + head
    assert graph.calls["decode"] == 32
    assert phase_flops(graph, "decode") == pytest.approx(32 * one, rel=0.005)
    assert graph.cache_bytes == 2 * 12 * 4 * 768 * (128 + 32)


def test_vit_base_by_hand() -> None:
    """196 patches of 16 x 16 x 3 and one more token through 12 layers, then 1000 classes."""
    expected = 2.0 * 196 * (16 * 16 * 3) * 768 + 12 * layer(197, 768, 3072) + 2.0 * 768 * 1000
    assert graph_of(resolve("vit-base")).flops == pytest.approx(expected, rel=0.005)


def test_resnet_50_by_hand() -> None:
    """He et al. 2015, table 1; the stride of a stage is in its first 3 x 3 convolution."""
    total = 2.0 * 112 * 112 * 64 * 7 * 7 * 3
    before = 64
    for blocks, width, side in ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)):
        for block in range(blocks):
            enters = side * (2 if block == 0 and width > 64 else 1)
            total += 2.0 * enters**2 * before * width
            total += 2.0 * side**2 * 9 * width**2 + 2.0 * side**2 * width * 4 * width
            if block == 0:
                total += 2.0 * side**2 * before * 4 * width
            before = 4 * width
    total += 2.0 * 2048 * 1000
    assert total == pytest.approx(8.18e9, rel=0.005)
    assert graph_of(resolve("resnet-50")).flops == pytest.approx(total, rel=0.005)


def test_whisper_tiny_encoder_by_hand() -> None:
    """Two convolutions over 3000 frames of 80 bins, 4 layers of width 384 over 1500 positions, and the keys and values
    that the decoder's 4 layers take from them."""
    graph = graph_of(resolve("whisper-tiny"))
    convolutions = 2.0 * 3000 * 384 * 80 * 3 + 2.0 * 1500 * 384 * 384 * 3
    crossed = 4 * 2 * 2.0 * 1500 * 384**2
    expected = convolutions + 4 * layer(1500, 384, 1536) + crossed
    assert phase_flops(graph, "encoder") == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Operator("matmul", "", "", (Tensor((7, 5)), Tensor((5, 3))), (Tensor((7, 3)),)), 2 * 7 * 5 * 3),
        (Operator("matmul", "", "", (Tensor((4, 7, 5)), Tensor((4, 5, 3))), (Tensor((4, 7, 3)),)), 8 * 7 * 5 * 3),
        (
            Operator("convolution", "", "", (Tensor((1, 8, 9, 9)), Tensor((8, 1, 3, 3))), (Tensor((1, 8, 7, 7)),)),
            2 * 8 * 49 * 9,
        ),
        (
            Operator(
                "convolution", "", "", (Tensor((1, 4, 5, 5)), Tensor((4, 6, 2, 2))), (Tensor((1, 6, 10, 10)),),
                {"transposed": True},
            ),
            2 * 100 * 6 * 4,
        ),
        (
            Operator("attention", "", "", (Tensor((2, 3, 5, 8)), Tensor((2, 1, 9, 8)), Tensor((2, 1, 9, 4))), ()),
            2 * 30 * 9 * 12,
        ),
        (Operator("elementwise", "", "", (Tensor((9,)),), (Tensor((9,)),)), 0),
    ],
)  # fmt: skip
def test_formulas(op: Operator, expected: float) -> None:
    """Depthwise: one input channel for each; transposed: every input meets every weight of its channel; attention with
    fewer heads of keys than of queries: the queries count."""
    assert flops_of(op) == expected


@pytest.mark.parametrize(
    ("name", "batch", "length"), [("distilbert", 5, 50), ("distilgpt2", 4, 33), ("yolos-tiny", 4, None)]
)
def test_sizes_that_were_not_traced_are_as_if_they_were(name: str, batch: int, length: int | None) -> None:
    """A template says for other sizes what a trace of these sizes says."""
    model = resolve(name)
    graph_of(model, 1, length)
    graph = graph_of(model, batch, length)
    tracer = Tracer(model)
    try:
        direct = tracer.workload(batch, length, Options(max_new_tokens=32))
    finally:
        tracer.close()
    assert graph.flops == sum(op.count * op.flops for op in direct.operators)
    assert graph.bytes_read == sum(op.count * op.bytes_read for op in direct.operators)
    assert graph.bytes_written == sum(op.count * op.bytes_written for op in direct.operators)
    assert graph.calls == direct.calls
    for phase, peak in direct.peaks.items():
        assert graph.peak_bytes[phase] == pytest.approx(peak, rel=0.15)


def test_a_graph_that_is_kept_is_the_same_graph() -> None:
    """What comes from the file equals what was traced."""
    model = resolve("all-minilm")
    assert graph_of(model, 3, 20) == graph_of(model, 3, 20)


def test_weights_are_counted_once() -> None:
    """bert-base has 109.5 million parameters with its head, the tied matrix of the vocabulary once."""
    graph = graph_of(resolve("bert-base"), 1, 16)
    assert graph.weights_bytes / 4 == pytest.approx(109.5e6, rel=0.005)
    found = memory_of(graph, "torch")
    assert found.total == found.weights + found.activations + found.cache + found.runtime
    assert memory_of(graph, "torch", "bf16").weights == pytest.approx(found.weights / 2, rel=1e-6)
    assert memory_of(graph, "torch", "int8").activations == found.activations
    assert graph.table_bytes == pytest.approx(4 * 768 * (30522 + 512 + 2), rel=0.01)
    card = memory_of(graph, "torch", platform="cuda")
    assert card.weights == pytest.approx(graph.weights_bytes, rel=1e-6)


def local_model(folder: Path, **config: object) -> str:
    """A folder with a configuration and nothing else."""
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


def test_a_folder_with_a_configuration_alone(tmp_path: Path) -> None:
    """No weights are needed, and grouped keys and values make the cache smaller."""
    graph = graph_of(resolve(local_model(tmp_path, **LLAMA)), 2, 64, new_tokens=2)
    assert graph.family == "text-decoder"
    assert graph.cache_bytes == 2 * 2 * 2 * 4 * 16 * 2 * (64 + 1)


def test_absurd_sizes_are_refused_at_once(tmp_path: Path) -> None:
    """A million layers would take hours to build."""
    with pytest.raises(InputError, match="num_hidden_layers = 1000000"):
        graph_of(resolve(local_model(tmp_path, **{**LLAMA, "num_hidden_layers": 1_000_000})))


def test_a_configuration_that_makes_no_model(tmp_path: Path) -> None:
    """Heads that do not divide the width: the model's own refusal, as an error about the configuration."""
    bad = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 65, "num_attention_heads": 4}
    with pytest.raises(AccelError, match=r"configuration|config\.json|multiple"):
        graph_of(resolve(local_model(tmp_path, **bad)))


def test_missing_fields_unknown_architectures_and_code_of_their_own(tmp_path: Path) -> None:
    """Each is refused with its reason, and none is answered with a guess."""
    with pytest.raises(InputError, match="names neither"):
        resolve(local_model(tmp_path, hidden_size=8))
    with pytest.raises(IncompatibleError, match="zebra"):
        resolve(local_model(tmp_path, model_type="zebra"))
    with pytest.raises(IncompatibleError, match="Python code of its own"):
        resolve(local_model(tmp_path, model_type="bert", auto_map={"AutoModel": "m.M"}))


def test_too_long_a_text_is_refused() -> None:
    """Also from what is kept: positions are the model's, not the template's."""
    model = resolve("bert-base")
    graph_of(model, 1, 64)
    with pytest.raises(InputError, match="at most 512"):
        graph_of(model, 1, 513)
    with pytest.raises(InputError, match="above 0"):
        graph_of(model, 0)


def test_many_equal_layers_are_as_if_all_had_been_traced() -> None:
    """A deep decoder is traced with two small numbers of layers; the whole model says the same."""
    model = resolve("smollm2-135m")
    assert layers_of(model) == 30
    graph = graph_of(model, 2, 48, new_tokens=4)
    tracer = Tracer(model)
    try:
        direct = tracer.workload(2, 48, Options(max_new_tokens=4))
        assert graph.weights_bytes == tracer.weights_bytes
    finally:
        tracer.close()
    assert graph.flops == sum(op.count * op.flops for op in direct.operators)
    assert graph.bytes_read == sum(op.count * op.bytes_read for op in direct.operators)
    assert graph.cache_bytes == direct.cache_bytes
    for phase, peak in direct.peaks.items():
        assert graph.peak_bytes[phase] == pytest.approx(peak, rel=0.15)


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    """Every token meets two of four experts of three matrices each; a step reads no more experts than it uses."""
    config = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4}
    graph = graph_of(resolve(local_model(tmp_path, **config, num_experts_per_tok=2)), 1, 32, new_tokens=3)
    rows = 32
    attention = 2 * (2.0 * rows * (64 * 64 * 2 + 64 * 32 * 2) + 4.0 * rows**2 * 64)
    experts = 2 * (2 * 3 * 2.0 * rows * 64 * 128 + 2.0 * rows * 64 * 4)
    assert phase_flops(graph, "prefill") == pytest.approx(attention + experts + 2.0 * 64 * 100, rel=0.005)
    decode = graph.of_phase("decode")
    products = [op for op in decode if [len(t.shape) for t in op.inputs[:2]] == [2, 3] and op.kind == "matmul"]
    assert products
    assert all(op.parameter_bytes <= 0.6 * op.inputs[1].nbytes for op in products)
