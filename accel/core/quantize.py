"""Integer arithmetic for models: four ways, each of which either changes the graph or says that it cannot.

Only what an engine truly computes in integers is made here. Weights that are merely stored small and multiplied as
floats would be called int8 without being it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.errors import IncompatibleError, UnavailableError
from accel.core.export import cause, quiet, save

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

#: weights that share one scale in block-wise quantisation
BLOCK = 32
#: what a mask adds to scores that must not count
MASK = -100.0
#: operators that prove that an ONNX graph computes in integers
_INTEGER = {
    "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QuantizeLinear",
}  # fmt: skip
_HINT = "use --precision fp32, or another engine"


def dynamic(source: Path, target: Path, *, narrow: bool) -> None:
    """int8 weights per output channel; activations are quantised per tensor as they occur.

    Args:
        source, target: ONNX files; the target's weights are written beside it.
        narrow: keep weights to 7 bits, for processors whose int8 products can overflow 16 bits (x86 without VNNI).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _failing("dynamic"), quiet(), _writing(target) as unique:
        quantize_dynamic(
            str(source),
            str(unique),
            per_channel=True,
            reduce_range=narrow,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=True,
        )


def blockwise(source: Path, target: Path) -> None:
    """8-bit weights with a scale per block of 32, multiplied in integers with activations quantised per block.

    Nearer to fp32 than `dynamic` by an order of magnitude, and slower.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _failing("weights"), quiet(), _writing(target) as unique:
        # accuracy level 4 is the one at which ONNX Runtime multiplies in int8
        quantizer = MatMulNBitsQuantizer(
            onnx.load(str(source)), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(unique), True)


def calibrated(
    source: Path, target: Path, feeds: Iterable[Tensors], *, narrow: bool = False, wide_activations: bool = False
) -> None:
    """int8 weights per channel and activations whose ranges were seen on real feeds, as QuantizeLinear pairs.

    Args:
        narrow: as in `dynamic`.
        wide_activations: 16 bits for activations (A16W8, what Qualcomm's processors execute best).

    Raises:
        IncompatibleError: no feeds, or nothing in the graph can be quantised.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize, quantize_static
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(_some(feeds))

        def get_next(self) -> Tensors | None:
            return next(self.feeds, None)

    reader = Reader()
    with _failing("calibrated"), quiet(), _writing(target) as unique:
        flat = unique.with_name("flat.onnx")
        finite(source, flat)
        if wide_activations:
            settings = get_qnn_qdq_config(
                str(flat), reader, activation_type=QuantType.QUInt16, weight_type=QuantType.QUInt8
            )
            settings.use_external_data_format = True
            quantize(str(flat), str(unique), settings)
        else:
            quantize_static(
                str(flat),
                str(unique),
                reader,
                per_channel=True,
                reduce_range=narrow,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                use_external_data_format=True,
                extra_options={"MatMulConstBOnly": True},
            )


def openvino_weights(model: Any) -> Any:
    """An `openvino.Model` with int8 weights per output channel (NNCF, asymmetric).

    OpenVINO's CPU code multiplies them in integers, with activations quantised per group as they occur.
    """
    nncf = _nncf()
    with _failing("weights"), quiet():
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


def openvino_calibrated(model: Any, feeds: Iterable[Tensors], *, transformer: bool) -> Any:
    """An `openvino.Model` with int8 weights and activations calibrated on real feeds (NNCF post-training quantisation).

    Args:
        transformer: keep attention's sensitive parts in floats, as NNCF does for transformers.
    """
    nncf = _nncf()
    names = [port.any_name for port in model.inputs]
    data = [{name: feed[name] for name in names} for feed in _some(feeds)]
    with _failing("calibrated"), quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(data),
            subset_size=len(data),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        )


def _nncf() -> Any:
    """NNCF, imported so that it sends nothing to anybody (it reports usage unless this variable is set)."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        with quiet():
            import nncf
    except ImportError as error:
        raise UnavailableError(
            f"quantising for OpenVINO needs nncf: {error}", "pip install 'ipfs-accel[openvino]'"
        ) from error
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    return nncf


@contextlib.contextmanager
def _failing(how: str) -> Iterator[None]:
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    try:
        yield
    except (IncompatibleError, MemoryError):
        raise
    except Exception as error:  # the quantisers raise whatever a graph makes them stumble over
        raise IncompatibleError(f"int8 ({how}) is not possible for this graph: {cause(error)}", _HINT) from error


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """A place for a quantiser to write to, which becomes `target` if something in it really is in integers.

    Its name is like no other, since the quantisers refuse to write weights beside the graph when the current folder
    has a file of that name.
    """
    import onnx

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantise-") as scratch:
        unique = Path(scratch) / f"{uuid.uuid4().hex}.onnx"
        yield unique
        model = onnx.load(str(unique))
        if not any(node.op_type in _INTEGER for node in model.graph.node):
            raise IncompatibleError("nothing in this graph can be computed in int8 that way", _HINT)
        save(model, target)


def _some(feeds: Iterable[Tensors]) -> list[Tensors]:
    data = list(feeds)
    if not data:
        raise IncompatibleError("int8 by calibration needs inputs to calibrate with, and there are none", _HINT)
    return data


def finite(source: Path, target: Path) -> None:
    """Writes the graph for processors with narrow numbers: `Attention` and the like taken apart, masks within range.

    A mask that adds the lowest number there is, or minus infinity, adds `MASK` in its place: as good as nothing after a
    softmax, and within the range of fp16 and of calibrated integers.
    """
    import numpy as np
    import onnx
    import onnx.inliner
    from onnx import numpy_helper
    from onnx.external_data_helper import load_external_data_for_model

    # without weights, since the inliner passes the model through one message of at most 2 GB
    model = onnx.load(str(source), load_external_data=False)
    if any(node.op_type == "Attention" and not node.domain for node in model.graph.node):
        model = onnx.inliner.inline_selected_functions(model, [("", "Attention")], inline_schema_functions=True)
    load_external_data_for_model(model, str(source.parent))
    bounds = {name for node in model.graph.node if node.op_type in ("Clip", "Max", "Pad") for name in node.input}
    constants = [t for t in model.graph.initializer if t.name not in bounds]
    for node in model.graph.node:
        if not bounds.intersection(node.output):
            constants += [a.t for a in node.attribute if a.HasField("t")]
    for tensor in constants:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            if array.size and array.min() < -1e30:
                tensor.CopyFrom(numpy_helper.from_array(np.maximum(array, np.float32(MASK)), tensor.name))
    save(model, target)
