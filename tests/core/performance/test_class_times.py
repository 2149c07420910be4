"""What engines say about their own operators, by the classes that predictions have."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.core.contracts import OperatorTime, TorchGraph
from accel.core.performance.class_times import by_class, class_named
from accel.core.registry import engine
from accel.core.types import Plan
from tests.engines.parts import GraphSource, bert, cnn, decoder, feeds_of

PLANS = {
    "torch": Plan("cpu:0", "cpu", "torch", "fp32"),
    "onnxruntime": Plan("cpu:0", "cpu", "onnxruntime", "fp32"),
    "openvino": Plan("openvino:CPU", "openvino", "openvino", "fp32"),
}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (OperatorTime("aten::addmm", 1.0), "product"),
        (OperatorTime("aten::mkldnn_convolution", 1.0, shapes=((1, 32, 8, 8), (32, 1, 3, 3))), "depthwise"),
        (OperatorTime("aten::mkldnn_convolution", 1.0, shapes=((1, 32, 8, 8), (32, 32, 3, 3))), "convolution"),
        (OperatorTime("aten::mkldnn_convolution", 1.0, shapes=((1, 1, 8, 8), (32, 1, 3, 3))), "convolution"),
        (OperatorTime("aten::_scaled_dot_product_flash_attention_for_cpu", 1.0), "attention"),
        (OperatorTime("aten::native_layer_norm", 1.0), "memory"),
        (OperatorTime("aten::view", 1.0), "overhead"),
        (OperatorTime("FusedMatMul", 1.0), "product"),
        (OperatorTime("Conv", 1.0, shapes=((1, 32, 8, 8), (32, 1, 3, 3))), "depthwise"),
        (OperatorTime("SkipLayerNormalization", 1.0), "memory"),
        (OperatorTime("Reshape", 1.0), "overhead"),
        (OperatorTime("Convolution", 1.0, "jit_avx512_dw_f32"), "depthwise"),
        (OperatorTime("FullyConnected", 1.0, "brgemm_avx512_f32"), "product"),
    ],
)
def test_names(one: OperatorTime, expected: str) -> None:
    assert class_named(one) == expected


def test_times_of_a_class_add_up() -> None:
    times = [OperatorTime("Conv", 1.0), OperatorTime("Conv", 2.0), OperatorTime("Add", 4.0), OperatorTime("Add", 0.0)]
    assert by_class(times) == {"convolution": 3.0, "memory": 4.0}


@pytest.mark.parametrize("name", list(PLANS))
@pytest.mark.parametrize(
    ("made", "family", "wanted"),
    [(bert, "text-encoder", "product"), (cnn, "cnn", "convolution")],
    ids=["bert", "cnn"],
)
def test_an_engine_tells(
    name: str, made: Callable[[], dict[str, TorchGraph]], family: str, wanted: str, tmp_path: Path
) -> None:
    """Its operators took some of the time of that execution, not all executions', and no more than it has."""
    chosen, plan = engine(name), PLANS[name]
    if chosen.missing():
        pytest.skip(str(chosen.missing()))
    source = GraphSource(made(), tmp_path, family)
    (tmp_path / "prepared").mkdir()
    chosen.prepare(source, plan, tmp_path / "prepared")
    session = chosen.load_timed(tmp_path / "prepared", source.recipe, plan, source if chosen.needs_framework else None)
    feeds = feeds_of(source.graphs["model"])
    for _ in range(3):
        session.run("model", feeds)
    spent: list[float] = []

    def once() -> None:
        started = time.perf_counter()
        session.run("model", feeds)
        spent.append(time.perf_counter() - started)

    found = by_class(session.operator_times(once))
    session.close()
    assert found[wanted] > 0
    assert sum(found.values()) <= spent[0]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_steps_of_a_decoder_count_too(name: str, tmp_path: Path) -> None:
    """Every step of a generation is an execution."""
    chosen, plan = engine(name), PLANS[name]
    if chosen.missing():
        pytest.skip(str(chosen.missing()))
    source = GraphSource(decoder(), tmp_path, "text-decoder")
    (tmp_path / "prepared").mkdir()
    chosen.prepare(source, plan, tmp_path / "prepared")
    session = chosen.load_timed(tmp_path / "prepared", source.recipe, plan)
    graph = source.recipe.graphs["model"]
    ids = feeds_of(source.graphs["model"])["input_ids"]

    def steps() -> None:
        decoding = session.decode(graph, {}, 64)
        decoding.step(ids)
        for _ in range(3):
            decoding.step(ids[:, :1])

    products = [t for t in session.operator_times(steps) if class_named(t) == "product"]
    session.close()
    assert len(products) >= 4 * 2


def test_an_ordinary_session_tells_nothing(tmp_path: Path) -> None:
    """Watching costs time, so that only a session opened for it does."""
    source = GraphSource(bert(), tmp_path, "text-encoder")
    (tmp_path / "prepared").mkdir()
    engine("onnxruntime").prepare(source, PLANS["onnxruntime"], tmp_path / "prepared")
    session = engine("onnxruntime").load(tmp_path / "prepared", source.recipe, PLANS["onnxruntime"])
    feeds = feeds_of(source.graphs["model"])
    assert session.operator_times(lambda: session.run("model", feeds)) == []
    assert not list(tmp_path.rglob("*.json"))
