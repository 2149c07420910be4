"""Exports are checked against the module, and ONNX files are not trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel.core.contracts import TorchGraph
from accel.core.errors import IncompatibleError, InputError
from accel.core.export import axis_sizes, cause, check, difference, export, external_files, quiet, resized, spec_of
from accel.core.types import GraphSpec, TensorSpec
from tests.engines.parts import bert, decoder, one


class Linear(torch.nn.Module):
    """Weights of more than a kilobyte, so that they go beside the graph."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = torch.nn.Parameter(torch.randn(6, 100))

    def forward(self, x: Any) -> tuple[Any, ...]:
        return (x + (x @ self.weight).mean(),)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with its weights beside it."""
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export(one(Linear(), ("batch", 6)), path)
    return path


def test_the_graph_and_its_weights_are_two_files(exported: Path) -> None:
    assert {p.name for p in exported.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert external_files(exported) == ("model.onnx.data",)
    assert exported.with_name("model.onnx.data").stat().st_size >= 2400


def test_the_spec_is_read_without_the_weights(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(exported.read_bytes())
    spec = spec_of(tmp_path / "m.onnx", "graph")
    assert spec.name == "graph"
    assert not spec.cache
    ((x,), (y,)) = spec.inputs, spec.outputs
    assert (x.name, x.dtype) == ("x", "float32")
    assert isinstance(x.axes[0], str)
    assert x.axes[1] == 6
    assert y.name == "y"


def test_a_decoder_keeps_its_names_and_open_axes(tmp_path: Path) -> None:
    graph = decoder()["model"]
    export(graph, tmp_path / "m.onnx")
    spec = spec_of(tmp_path / "m.onnx")
    assert spec.cache
    assert [t.name for t in spec.inputs] == [t.name for t in graph.spec.inputs]
    assert [t.name for t in spec.outputs] == [t.name for t in graph.spec.outputs]
    for mine, wanted in zip(spec.inputs, graph.spec.inputs, strict=True):
        assert mine.dtype == wanted.dtype
        assert [isinstance(a, str) for a in mine.axes] == [isinstance(a, str) for a in wanted.axes]


def test_other_sizes_of_the_example(tmp_path: Path) -> None:
    graph = decoder()["model"]
    sizes = axis_sizes(graph)
    assert sizes == {"batch": 2, "length": 3, "past": 5, "past + length": 8}
    del sizes["past + length"]
    feeds = resized(graph, {**sizes, "batch": 1, "past": 0})
    assert feeds["input_ids"].shape == (1, 3)
    assert feeds["attention_mask"].shape == (1, 3)
    assert feeds["past_key_values.0.key"].shape[2] == 0
    feeds = resized(graph, {**sizes, "length": 7})
    assert feeds["attention_mask"].shape == (2, 12)
    assert torch.equal(feeds["input_ids"][:, :3], feeds["input_ids"][:, 3:6])


def test_nothing_is_said_while_exporting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(one(Linear(), ("batch", 6)), tmp_path / "m.onnx")
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""


def test_a_step_that_depends_on_values_is_refused_with_the_cause(tmp_path: Path) -> None:
    class Jumpy(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, ...]:
            return (x * 2 if x.sum() > 0 else x * 3,)

    with pytest.raises(IncompatibleError) as caught:
        export(one(Jumpy()), tmp_path / "m.onnx")
    assert "'model'" in caught.value.message
    assert "\n" not in caught.value.message
    assert "torch" in caught.value.hint
    assert "data-dependent" in caught.value.message
    assert set(caught.value.details["reasons"]) == {"opset 23", "traced"}  # type: ignore[call-overload]


def test_an_export_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """The sum over every axis size: an exporter that takes the example's size for granted is found out."""

    class Sized(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, ...]:
            return (x * float(np.prod([int(n) for n in x.shape])),)

    with pytest.raises(IncompatibleError, match="cannot be exported"):
        export(one(Sized()), tmp_path / "m.onnx")


def test_the_check_finds_a_wrong_graph(exported: Path) -> None:
    other = one(Linear(), ("batch", 6))
    with torch.no_grad():
        other.module.weight += 1
    with pytest.raises(IncompatibleError, match="output y differs"):
        check(other, exported)
    renamed = GraphSpec("model", (TensorSpec("z", "float32", ("batch", 6)),), other.spec.outputs)
    with pytest.raises(IncompatibleError, match="inputs x in place of z"):
        check(TorchGraph(renamed, other.module, {"z": other.example["x"]}), exported)


def test_attention_stays_one_operator(tmp_path: Path) -> None:
    import onnx

    export(bert()["model"], tmp_path / "m.onnx")
    nodes = [n.op_type for n in onnx.load(str(tmp_path / "m.onnx"), load_external_data=False).graph.node]
    assert nodes.count("Attention") == 2
    assert "Softmax" not in nodes


@pytest.mark.parametrize(
    ("want", "got", "problem"),
    [
        ([1.0, 2.0], [1.0, 2.0001], ""),
        ([1.0, 2.0], [1.0, 2.01], "by up to 0.01"),
        ([1.0, 2.0], [[1.0, 2.0]], "shape"),
        ([1.0, 2.0], [1.0, np.nan], "not a number"),
        ([1.0, -np.inf], [1.0, -np.inf], ""),
        ([np.nan], [np.nan], ""),
        ([], [], ""),
        ([1e6], [1e6 + 50], ""),
        ([1e6], [1e6 + 500], "by up to"),
    ],
)
def test_difference(want: list[float], got: list[float], problem: str) -> None:
    said = difference(np.array(want, np.float32), np.array(got, np.float32))
    assert said == problem or (problem and problem in said)


def test_difference_of_integers() -> None:
    assert difference(np.array([1, 2]), np.array([1, 2])) == ""
    assert difference(np.array([1, 2]), np.array([1, 3])) == "other values"


def hostile(exported: Path, target: Path, location: str) -> Path:
    import onnx

    model = onnx.load(str(exported), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    target.write_bytes(model.SerializeToString())
    return target


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "a/../../secret", "..\\secret", "C:\\secret"])
def test_weights_outside_the_folder_are_refused(exported: Path, tmp_path: Path, location: str) -> None:
    path = hostile(exported, tmp_path / "m.onnx", location)
    for read in (spec_of, external_files):
        with pytest.raises(InputError, match="outside its own folder"):
            read(path)


def test_a_link_out_of_the_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"x" * 5000)
    (folder / "weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside"):
        spec_of(hostile(exported, folder / "m.onnx", "weights.bin"))


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x09", bytes(1000)])
def test_a_file_that_is_no_model_is_an_input_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputError, match=r"not an ONNX file"):
        spec_of(tmp_path / "m.onnx")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        spec_of(tmp_path / "none.onnx")


def test_cause_is_the_innermost_reason_in_one_line() -> None:
    try:
        try:
            raise ValueError("the root of it\nwith a second line")
        except ValueError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as error:
        assert cause(error) == "the root of it"
    assert cause(KeyError()) == "KeyError"
    assert len(cause(ValueError("x" * 1000))) == 300


def test_quiet_gives_everything_back(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    with pytest.raises(ValueError, match="boom"), quiet():
        print("hidden")
        logging.getLogger("x").critical("hidden")
        raise ValueError("boom")
    print("shown")
    assert capsys.readouterr().out == "shown\n"
    assert logging.root.manager.disable == 0
