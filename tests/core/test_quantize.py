"""Quantised graphs compute in integers and stay near fp32, or it is said why they cannot be made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core import quantize
from accel.core.errors import IncompatibleError
from tests.engines.parts import GraphSource, bert, cnn, cosine, feeds_of, one

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> GraphSource:
    """A BERT, exported when asked."""
    return GraphSource(bert(hidden=64), tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> GraphSource:
    """A ResNet, exported when asked."""
    return GraphSource(cnn(), tmp_path_factory.mktemp("cnn"), "cnn")


def operators(path: Path) -> Counter[str]:
    import onnx

    return Counter(n.op_type for n in onnx.load(str(path), load_external_data=False).graph.node)


def execute(path: Path, feeds: dict[str, Any]) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def nearness(source: GraphSource, path: Path) -> float:
    feeds = feeds_of(source.graphs["model"])
    return cosine(execute(path, feeds), execute(source.onnx("model"), feeds))


def test_dynamic(source: GraphSource, tmp_path: Path) -> None:
    quantize.dynamic(source.onnx("model"), tmp_path / "m.onnx", narrow=False)
    assert operators(tmp_path / "m.onnx")["MatMulInteger"] == 12
    assert 0.98 < nearness(source, tmp_path / "m.onnx") < 0.99999


def test_files_of_the_current_folder_do_not_matter(
    source: GraphSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("m.onnx.data", "flat.onnx.data"):
        (tmp_path / name).write_bytes(b"the user's own")
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    quantize.dynamic(source.onnx("model"), target / "m.onnx", narrow=False)
    quantize.blockwise(source.onnx("model"), target / "b.onnx")
    quantize.finite(source.onnx("model"), target / "f.onnx")
    assert {p.name for p in target.iterdir()} == {f"{n}.onnx{e}" for n in "mbf" for e in ("", ".data")}
    assert nearness(source, target / "m.onnx") > 0.98
    assert (tmp_path / "m.onnx.data").read_bytes() == b"the user's own"


def test_narrow_weights_stay_within_seven_bits(source: GraphSource, tmp_path: Path) -> None:
    import onnx

    quantize.dynamic(source.onnx("model"), tmp_path / "m.onnx", narrow=True)
    arrays = [
        onnx.numpy_helper.to_array(t, str(tmp_path)) for t in onnx.load(str(tmp_path / "m.onnx")).graph.initializer
    ]
    weights = [a for a in arrays if a.dtype == np.int8 and a.ndim == 2]
    assert len(weights) == 12
    assert max(np.abs(w.astype(int)).max() for w in weights) <= 64


def test_blockwise_is_nearer_than_dynamic(source: GraphSource, tmp_path: Path) -> None:
    quantize.blockwise(source.onnx("model"), tmp_path / "b.onnx")
    quantize.dynamic(source.onnx("model"), tmp_path / "d.onnx", narrow=False)
    assert operators(tmp_path / "b.onnx")["MatMulNBits"] == 12
    assert 0.998 < nearness(source, tmp_path / "b.onnx") < 0.99999
    assert nearness(source, tmp_path / "b.onnx") > nearness(source, tmp_path / "d.onnx")


def test_calibrated_convolutions(pictures: GraphSource, tmp_path: Path) -> None:
    quantize.calibrated(pictures.onnx("model"), tmp_path / "m.onnx", pictures.calibration("model"))
    found = operators(tmp_path / "m.onnx")
    assert found["QuantizeLinear"] >= found["Conv"] > 0
    assert 0.99 < nearness(pictures, tmp_path / "m.onnx") < 0.999999


def test_calibration_sees_the_feeds(pictures: GraphSource, tmp_path: Path) -> None:
    """Feeds a hundred times too small leave no range for the real ones."""
    small = ({n: a / 100 for n, a in feeds.items()} for feeds in pictures.calibration("model"))
    quantize.calibrated(pictures.onnx("model"), tmp_path / "m.onnx", small)
    assert nearness(pictures, tmp_path / "m.onnx") < 0.95


def test_wide_activations_take_attention_apart(source: GraphSource, tmp_path: Path) -> None:
    import onnx

    quantize.calibrated(source.onnx("model"), tmp_path / "m.onnx", source.calibration("model"), wide_activations=True)
    found = operators(tmp_path / "m.onnx")
    assert found["Attention"] == 0
    assert found["Softmax"] == 2
    model = onnx.load(str(tmp_path / "m.onnx"))
    kinds = Counter(t.data_type for t in model.graph.initializer)
    assert kinds[onnx.TensorProto.UINT16] > 10
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            assert np.isfinite(onnx.numpy_helper.to_array(tensor)).all()
    assert nearness(source, tmp_path / "m.onnx") > 0.99


def test_masks_are_brought_into_range_and_bounds_are_not(tmp_path: Path) -> None:
    import torch

    class Masked(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, ...]:
            lowest = torch.full((6,), torch.finfo(torch.float32).min)
            lowest[:3] = 0
            return ((x + lowest).softmax(-1),)

    plain = GraphSource({"model": one(Masked())}, tmp_path)
    quantize.finite(plain.onnx("model"), tmp_path / "f.onnx")
    feeds = feeds_of(plain.graphs["model"])
    before, after = execute(plain.onnx("model"), feeds), execute(tmp_path / "f.onnx", feeds)
    np.testing.assert_allclose(after, before, atol=1e-7)
    assert b"\xff\xff\x7f\xff" not in (tmp_path / "f.onnx").read_bytes()


def test_nothing_to_quantise(tmp_path: Path) -> None:
    import torch

    class Plain(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, ...]:
            return (x.exp() + 1,)

    plain = GraphSource({"model": one(Plain())}, tmp_path)
    path = plain.onnx("model")
    ways: list[Callable[[Path], None]] = [
        lambda target: quantize.dynamic(path, target, narrow=False),
        lambda target: quantize.blockwise(path, target),
        lambda target: quantize.calibrated(path, target, plain.calibration("model")),
    ]
    for number, way in enumerate(ways):
        with pytest.raises(IncompatibleError, match="int8") as caught:
            way(tmp_path / f"{number}.onnx")
        assert caught.value.hint


def nothing() -> Iterator[dict[str, Any]]:
    return iter(())


def test_calibration_needs_feeds(pictures: GraphSource, tmp_path: Path) -> None:
    import openvino as ov

    with pytest.raises(IncompatibleError, match="inputs to calibrate"):
        quantize.calibrated(pictures.onnx("model"), tmp_path / "m.onnx", nothing())
    with pytest.raises(IncompatibleError, match="inputs to calibrate"):
        quantize.openvino_calibrated(ov.Core().read_model(pictures.onnx("model")), nothing(), transformer=False)


def test_a_damaged_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(IncompatibleError) as caught:
        quantize.dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx", narrow=False)
    assert "\n" not in caught.value.message


def test_openvino_weights_are_stored_in_eight_bits(source: GraphSource, tmp_path: Path) -> None:
    import openvino as ov

    model = ov.Core().read_model(source.onnx("model"))
    ov.save_model(model, tmp_path / "f.xml", compress_to_fp16=False)
    ov.save_model(quantize.openvino_weights(model), tmp_path / "q.xml", compress_to_fp16=False)
    assert (tmp_path / "q.bin").stat().st_size < 0.45 * (tmp_path / "f.bin").stat().st_size


def test_nncf_reports_to_nobody() -> None:
    """The usage reporter of NNCF is a stub in a process of ours, and the environment is left as it was."""
    script = """
import os
from accel.core.quantize import _nncf
_nncf()
from nncf.telemetry.wrapper import telemetry
print(type(telemetry).__name__ == "NNCFTelemetry", os.environ.get("NNCF_CI"))
"""
    environment = {k: v for k, v in os.environ.items() if k != "NNCF_CI"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "False None"
