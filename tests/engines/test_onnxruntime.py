"""ONNX Runtime: what is kept, a start for one inference, builds for GPUs, memory that runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.contracts import Session
from accel.core.errors import IncompatibleError, OutOfMemoryError, UnavailableError
from accel.core.registry import engine
from accel.core.types import Plan
from accel.engines import onnxruntime as module
from accel.engines._ort_decoding import explained
from tests.engines.parts import GraphSource, bert, cnn, feeds_of, worst

FP32 = Plan("cpu:0", "cpu", "onnxruntime", "fp32")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> GraphSource:
    """A BERT, exported when asked."""
    return GraphSource(bert(), tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def prepared(source: GraphSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BERT prepared in fp32."""
    folder = tmp_path_factory.mktemp("prepared")
    engine("onnxruntime").prepare(source, FP32, folder)
    return folder


def opened(folder: Path, source: GraphSource, **more: Any) -> Session:
    return engine("onnxruntime").load(folder, source.recipe, FP32, **more)


def test_what_is_kept_is_optimised_and_its_weights_lie_beside_it(source: GraphSource, prepared: Path) -> None:
    import onnx

    assert {p.name for p in prepared.iterdir()} == {"model.onnx", "model.onnx.data"}
    model = onnx.load(str(prepared / "model.onnx"), load_external_data=False)
    found = [n.op_type for n in model.graph.node]
    assert "BiasGelu" in found and "SkipLayerNormalization" in found
    assert (prepared / "model.onnx").stat().st_size < (prepared / "model.onnx.data").stat().st_size


def test_a_start_for_one_inference_gives_the_same(source: GraphSource, prepared: Path) -> None:
    feeds = feeds_of(source.graphs["model"])
    (steady,) = opened(prepared, source).run("model", feeds).values()
    (single,) = opened(prepared, source, single=True).run("model", feeds).values()
    assert worst(single, steady) < 1e-5


def test_scratch_files_of_quantising_are_gone(source: GraphSource, tmp_path: Path) -> None:
    for variant in ("dynamic", "weights"):
        folder = tmp_path / variant
        folder.mkdir()
        engine("onnxruntime").prepare(source, Plan("cpu:0", "cpu", "onnxruntime", "int8", variant=variant), folder)
        assert {p.name for p in folder.iterdir()} == {"model.onnx", "model.onnx.data"}


def test_int8_takes_less_room(source: GraphSource, prepared: Path, tmp_path: Path) -> None:
    engine("onnxruntime").prepare(source, Plan("cpu:0", "cpu", "onnxruntime", "int8", variant="dynamic"), tmp_path)
    assert (tmp_path / "model.onnx.data").stat().st_size < 0.6 * (prepared / "model.onnx.data").stat().st_size


def test_nothing_is_said(source: GraphSource, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source.onnx("model")
    capfd.readouterr()
    for variant, precision in (("", "fp32"), ("dynamic", "int8"), ("weights", "int8")):
        folder = tmp_path / (variant or "plain")
        folder.mkdir()
        plan = Plan("cpu:0", "cpu", "onnxruntime", precision, variant=variant)
        engine("onnxruntime").prepare(source, plan, folder)
        engine("onnxruntime").load(folder, source.recipe, plan).run("model", feeds_of(source.graphs["model"]))
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""


def test_closing_frees(source: GraphSource, prepared: Path) -> None:
    session: Any = opened(prepared, source)
    session.close()
    assert not session.sessions


def test_memory_that_runs_out_is_said_so(source: GraphSource, prepared: Path) -> None:
    """A batch whose first intermediate result is 2 PB."""
    session = opened(prepared, source)
    ids = np.broadcast_to(np.ones((1, 1), np.int64), (1, 1))
    session.run("model", {"input_ids": ids, "attention_mask": ids})
    huge = np.ones((40_000, 64), np.int64)
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        with pytest.raises(OutOfMemoryError) as caught:
            session.run("model", {"input_ids": huge, "attention_mask": huge})
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert "smaller batch" in caught.value.hint


def test_plans_for_convolutions_and_for_products(tmp_path: Path) -> None:
    everything = ("fp32", "fp16", "bf16", "int8")
    chosen = engine("onnxruntime")
    text = chosen.plans("cpu:0", GraphSource(bert(), tmp_path).recipe, everything)
    pictures = chosen.plans("cpu:0", GraphSource(cnn(), tmp_path, "cnn").recipe, everything)
    assert [(p.precision, p.variant) for p in text] == [("fp32", ""), ("int8", "dynamic"), ("int8", "weights")]
    assert [(p.precision, p.variant) for p in pictures] == [("fp32", ""), ("int8", "calibrated")]
    assert [p.precision for p in chosen.plans("cuda:0", GraphSource(bert(), tmp_path).recipe, everything)] == [
        "fp32",
        "fp16",
    ]


@pytest.mark.parametrize(
    ("installed", "missing_on"),
    [
        ({"onnxruntime": "1"}, {"cpu": None, "cuda": "onnxruntime-gpu", "rocm": "onnxruntime-rocm"}),
        ({"onnxruntime-gpu": "1"}, {"cpu": None, "cuda": None, "rocm": "onnxruntime-rocm"}),
        ({"onnxruntime-migraphx": "1"}, {"cpu": None, "cuda": "onnxruntime-gpu", "rocm": None}),
        ({}, {"cpu": "pip install onnxruntime", "cuda": "pip install onnxruntime"}),
    ],
)
def test_builds(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], missing_on: dict[str, str | None]) -> None:
    monkeypatch.setattr(module, "engine_version", installed.get)
    for platform, said in missing_on.items():
        found = engine("onnxruntime").missing_on(platform)
        assert found is None if said is None else said in str(found)


def test_a_build_without_the_provider_is_found_out_at_load(source: GraphSource, prepared: Path) -> None:
    import onnxruntime as ort

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(UnavailableError, match="CUDAExecutionProvider"):
        engine("onnxruntime").load(prepared, source.recipe, Plan("cuda:0", "cuda", "onnxruntime", "fp32"))


def test_fp16_for_gpus_keeps_fp32_inputs_and_outputs(source: GraphSource, tmp_path: Path) -> None:
    import onnx

    engine("onnxruntime").prepare(source, Plan("cuda:0", "cuda", "onnxruntime", "fp16"), tmp_path)
    model = onnx.load(str(tmp_path / "model.onnx"))
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)


def test_an_unknown_reason_is_passed_on() -> None:
    error = explained(RuntimeError("[ONNXRuntimeError] : 9 : no kernel\nat line 3"), "opening")
    assert isinstance(error, IncompatibleError)
    assert "no kernel" in error.message
    assert "line 3" not in error.message
