"""OpenVINO: it computes in what is asked, keeps caches as state, and brings no converter and no usage reporter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.decoding import ArrayDecoding
from accel.core.errors import IncompatibleError, OutOfMemoryError
from accel.core.registry import engine
from accel.core.types import Plan
from accel.engines import openvino as module
from tests.engines.parts import GraphSource, bert, cnn, decoder, feeds_of, worst

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(bool(engine("openvino").missing()), reason="openvino is not installed")


def plan(precision: str = "fp32", variant: str = "") -> Plan:
    return Plan("openvino:CPU", "openvino", "openvino", precision, variant=variant)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> GraphSource:
    """A BERT, exported when asked."""
    return GraphSource(bert(), tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraphSource, Any]:
    """A Llama and its open session."""
    folder = tmp_path_factory.mktemp("llama")
    model = GraphSource(decoder(), folder, "text-decoder")
    (folder / "prepared").mkdir()
    engine("openvino").prepare(model, plan(), folder / "prepared")
    return model, engine("openvino").load(folder / "prepared", model.recipe, plan())


def test_fp32_is_fp32_and_bf16_is_not(source: GraphSource, tmp_path: Path) -> None:
    """Left alone, OpenVINO computes in bf16 on processors that have it, without saying so."""
    offered = [p.precision for p in engine("openvino").plans("openvino:CPU", source.recipe, ("fp32", "bf16"))]
    if "bf16" not in offered:
        pytest.skip("this processor has no bf16")
    feeds = feeds_of(source.graphs["model"])
    torch = engine("torch").load(tmp_path, source.recipe, Plan("cpu:0", "cpu", "torch", "fp32"), source)
    (expected,) = torch.run("model", feeds).values()
    errors = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        folder.mkdir()
        engine("openvino").prepare(source, plan(precision), folder)
        (found,) = engine("openvino").load(folder, source.recipe, plan(precision)).run("model", feeds).values()
        errors[precision] = worst(found, expected)
    assert errors["fp32"] < 1e-5
    assert 1e-3 < errors["bf16"] < 0.1


def test_a_precision_that_the_processor_lacks_is_refused(
    source: GraphSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accel.core.cpu import describe

    if set(describe().features) & {"avx512_fp16", "amx_fp16", "fp16"}:
        pytest.skip("this processor has fp16")
    with pytest.raises(IncompatibleError, match="where fp16 is asked for"):
        engine("openvino").prepare(source, plan("fp16"), tmp_path)


def test_int8_is_offered_where_it_is_computed(source: GraphSource, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        features = ("avx", "avx2")

    everything = ("fp32", "fp16", "bf16", "int8")
    variants = [p.variant for p in engine("openvino").plans("openvino:CPU", source.recipe, everything) if p.variant]
    assert variants in ([], ["weights", "weights128", "calibrated"])
    monkeypatch.setattr(module, "describe", Old)
    assert [p.precision for p in engine("openvino").plans("openvino:CPU", source.recipe, everything)] == ["fp32"]


def test_int8_needs_nncf(source: GraphSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "engine_version", lambda name: None if name == "nncf" else "1")
    assert engine("openvino").plans("openvino:CPU", source.recipe, ("int8",)) == []


def test_convolutions_are_calibrated_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class New:
        features = ("avx512_vnni",)

    monkeypatch.setattr(module, "describe", New)
    plans = engine("openvino").plans("openvino:CPU", GraphSource(cnn(), tmp_path, "cnn").recipe, ("int8",))
    assert [p.variant for p in plans] == ["calibrated"]


def test_finer_groups_are_nearer(source: GraphSource, tmp_path: Path) -> None:
    variants = [p.variant for p in engine("openvino").plans("openvino:CPU", source.recipe, ("int8",))]
    if "weights128" not in variants:
        pytest.skip("this processor multiplies no int8")
    wide = GraphSource(bert(hidden=128), tmp_path)
    feeds = feeds_of(wide.graphs["model"])
    torch = engine("torch").load(tmp_path, wide.recipe, Plan("cpu:0", "cpu", "torch", "fp32"), wide)
    (expected,) = torch.run("model", feeds).values()
    errors = {}
    for variant in ("weights", "weights128"):
        folder = tmp_path / variant
        folder.mkdir()
        engine("openvino").prepare(wide, plan("int8", variant), folder)
        session = engine("openvino").load(folder, wide.recipe, plan("int8", variant))
        errors[variant] = float(np.linalg.norm(session.run("model", feeds)["last_hidden_state"] - expected))
    assert errors["weights"] < errors["weights128"]


def test_a_stateful_graph_still_takes_and_gives_caches(writer: tuple[GraphSource, Any]) -> None:
    model, session = writer
    graph = model.graphs["model"]
    torch = engine("torch").load(model.folder, model.recipe, Plan("cpu:0", "cpu", "torch", "fp32"), model)
    feeds = feeds_of(graph)
    for past in (feeds["past_key_values.0.key"].shape[2], 0, 2):
        part = {n: a[:, :, :past] if n.startswith("past") else a for n, a in feeds.items()}
        part["attention_mask"] = np.ones((2, past + 3), np.int64)
        expected, found = torch.run("model", part), session.run("model", part)
        assert list(found) == list(expected)
        for name in expected:
            assert worst(found[name], expected[name]) < 1e-5, (past, name)


def test_decoding_inside_equals_decoding_outside(writer: tuple[GraphSource, Any]) -> None:
    model, session = writer
    spec = model.recipe.graphs["model"]
    inside, outside = session.decode(spec, {}, 64), ArrayDecoding(session, spec, {})
    ids = np.array([[3, 1, 4, 1, 5]])
    for _ in range(8):
        mine, other = inside.step(ids), outside.step(ids)
        assert worst(mine, other) < 1e-5
        ids = mine.argmax(1)[:, None]
    assert inside.length == 12


def test_logits_of_a_step_are_not_written_over(writer: tuple[GraphSource, Any]) -> None:
    model, session = writer
    decoding = session.decode(model.recipe.graphs["model"], {}, 64)
    first = decoding.step(np.array([[3, 1, 4]]))
    copy = first.copy()
    decoding.step(np.array([[9]]))
    np.testing.assert_array_equal(first, copy)


def test_errors_say_the_reason_alone() -> None:
    text = "Exception from src/a.cpp:1:\nCheck 'x' failed at src/b.cpp:2:\nThe input has 3 axes\n\n"
    error = module._explained(RuntimeError(text), "opening")
    assert error.message == "OpenVINO failed opening: The input has 3 axes"
    assert isinstance(module._explained(RuntimeError("std::bad_alloc"), "executing"), OutOfMemoryError)


def test_the_converter_stays_out_but_can_be_had_later() -> None:
    script = """
import sys
from accel.engines.openvino import _library
_library()
print("openvino.tools.ovc" in sys.modules, "openvino_telemetry" in sys.modules)
from openvino.tools.ovc import convert_model
print(callable(convert_model))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.split() == ["False", "False", "True"]
