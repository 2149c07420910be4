"""Makes the graphs of `kernels` executable in each engine, in the way that the engine's own plugin does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.core.performance.kernels import Kernel
from accel.core.performance.operators import Operator

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

Run = Callable[[], object]
#: bytes of all inputs that take turns: more than the private caches of a core hold
AROUND = 16 << 20


def input_of(kernel: Kernel) -> Array:
    """The graph's input: small random numbers, or row numbers of a table."""
    random = np.random.default_rng(0)
    if kernel.kind == "gather":
        return random.integers(0, kernel.out, kernel.shape[:-1])
    return random.standard_normal(kernel.shape).astype(np.float32)


def _turns(kernel: Kernel) -> int:
    """How many inputs take turns: in a network what an operator reads was not read by it a moment ago."""
    return max(1, min(8, AROUND // max(1, 4 * math.prod(kernel.shape))))


def _weights(shape: tuple[int, ...], number: int) -> Array:
    scale = 1.0 / max(1.0, float(np.prod(shape[1:]))) ** 0.5
    # a repeated pattern costs a hundredth of drawing numbers, and arithmetic takes as long
    pattern = (np.arange(4093, dtype=np.float32) % 97 - 48 + number % 7) * np.float32(scale / 28)
    return np.resize(pattern, shape)


def torch_run(kernel: Kernel) -> Run:
    """The graph in torch eager."""
    import torch
    from torch.nn import functional as f

    x = torch.from_numpy(input_of(kernel))
    turns = itertools.cycle([x.clone() for _ in range(_turns(kernel))])
    pad = 0 if kernel.stride == kernel.size else kernel.size // 2
    slide = f.conv1d if kernel.kind == "conv1d" else f.conv2d

    def step_of(number: int, op: Operator) -> Callable[[Any], Any]:
        own = [torch.from_numpy(_weights(t.shape, number)) for t in op.inputs if t.parameter]
        if kernel.kind == "linear":
            own[0] = own[0].t().contiguous()
        right = torch.from_numpy(_weights(op.inputs[1].shape, number)) if kernel.kind == "bmm" else None
        ways: dict[str, Callable[[Any], Any]] = {
            "linear": lambda y: f.linear(y, own[0], own[1]),
            "bmm": lambda y: torch.matmul(y, right),
            "conv2d": lambda y: slide(y, own[0], own[1], kernel.stride, pad, groups=kernel.groups),
            "conv1d": lambda y: slide(y, own[0], own[1], kernel.stride, pad, groups=kernel.groups),
            "attention": lambda y: f.scaled_dot_product_attention(y, y, y),
            "layernorm": lambda y: f.layer_norm(y, kernel.shape[-1:], own[0], own[1]),
            "batchnorm": lambda y: f.batch_norm(y, own[0], own[1].abs() + 1.0, own[2], own[3]),
            "groupnorm": lambda y: f.group_norm(y, 8, own[0], own[1]),
            "gather": lambda y: f.embedding(y, own[0]),
            "softmax": lambda y: f.softmax(y, -1),
            "gelu": lambda y: f.gelu(y),
            "relu": lambda y: f.relu(y),
            "add": lambda y: y + x,
            "copy": lambda y: y.clone(),
            "view": lambda y: y.view(kernel.shape),
            "call": lambda y: y,
        }
        return ways[kernel.kind]

    steps = [step_of(number, op) for number, op in enumerate(kernel.operators)]

    def run() -> object:
        with torch.inference_mode():
            y = next(turns)
            for step in steps:
                y = step(y)
            return y

    return run


def onnx_model(kernel: Kernel) -> bytes:
    """The graph as ONNX. A view is an `Identity`, a copy a `Transpose`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, initialisers = [], []
    last = "x"
    shape: tuple[int, ...] = kernel.shape
    for number, op in enumerate(kernel.operators):
        out = f"y{number}"
        own = [_weights(t.shape, number) for t in op.inputs if t.parameter]
        names = [f"w{number}_{i}" for i in range(len(own))]
        initialisers += [numpy_helper.from_array(array, name) for array, name in zip(own, names, strict=True)]
        shape = op.outputs[0].shape
        if kernel.kind == "linear":
            nodes += [
                helper.make_node("MatMul", [last, names[0]], [f"{out}m"]),
                helper.make_node("Add", [f"{out}m", names[1]], [out]),
            ]
        elif kernel.kind == "bmm":
            initialisers.append(numpy_helper.from_array(_weights(op.inputs[1].shape, number), f"r{number}"))
            # a constant would be packed once, which the product of two results in a network cannot be
            nodes += [
                helper.make_node("Add", [f"r{number}", "zero"], [f"{out}r"]),
                helper.make_node("MatMul", [last, f"{out}r"], [out]),
            ]
        elif kernel.kind in ("conv2d", "conv1d"):
            pad = 0 if kernel.stride == kernel.size else kernel.size // 2
            flat = len(shape) - 2
            nodes.append(
                helper.make_node(
                    "Conv", [last, *names], [out], strides=[kernel.stride] * flat, pads=[pad] * 2 * flat,
                    group=kernel.groups,
                )
            )  # fmt: skip
        elif kernel.kind == "attention":
            nodes.append(helper.make_node("Attention", [last] * 3, [out]))
        elif kernel.kind == "layernorm":
            nodes.append(helper.make_node("LayerNormalization", [last, *names], [out], axis=-1))
        elif kernel.kind == "batchnorm":
            initialisers[-1] = numpy_helper.from_array(np.abs(own[3]) + 1.0, names[3])
            nodes.append(helper.make_node("BatchNormalization", [last, *names], [out]))
        elif kernel.kind == "groupnorm":
            nodes.append(helper.make_node("GroupNormalization", [last, *names], [out], num_groups=8))
        elif kernel.kind == "gather":
            nodes.append(helper.make_node("Gather", [names[0], last], [out]))
        elif kernel.kind == "copy":
            shape = shape[::-1]
            nodes.append(helper.make_node("Transpose", [last], [out], perm=[1, 0]))
        elif kernel.kind == "add":
            nodes.append(helper.make_node("Add", [last, "x" if number % 2 else "other"], [out]))
        else:
            kind = {"softmax": "Softmax", "gelu": "Gelu", "relu": "Relu", "view": "Identity", "call": "Identity"}
            nodes.append(helper.make_node(kind[kernel.kind], [last], [out]))
        last = out
    kind = TensorProto.INT64 if kernel.kind == "gather" else TensorProto.FLOAT
    first = helper.make_tensor_value_info("x", kind, kernel.shape[:-1] if kernel.kind == "gather" else kernel.shape)
    inputs = [first]
    if kernel.kind == "add":
        inputs.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, kernel.shape))
    if kernel.kind == "bmm":
        inputs.append(helper.make_tensor_value_info("zero", TensorProto.FLOAT, (1,)))
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "kernel", inputs, [result], initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    data: bytes = onnx.ModelProto.SerializeToString(model)
    return data


def _feeds(kernel: Kernel) -> dict[str, Array]:
    feeds = {"x": input_of(kernel)}
    if kernel.kind == "add":
        feeds["other"] = feeds["x"].copy()
    if kernel.kind == "bmm":
        feeds["zero"] = np.zeros(1, np.float32)
    return feeds


def onnxruntime_run(kernel: Kernel, threads: int) -> Run:
    """The graph in ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(onnx_model(kernel), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    turns = itertools.cycle([_feeds(kernel) for _ in range(_turns(kernel))])
    return lambda: session.run(names, next(turns))


def openvino_run(kernel: Kernel, threads: int) -> Run:
    """The graph in OpenVINO, fp32 on the CPU."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    compiled = core.compile_model(core.read_model(onnx_model(kernel)), "CPU", settings)
    request = compiled.create_infer_request()

    def tensors() -> dict[str, Any]:
        return {name: openvino.Tensor(array) for name, array in _feeds(kernel).items()}

    turns = itertools.cycle([tensors() for _ in range(_turns(kernel))])
    return lambda: request.infer(next(turns))


def run_of(engine: str, kernel: Kernel, threads: int) -> Run:
    """A call that executes the graph once."""
    if engine == "torch":
        return torch_run(kernel)
    return onnxruntime_run(kernel, threads) if engine == "onnxruntime" else openvino_run(kernel, threads)
