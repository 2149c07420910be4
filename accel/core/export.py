"""From a torch module to a checked ONNX file, and from an ONNX file to what it says of itself."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from accel.core.contracts import TorchGraph
from accel.core.errors import IncompatibleError, InputError
from accel.core.types import GraphSpec, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: largest difference from the module that an export may have, relative to the largest value of the output
TOLERANCE = 1e-4
#: operator sets, best first. From 23 on, attention stays one operator (ONNX `Attention`), which ONNX Runtime's CPU code
#: executes 1.08 times as fast as the pieces it is made of; not every model can be expressed in it
OPSETS = (23, 18)
#: what could not be exported, by module and graph: the next engine that needs it does not wait for the same refusal
_refused: WeakKeyDictionary[Any, dict[str, IncompatibleError]] = WeakKeyDictionary()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps exporters and quantisers from writing to stdout, stderr, the log and the warnings while they work."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def cause(error: BaseException) -> str:
    """The engine's own reason in one line: the deepest exception of the chain, without its traceback text."""
    seen: set[int] = set()
    while error.__cause__ is not None and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _disk_error(error: BaseException | None) -> OSError | None:
    """The file system's own error in a chain of exceptions: it says nothing about the model."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def export(graph: TorchGraph, path: Path) -> None:
    """Writes the module as fp32 ONNX with its weights beside it in one file, `<name>.data`, and checks it.

    The named axes of the spec stay dynamic. The file is run with ONNX Runtime on the example and on other sizes of
    the dynamic axes, and must give the module's own outputs.

    Raises:
        IncompatibleError: an operator cannot be exported, or the export computes something else.
    """
    refused = _refused.setdefault(graph.module, {})
    if graph.spec.name in refused:
        raise refused[graph.spec.name]
    ways: dict[str, Callable[[], None]] = {
        **{f"opset {opset}": functools.partial(_export_dynamo, graph, path, opset) for opset in OPSETS},
        "traced": functools.partial(_export_traced, graph, path),
    }
    reasons: dict[str, object] = {}
    captured = True
    for name, way in ways.items():
        if not captured and name != "traced":
            continue
        for leftover in path.parent.glob(f"{path.name}*"):
            leftover.unlink()
        try:
            with quiet():
                way()
            check(graph, path)
            return
        except IncompatibleError as error:
            reasons[name] = error.message
        except Exception as error:  # the exporters raise whatever the model's own code raises
            disk = _disk_error(error)
            if disk is not None:
                raise disk from error
            reasons[name] = cause(error)
            # torch's public name for it does not exist: what cannot be captured is so for every operator set
            captured = type(error).__name__ != "TorchExportError"
    refused[graph.spec.name] = IncompatibleError(
        f"the graph {graph.spec.name!r} cannot be exported to ONNX: {next(iter(reasons.values()))}",
        "run it with --engine torch",
        {"reasons": reasons},
    )
    raise refused[graph.spec.name]


def _positional(graph: TorchGraph) -> tuple[Any, tuple[Any, ...]]:
    """The module with a plain `forward(*tensors)` that returns a tuple, and its example arguments."""
    import torch

    class Positional(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            outputs = self.module(*tensors)
            return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)

    return Positional(graph.module).eval(), tuple(graph.example[t.name] for t in graph.spec.inputs)


def _axes(tensor: TensorSpec) -> dict[int, str]:
    return {i: axis for i, axis in enumerate(tensor.axes) if isinstance(axis, str)}


def _export_dynamo(graph: TorchGraph, path: Path, opset: int) -> None:
    import torch

    module, arguments = _positional(graph)
    shapes = tuple(dict.fromkeys(_axes(t), torch.export.Dim.AUTO) for t in graph.spec.inputs)
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            verbose=False,
            input_names=[t.name for t in graph.spec.inputs],
            output_names=[t.name for t in graph.spec.outputs],
            dynamic_shapes=(shapes,),
            opset_version=opset,
        )
    assert program is not None
    program.save(str(path), external_data=True)


def _export_traced(graph: TorchGraph, path: Path) -> None:
    """The older exporter, which writes down what one execution did.

    What depends on values or sizes in Python is lost that way, so its warnings of that are taken as refusals.
    """
    import onnx
    import torch

    module, arguments = _positional(graph)
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.onnx.export(
            module,
            arguments,
            str(path),
            dynamo=False,
            input_names=[t.name for t in graph.spec.inputs],
            output_names=[t.name for t in graph.spec.outputs],
            dynamic_axes={t.name: _axes(t) for t in (*graph.spec.inputs, *graph.spec.outputs)},
            opset_version=17,
        )
    for warning in said:
        if issubclass(warning.category, torch.jit.TracerWarning):
            raise IncompatibleError(f"tracing loses a decision: {cause(Exception(str(warning.message)))}")
    model = onnx.load(str(path))
    save(model, path)


def save(model: Any, path: Path) -> None:
    """Writes an `onnx.ModelProto` with its weights beside it in `<name>.data`.

    onnx's own function for that looks for the file of weights in the current folder, and refuses if one is there.
    """
    import onnx
    from onnx.external_data_helper import set_external_data

    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data") and len(tensor.raw_data) >= 1024:
            set_external_data(tensor, f"{path.name}.data")
    onnx.save_model(model, str(path))


def axis_sizes(graph: TorchGraph) -> dict[str, int]:
    """Size of every dynamic axis in the example."""
    return {axis: int(graph.example[t.name].shape[i]) for t in graph.spec.inputs for i, axis in _axes(t).items()}


def resized(graph: TorchGraph, sizes: dict[str, int]) -> dict[str, Any]:
    """The example with other sizes of its dynamic axes, cut or repeated. An axis `a+b` is as long as both together."""
    import torch

    result = {}
    for spec in graph.spec.inputs:
        tensor = graph.example[spec.name]
        for i, axis in _axes(spec).items():
            size = sizes[axis] if axis in sizes else sum(sizes[part.strip()] for part in axis.split("+"))
            tensor = tensor.index_select(i, torch.arange(size) % max(1, tensor.shape[i]))
        result[spec.name] = tensor.contiguous()
    return result


def check(graph: TorchGraph, path: Path) -> None:
    """Compares the export with the module on the example and on other sizes of the dynamic axes.

    Raises:
        IncompatibleError: names or values differ.
    """
    import torch

    found = spec_of(path)
    for kind in ("inputs", "outputs"):
        wanted = [t.name for t in getattr(graph.spec, kind)]
        got = [t.name for t in getattr(found, kind)]
        if wanted != got:
            raise IncompatibleError(f"the export has the {kind} {', '.join(got)} in place of {', '.join(wanted)}")
    session = _plain_session(path)
    base = {a: n for a, n in axis_sizes(graph).items() if "+" not in a}
    trials = [base]
    for change in ({"batch": 1}, {"past": 0}, {a: 2 * n for a, n in base.items() if a != "batch"}):
        sizes = base | {a: n for a, n in change.items() if a in base}
        if sizes not in trials:
            trials.append(sizes)
    for sizes in trials:
        feeds = resized(graph, sizes)
        try:
            with torch.no_grad():
                expected = graph.module(*(feeds[t.name] for t in graph.spec.inputs))
        except Exception:  # sizes that the module itself refuses prove nothing about the export
            if sizes is base:
                raise
            continue
        expected = expected if isinstance(expected, (tuple, list)) else (expected,)
        actual = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
        for spec, want, got in zip(graph.spec.outputs, expected, actual, strict=True):
            problem = difference(want.detach().numpy(), got)
            if problem:
                raise IncompatibleError(f"the export's output {spec.name} differs at sizes {sizes}: {problem}")


def difference(want: Array, got: Array) -> str:
    """What is wrong with `got` in one phrase, empty if it equals `want` within `TOLERANCE`."""
    import numpy as np

    if want.shape != got.shape:
        return f"shape {list(got.shape)} in place of {list(want.shape)}"
    if want.size == 0:
        return ""
    if not np.issubdtype(want.dtype, np.floating):
        return "" if np.array_equal(want, got) else "other values"
    if not np.array_equal(np.isfinite(want), np.isfinite(got)):
        return "not a number"
    finite = np.isfinite(want)
    if not finite.any():
        return ""
    worst = float(np.abs(want[finite] - got[finite]).max())
    scale = max(1.0, float(np.abs(want[finite]).max()))
    return "" if worst <= TOLERANCE * scale else f"by up to {worst:.2g}"


def _plain_session(path: Path) -> Any:
    """An ONNX Runtime session that executes the file as written, since it will be run a few times only."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise IncompatibleError(f"ONNX Runtime cannot open the graph: {cause(error)}") from error


def spec_of(path: Path, name: str = "model") -> GraphSpec:
    """Names, types and axes of an ONNX file, read without its external data.

    Raises:
        InputError: not an ONNX file, or its weights are said to lie outside its own folder.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no public home
        raise InputError(
            f"{path} is not an ONNX file: {cause(error)}", "give the path of a whole .onnx file"
        ) from error
    if not model.graph.output:
        raise InputError(f"{path} is not an ONNX file: it has no outputs", "give the path of a whole .onnx file")
    _refuse_outside(model, path)
    weights = {i.name for i in model.graph.initializer}
    inputs = tuple(_tensor(v, onnx) for v in model.graph.input if v.name not in weights)
    outputs = tuple(_tensor(v, onnx) for v in model.graph.output)
    return GraphSpec(name, inputs, outputs, cache=any(t.name.startswith("past_key_values.") for t in inputs))


def _tensor(value: Any, onnx: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type":
        raise InputError(f"{value.name} is a {value.type.WhichOneof('value')}, and only tensors are supported")
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    axes = [
        axis.dim_value if axis.WhichOneof("value") == "dim_value" else (axis.dim_param or f"{value.name}_{i}")
        for i, axis in enumerate(tensor.shape.dim)
    ]
    return TensorSpec(value.name, dtype, tuple(axes))


def external_files(path: Path) -> tuple[str, ...]:
    """Files beside an ONNX file that hold its weights, as it names them. Raises InputError as `spec_of` does."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    _refuse_outside(model, path)
    return tuple(sorted(_locations(model)))


def _locations(model: Any) -> set[str]:
    from onnx import TensorProto
    from onnx.external_data_helper import _get_all_tensors

    return {
        entry.value
        for tensor in _get_all_tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _refuse_outside(model: Any, path: Path) -> None:
    folder = path.parent.resolve()
    for location in _locations(model):
        hostile = (
            PurePosixPath(location).is_absolute()
            or PureWindowsPath(location).is_absolute()
            or ".." in PureWindowsPath(location).parts
            or not (folder / location).resolve().is_relative_to(folder)
        )
        if hostile:
            raise InputError(
                f"{path} keeps weights at {location!r}, outside its own folder",
                "do not use this file, or save it again with its weights beside it",
                {"location": location, "folder": os.fspath(folder)},
            )
