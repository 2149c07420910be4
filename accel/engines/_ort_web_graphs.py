"""Graphs as onnxruntime-web gets them: exact rewritings of what WebGPU and WebNN lack or get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accel.core.errors import IncompatibleError

#: operators that onnxruntime-web has on WebAssembly only, although what they stand for runs on WebGPU and WebNN
_EXPANDED = ("Attention", "RotaryEmbedding", "RMSNormalization", "CastLike")


def write(exported: Path, graph: str, folder: Path, *, rewritten: bool) -> dict[str, Any]:
    """Writes an export as `<graph>.onnx` with its weights in `<graph>.onnx.data`, and says what its axes are called.

    Args:
        rewritten: for WebGPU and WebNN, whose graph is optimised in the page, where it is known what they take. For
            WebAssembly it is optimised here: that is most of the time that the page needs to open it.

    Raises:
        IncompatibleError: an operator is unknown to ONNX Runtime.
    """
    import onnx

    from accel.core.export import save

    target = folder / f"{graph}.onnx"
    weights = f"{target.name}.data"
    if rewritten:
        _open(exported)
        model = onnx.load(str(exported))
        _flatten_gathers(model)
        model = _expand(model, graph)
        save(model, target)
    else:
        _open(exported, target)
        model = onnx.load(str(target), load_external_data=False)
    axes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    data = [weights] if (folder / weights).exists() else []
    return {"file": target.name, "data": data, "axes": axes, "optimise": "all" if rewritten else "disabled"}


def _open(exported: Path, optimised: Path | None = None) -> None:
    """Has ONNX Runtime itself look at the graph: what its own library does not know, its web build does not either.

    Args:
        optimised: where to write it as ONNX Runtime's optimiser leaves it, without layouts of this very processor.
    """
    import onnxruntime as ort

    from accel.core.export import cause

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    if optimised is not None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimised)
        beside = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{beside}_file_name", f"{optimised.name}.data")
        options.add_session_config_entry(f"{beside}_min_size_in_bytes", "1024")
    try:
        ort.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise IncompatibleError(
            f"ONNX Runtime cannot open the graph: {cause(error)}", "use another engine (--engine)"
        ) from error


def _expand(model: Any, graph: str) -> Any:
    """Writes operators as the pieces that the ONNX standard defines them by."""
    from onnx import inliner

    from accel.core.export import cause, quiet

    if not any(node.op_type in _EXPANDED and node.domain in ("", "ai.onnx") for node in model.graph.node):
        return model
    try:
        with quiet():
            return inliner.inline_selected_functions(
                model, [("", name) for name in _EXPANDED], exclude=False, inline_schema_functions=True
            )
    except Exception as error:  # onnx's C++ checks raise what they like
        raise IncompatibleError(
            f"the graph {graph!r} cannot be expanded for a browser: {cause(error)}", "use another engine (--engine)"
        ) from error


def _flatten_gathers(model: Any) -> None:
    """Writes every `GatherND` that picks single numbers as a `Gather` from the flattened tensor.

    WebNN's CPU library loses its context over the former (Chromium 147, masks of attention), and WebGPU lacks it.
    """
    from onnx import TensorProto, shape_inference

    if not any(node.op_type == "GatherND" for node in model.graph.node):
        return
    known = {}
    inferred = shape_inference.infer_shapes(_without_weights(model)).graph
    for value in (*inferred.value_info, *inferred.input):
        tensor = value.type.tensor_type
        known[value.name] = (tensor.elem_type, [d.dim_value for d in tensor.shape.dim])
    nodes: list[Any] = []
    for node in model.graph.node:
        data, indices = (known.get(name) for name in node.input[:2]) if node.op_type == "GatherND" else (None, None)
        if not data or not indices or any(a.i for a in node.attribute) or indices[1][-1] != len(data[1]):
            nodes.append(node)
        else:
            nodes += _flat_gather(node, len(data[1]), is_bool=data[0] == TensorProto.BOOL)
            _add_constants(model.graph, node.output[0])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _without_weights(model: Any) -> Any:
    """A copy for the inference of shapes, which large weights do not matter to."""
    import onnx

    small = onnx.ModelProto()
    small.CopyFrom(model)
    del small.graph.initializer[:]
    for weight in model.graph.initializer:
        if weight.ByteSize() < 4096:
            small.graph.initializer.append(weight)
        else:
            small.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    return small


def _add_constants(graph: Any, prefix: str) -> None:
    import numpy as np
    from onnx import numpy_helper

    for name, value in (("last", -1), ("one", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"{prefix}.{name}"))


def _flat_gather(node: Any, rank: int, *, is_bool: bool) -> list[Any]:
    """The pieces: each index times the size of what it steps over, summed."""
    from onnx import TensorProto
    from onnx.helper import make_node

    (data, indices), output = node.input[:2], node.output[0]
    named = {key: f"{output}.{key}" for key in ("number", "flat", "steps", "scaled", "index", "found", "last", "one")}
    nodes = [make_node("Cast", [data], [named["number"]], to=TensorProto.FLOAT)] if is_bool else []
    nodes.append(make_node("Reshape", [named["number"] if is_bool else data, named["last"]], [named["flat"]]))
    steps = []
    for axis in range(1, rank):
        shape, step = f"{output}.shape{axis}", f"{output}.step{axis}"
        nodes.append(make_node("Shape", [data], [shape], start=axis))
        nodes.append(make_node("ReduceProd", [shape], [step], keepdims=1))
        steps.append(step)
    nodes += [
        make_node("Concat", [*steps, named["one"]], [named["steps"]], axis=0),
        make_node("Mul", [indices, named["steps"]], [named["scaled"]]),
        make_node("ReduceSum", [named["scaled"], named["last"]], [named["index"]], keepdims=0),
        make_node("Gather", [named["flat"], named["index"]], [named["found"] if is_bool else output], axis=0),
    ]
    if is_bool:
        nodes.append(make_node("Cast", [named["found"]], [output], to=TensorProto.BOOL))
    return nodes
