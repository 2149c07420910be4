"""Operators, asked of the engines that are installed here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from accel.core import models
from accel.core.compatibility import operators
from accel.core.compatibility.operators import ask, lacking_in_onnxruntime, lacking_in_webnn, of_file


def write(folder: Path, op: str = "Relu", domain: str = "", opset: int = 18) -> Path:
    """A model with an inner graph, and one operator of choice."""
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"])], "inner", [], [value("z", TensorProto.FLOAT, [2])]
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node(op, ["y"], ["out"], domain=domain),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [2]), value("c", TensorProto.BOOL, [])],
        [value("out", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), str(path))
    return path


def test_inner_graphs_count(tmp_path: Path) -> None:
    """Both branches of the `If` are looked into."""
    found = of_file(write(tmp_path))
    assert found == Counter({("ai.onnx", "Neg", 18): 2, ("ai.onnx", "If", 18): 1, ("ai.onnx", "Relu", 18): 1})


def test_onnxruntime_names_what_it_has_no_kernel_for(tmp_path: Path) -> None:
    """Its own registry is asked: what it runs it has, what nobody registered it lacks."""
    assert lacking_in_onnxruntime(of_file(write(tmp_path))) == {}
    assert lacking_in_onnxruntime(of_file(write(tmp_path, "Frobnicate", "org.example"))) == {"Frobnicate": 1}


def test_onnxruntime_agrees_with_itself(tmp_path: Path) -> None:
    """What is said to be lacking is what a session refuses."""
    import onnxruntime as ort

    ort.InferenceSession(str(write(tmp_path)), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Frobnicate"):
        ort.InferenceSession(str(write(tmp_path, "Frobnicate", "org.example")), providers=["CPUExecutionProvider"])


def test_functions_need_no_kernel() -> None:
    """An operator that others define runs without a kernel of its own."""
    assert lacking_in_onnxruntime(Counter({("ai.onnx", "MeanVarianceNormalization", 13): 1})) == {}


def test_webnn_has_a_source_and_limits() -> None:
    """The table says where it is from; operators newer than a version, or unknown, are lacking."""
    assert operators.webnn()["source"].startswith("https://github.com/microsoft/onnxruntime/")
    counted = Counter({("ai.onnx", "MatMul", 18): 3, ("ai.onnx", "If", 18): 2, ("ai.onnx", "Gelu", 18): 1})
    assert lacking_in_webnn(counted) == {"If": 2, "Gelu": 1}


def test_a_file_is_asked_about_as_it_is(tmp_path: Path) -> None:
    """Of an ONNX file nothing has to be exported; the answers become requirements."""
    model = models.resolve(str(write(tmp_path)))
    found = ask(model, "onnxruntime", "cpu:0", export=False, show=lambda _: None)
    assert found is not None and found.nodes == 4 and found.requirement("onnxruntime", "cpu").met


def test_openvino_is_asked(tmp_path: Path) -> None:
    """`query_model` for what it reads; what it cannot read it names."""
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    model = models.resolve(str(write(tmp_path)))
    found = ask(model, "openvino", "openvino:CPU", export=False, show=lambda _: None)
    assert found is not None and found.lacking == {} and found.nodes > 0


def test_what_is_lacking_rules_an_engine_out_and_a_browser_not(tmp_path: Path) -> None:
    """A browser does the rest in WebAssembly, and the reason says so."""
    found = operators.Coverage(4, {"If": 1}, "its engine")
    assert not found.requirement("onnxruntime", "cpu").met
    kept = found.requirement("ort-web", "webnn")
    assert kept.met and "WebAssembly" in kept.reason and "If" in kept.reason


def test_without_an_export_nothing_is_said() -> None:
    """Neither yes nor no."""
    model = models.resolve("bert-base", weights="random")
    assert ask(model, "onnxruntime", "cpu:0", export=False, show=lambda _: None) is None
    assert ask(model, "torch", "cpu:0", export=True, show=lambda _: None) is None
