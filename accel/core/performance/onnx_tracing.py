"""The operators of a model that exists as an ONNX file alone: its nodes, with the shapes of one real execution.

Shapes inside an ONNX graph can depend on values, so they are read from ONNX Runtime's own profile of one execution with
all optimisations off. Such files hold their weights, so there is nothing to download that is not here.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.core.contracts import Session
from accel.core.errors import AccelError, IncompatibleError
from accel.core.export import cause
from accel.core.performance.operators import FUSED, Operator, Tensor
from accel.core.performance.tracing import Trace, encode
from accel.core.registry import family_class
from accel.core.types import Model, Options, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

# fmt: off
_KINDS = {
    "matmul": "MatMul Gemm MatMulInteger QLinearMatMul FusedMatMul MatMulNBits",
    "convolution": "Conv ConvTranspose ConvInteger QLinearConv",
    "attention": "Attention MultiHeadAttention",
    "recurrent": "LSTM GRU RNN",
    "normalisation": "LayerNormalization BatchNormalization InstanceNormalization GroupNormalization RMSNormalization "
                     "SimplifiedLayerNormalization",
    "softmax": "Softmax LogSoftmax",
    "activation": "Relu Gelu Sigmoid Tanh Erf Exp Log HardSwish HardSigmoid LeakyRelu Elu Softplus Mish Clip Sin Cos",
    "elementwise": "Add Sub Mul Div Pow Sqrt Neg Where Abs Min Max Reciprocal Not And Or Equal Less Greater "
                   "LessOrEqual GreaterOrEqual Mod Floor Ceil Round Sign QuantizeLinear DequantizeLinear "
                   "DynamicQuantizeLinear",
    "reduction": "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ArgMax ArgMin CumSum TopK",
    "pooling": "MaxPool AveragePool GlobalAveragePool GlobalMaxPool Resize",
    "gather": "Gather GatherElements GatherND",
    "copy": "Transpose Concat Cast Pad Slice Split Tile Expand ScatterND ScatterElements ConstantOfShape Range STFT "
            "DepthToSpace SpaceToDepth",
    "view": "Reshape Squeeze Unsqueeze Identity Shape Constant Flatten If Loop Size",
}
# fmt: on
KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_ITEM = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}


class OnnxTracer:
    """A model in ONNX files, whose workloads can be written down. Errors as in `accel.core.performance.tracing`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._assets = Path(tempfile.mkdtemp(prefix="accel-profile-"))
        try:
            loaded = family_class(model.family)().load_model(model, self._assets)
        except BaseException:
            self.close()
            raise
        self.recipe: Recipe = loaded.recipe
        self._graphs = {name: _Graph(path) for name, path in loaded.onnx.items()}
        self.weights_bytes = sum(graph.weights_bytes for graph in self._graphs.values())

    def close(self) -> None:
        """Removes what was written."""
        shutil.rmtree(self._assets, ignore_errors=True)

    def workload(self, batch: int, length: int | None, options: Options) -> Trace:
        """See `accel.core.performance.tracing.Tracer.workload`."""
        family = family_class(self.recipe.family)(self.recipe, self._assets)
        encoded = encode(family, batch, length, options)
        session = _Executed(self._graphs)
        try:
            family.execute(session, encoded, options)
        except AccelError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise IncompatibleError(
                f"{self.model.name} cannot be executed by ONNX Runtime: {cause(error)}", "accel run tells more"
            ) from error
        operators: list[Operator] = []
        for (name, _), (found, _peak, count) in session.seen.items():
            operators += [dataclasses.replace(op, phase=name, count=count) for op in found]
        calls: dict[str, int] = {}
        peaks: dict[str, int] = {}
        for (name, _), (_found, peak, count) in session.seen.items():
            calls[name] = calls.get(name, 0) + count
            peaks[name] = max(peaks.get(name, 0), peak)
        return Trace(batch, length, tuple(operators), peaks, calls, 0)


class _Executed(Session):
    """Executes graphs; the first time with inputs of a shape it writes the operators down."""

    def __init__(self, graphs: dict[str, _Graph]) -> None:
        self._graphs = graphs
        self.seen: dict[tuple[str, str], tuple[list[Operator], int, int]] = {}

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """See `Session.run`."""
        key = (graph, str([(name, array.shape) for name, array in sorted(feeds.items())]))
        outputs, operators, peak = self._graphs[graph].run(feeds, write=key not in self.seen)
        known = self.seen.get(key, (operators, peak, 0))
        self.seen[key] = (known[0], known[1], known[2] + 1)
        return outputs


class _Graph:
    """One ONNX file: its nodes by name, and which tensors are weights."""

    def __init__(self, path: Path) -> None:
        import onnx

        self._path = path
        model = onnx.load(str(path), load_external_data=False)
        self._nodes: dict[str, Any] = {}
        self._weights: set[str] = set()
        self.weights_bytes = 0
        self._read(model.graph)
        self._outputs = [value.name for value in model.graph.output]

    def _read(self, graph: Any) -> None:
        for tensor in graph.initializer:
            self._weights.add(tensor.name)
            self.weights_bytes += int(np.prod(tensor.dims)) * 4
        for node in graph.node:
            self._nodes[node.name] = node
            if node.op_type == "Constant":
                self._weights.update(node.output)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._read(attribute.g)

    def run(self, feeds: Tensors, *, write: bool) -> tuple[Tensors, list[Operator], int]:
        """Outputs, operators and the most bytes held at one time."""
        import onnxruntime as ort

        with tempfile.TemporaryDirectory(prefix="accel-profile-") as folder:
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            # the profile leaves out the shapes of weights that were packed
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_profiling = write
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = ort.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
            found = dict(zip(self._outputs, session.run(self._outputs, feeds), strict=True))
            if not write:
                return found, [], 0
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        operators = list(self._operators(events))
        held = max((sum(t.nbytes for t in (*op.inputs, *op.outputs) if not t.parameter) for op in operators), default=0)
        return found, operators, held + sum(array.nbytes for array in feeds.values())

    def _operators(self, events: list[dict[str, Any]]) -> Iterator[Operator]:
        makers: dict[str, str] = {}
        for event in events:
            facts = event.get("args", {})
            if event.get("cat") != "Node" or "output_type_shape" not in facts:
                continue
            name, kind_name = event["name"].removesuffix("_kernel_time"), facts.get("op_name", "")
            node = self._nodes.get(name)
            kind = KIND_OF.get(kind_name, "other")
            given = [n for n in node.input if n] if node is not None else []
            inputs = [
                _tensor(one, i < len(given) and given[i] in self._weights)
                for i, one in enumerate(facts["input_type_shape"])
            ]
            outputs = [_tensor(one, False) for one in facts["output_type_shape"]]
            after = next((makers[n] for n in given if n in makers), "") if kind in FUSED else ""
            if kind != "view":
                makers.update(dict.fromkeys(node.output if node is not None else (), kind))
            yield _operator(kind, kind_name, inputs, outputs, _attributes(node), after)


def _tensor(described: dict[str, list[int]], weight: bool) -> Tensor:
    kind, shape = next(iter(described.items()))
    return Tensor(tuple(int(n) for n in shape), _ITEM.get(kind, 4), weight)


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return (
        {}
        if node is None
        else {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.HasField("g")}
    )


def _operator(
    kind: str, name: str, inputs: list[Tensor], outputs: list[Tensor], given: dict[str, Any], after: str
) -> Operator:
    """The node in the words of `operators`: factors of products as (.., rows, inner) and (.., inner, columns)."""
    attributes: dict[str, Any] = {}
    if kind == "view":
        inputs, outputs = [], []
    elif kind == "matmul" and given.get("transB"):
        inputs[1] = dataclasses.replace(inputs[1], shape=inputs[1].shape[::-1])
    elif kind == "convolution":
        attributes = {
            "stride": [int(n) for n in given.get("strides", [])] or [1],
            "groups": int(given.get("group", 1)),
            "transposed": name == "ConvTranspose",
        }
    elif kind == "attention" and len(inputs[0].shape) == 3:
        heads = int(given.get("q_num_heads", given.get("num_heads", 1)))
        inputs = [_headed(t, heads) if i < 3 and len(t.shape) == 3 else t for i, t in enumerate(inputs)]
    elif kind == "recurrent":
        attributes = {"repeat": int(np.prod(inputs[0].shape[:2]))}
    return Operator(kind, name, "", tuple(inputs), tuple(outputs), attributes, after)


def _headed(tensor: Tensor, heads: int) -> Tensor:
    batch, length, width = tensor.shape
    return dataclasses.replace(tensor, shape=(batch, heads, length, width // heads))
