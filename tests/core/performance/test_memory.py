"""Peak memory: what it is made of, and how engines differ in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from accel.core.performance import calibration, memory
from accel.core.performance.graphs import graph_of, resolve
from accel.core.performance.memory import lines, measured, memory_of, parts
from accel.core.performance.operators import Operator, OperatorGraph, Tensor

TABLE = Tensor((1000, 64), 4, parameter=True)
ENGINES = ("torch", "onnxruntime", "openvino")


def graph(*, tied: bool = True, batch: int = 1) -> OperatorGraph:
    """A table that is looked up, a product, attention, and a head of the table's shape."""
    rows = Tensor((batch, 8, 64))
    head = Tensor((64, 1000), 4, parameter=True)
    dense = Tensor((64, 64), 4, parameter=True)
    heads = Tensor((batch, 2, 8, 32))
    operators = (
        Operator("gather", "embedding", "model", (TABLE, Tensor((batch, 8), 8)), (rows,)),
        Operator("matmul", "mm", "model", (rows, dense), (rows,)),
        Operator("attention", "sdpa", "model", (heads, heads, heads), (heads,)),
        Operator("matmul", "mm", "model", (rows, head), (Tensor((batch, 8, 1000)),)),
    )
    weights = TABLE.nbytes + dense.nbytes + (0 if tied else head.nbytes)
    return OperatorGraph(
        "made up", "0" * 64, "text-encoder", "fill-mask", batch, 8, operators, weights, {"model": 40_000 * batch},
        {"model": 1},
    )  # fmt: skip


def test_a_tied_head_is_told_from_one_of_its_own() -> None:
    """Both have the shape of the table; only a tied one is not among the weights."""
    assert parts(graph())["tied"] == TABLE.nbytes
    own = parts(graph(tied=False))
    assert own["tied"] == 0 and own["dense"] == TABLE.nbytes + 64 * 64 * 4


def test_the_parts_of_a_small_graph() -> None:
    """By hand: the head is the largest product and matrix; two heads attend 8 to 8."""
    found = parts(graph(batch=3))
    assert found["largest"] == TABLE.nbytes
    assert found["products"] == 4 * 3 * 8 * (64 + 1000)
    assert found["scores"] == 4 * 3 * 2 * 8 * 8
    assert found["windows"] == 0 and found["activations"] == 120_000


def test_a_matrix_that_is_spread_over_the_batch_counts_once() -> None:
    """Decoders multiply with one matrix per row of the batch, which all are the same."""
    spread = Tensor((16, 64, 1000), 4, parameter=True)
    rows = Tensor((16, 1, 64))
    op = Operator("matmul", "bmm", "model", (rows, spread), (Tensor((16, 1, 1000)),))
    assert parts(replace(graph(), operators=(*graph().operators, op)))["largest"] == TABLE.nbytes


@pytest.mark.parametrize("engine", ENGINES)
def test_the_split_is_the_total_and_grows_with_the_batch(engine: str) -> None:
    """Larger batches never need less; what weights take does not depend on the batch once it runs."""
    model = resolve("all-minilm")
    totals = []
    for batch in (1, 8, 64, 256):
        found = memory_of(graph_of(model, batch, 64), engine)
        assert found.total == found.weights + found.activations + found.cache + found.runtime
        totals.append(found.total)
    assert totals == sorted(totals) and totals[-1] > totals[0]


def test_engines_differ_in_how_often_they_hold_weights() -> None:
    """OpenVINO keeps what it packs beside what is mapped, and torch holds weights once."""
    found = graph_of(resolve("vit-base"), 1)
    held = {engine: memory_of(found, engine).weights / found.weights_bytes for engine in ENGINES}
    assert held["torch"] == pytest.approx(1, abs=0.1) and held["onnxruntime"] == pytest.approx(1, abs=0.1)
    assert held["openvino"] == pytest.approx(2, abs=0.1)


def test_libraries_are_as_large_as_the_calibration_found_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of torch that is 300 MB larger takes 300 MB more."""
    before = memory_of(graph(), "torch").runtime
    there = measured()["torch"]["calibration_bytes"]
    monkeypatch.setattr(calibration, "kept", lambda engine: {"runtime_bytes": there + 300_000_000})
    assert memory_of(graph(), "torch").runtime - before == pytest.approx(300_000_000, abs=2)


def test_an_engine_that_was_not_measured_has_an_assumption() -> None:
    """Browsers hold weights twice, a card once."""
    assert lines("ort-web") == []
    browser, card = memory_of(graph(), "ort-web", platform="webgpu"), memory_of(graph(), "torch", platform="cuda")
    assert browser.weights == 2 * card.weights == 2 * graph().weights_bytes


def test_a_missing_file_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what was measured there is still an answer."""
    monkeypatch.setattr(memory, "measured", dict)
    assert memory_of(graph(), "onnxruntime").total > graph().weights_bytes
