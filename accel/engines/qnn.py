"""Qualcomm's Hexagon processors through onnxruntime-qnn, a plugin of ONNX Runtime; on x86 its library is an emulator.

The processor executes graphs of fixed shape. What is kept is the graph with open shapes; a session fixes the shapes it
meets, with lengths rounded up and padded where the graph takes an attention mask, and one row at a time.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import EnginePlugin, Session, Source
from accel.core.errors import IncompatibleError, UnavailableError
from accel.core.fingerprint import engine_version
from accel.core.padding import cut, padded
from accel.core.types import GraphSpec, Plan, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

_PROVIDER = "QNNExecutionProvider"
#: the Snapdragon X Elite. The emulator has to be told which chip it is: its default one has too little memory for
#: attention ("QNN_COMMON_ERROR_MEM_ALLOC")
_EMULATED_CHIP = "60"
#: operators that the work is in; most of them have to run on the processor for it to count as having run there
_HEAVY = {"MatMul", "Gemm", "Conv", "ConvTranspose"}


class QnnSession(Session):
    """Compiled graphs by name and shape, made when a shape is first met."""

    def __init__(self, folder: Path, recipe: Recipe, precision: str) -> None:
        self.effective_precision = precision
        self._folder = folder
        self._specs = recipe.graphs
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """See `Session.run`.

        Raises:
            IncompatibleError: the graph does not compile for this shape, or its output is not a number.
        """
        import numpy as np

        spec = self._specs[graph]
        if any(t.axes[:1] != ("batch",) for t in (*spec.inputs, *spec.outputs)):
            return self._run_fixed(spec, feeds)
        rows = len(feeds[spec.inputs[0].name])
        parts = [self._run_fixed(spec, {n: a[i : i + 1] for n, a in feeds.items()}) for i in range(rows)]
        return {t.name: np.concatenate([part[t.name] for part in parts]) for t in spec.outputs}

    def _run_fixed(self, spec: GraphSpec, feeds: Tensors) -> Tensors:
        import numpy as np

        wide, sizes = padded(spec, feeds)
        session = self._session(spec.name, {n: a.shape for n, a in wide.items()})
        names = [t.name for t in spec.outputs]
        try:
            found = session.run(names, wide)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise _failed(error, f"executing the graph {spec.name!r}") from error
        results = cut(spec, dict(zip(names, found, strict=True)), sizes)
        for name, array in results.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise IncompatibleError(
                    f"QNN's output {name} has values that are not numbers", "use another engine (--engine)"
                )
        return results

    def _session(self, graph: str, shapes: dict[str, tuple[int, ...]]) -> Any:
        key = (graph, *sorted(shapes.items()))
        if key not in self._compiled:
            self._compiled[key] = _compile(self._folder / f"{graph}.onnx", shapes)
        return self._compiled[key]

    def close(self) -> None:
        """Frees the compiled graphs."""
        self._compiled.clear()


class QnnEngine(EnginePlugin):
    """ONNX Runtime with Qualcomm's plugin."""

    name = "qnn"
    platforms = ("qualcomm",)

    def missing(self) -> str | None:
        """See `EnginePlugin.missing`."""
        if engine_version("onnxruntime-qnn"):
            return None
        return "onnxruntime-qnn is not installed: pip install 'ipfs-accel[qualcomm]'"

    def version(self) -> str:
        """See `EnginePlugin.version`."""
        return f"{engine_version('onnxruntime-qnn')}+{engine_version('onnxruntime')}"

    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        """See `EnginePlugin.plans`. No fp32, which the processor does not have, and no key-value cache, which grows."""
        if any(graph.cache for graph in recipe.graphs.values()):
            return []
        ways = [("fp16", ""), ("int8", "calibrated")]
        return [Plan(device, "qualcomm", self.name, p, variant=v) for p, v in ways if p in precisions]

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """See `EnginePlugin.prepare`. Writes `<graph>.onnx` and its weights, and compiles it for one real feed."""
        from accel.core import quantize

        for graph, spec in source.recipe.graphs.items():
            target = folder / f"{graph}.onnx"
            feeds = list(source.calibration(graph))
            if plan.precision == "int8":
                quantize.calibrated(source.onnx(graph), target, feeds, wide_activations=True)
            else:
                quantize.finite(source.onnx(graph), target)
            if feeds:
                one = {n: a[:1] if spec.inputs[0].axes[:1] == ("batch",) else a for n, a in feeds[0].items()}
                wide, _ = padded(spec, one)
                _compile(target, {n: a.shape for n, a in wide.items()}, proving=True)

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        """See `EnginePlugin.load`."""
        _device()
        return QnnSession(folder, recipe, plan.precision)


def _device() -> Any:
    """Qualcomm's device as ONNX Runtime sees it: the NPU, or else whatever the plugin offers (the emulator)."""
    import onnxruntime as ort

    found = [d for d in ort.get_ep_devices() if d.ep_name == _PROVIDER]
    if not found:
        try:
            import onnxruntime_qnn

            ort.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
        except Exception as error:  # a missing system library and a wrong version are told apart by their text only
            raise UnavailableError(
                f"onnxruntime-qnn does not load: {error}", "pip install --force-reinstall onnxruntime-qnn"
            ) from error
        found = [d for d in ort.get_ep_devices() if d.ep_name == _PROVIDER]
    if not found:
        raise UnavailableError("onnxruntime-qnn finds no device", "accel detect --hw qualcomm")
    return next((d for d in found if d.device.type == ort.OrtHardwareDeviceType.NPU), found[0])


def _compile(path: Path, shapes: dict[str, tuple[int, ...]], *, proving: bool = False) -> Any:
    """A session for one set of shapes; `proving` checks that the processor executes most of the work."""
    import onnx
    import onnxruntime as ort
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed

    device = _device()
    model = onnx.load(str(path))
    for name, shape in shapes.items():
        make_input_shape_fixed(model.graph, name, list(shape))
    fix_output_shapes(model)
    settings = {"backend_type": "htp"}
    if platform.machine().lower() in ("x86_64", "amd64"):
        settings["soc_model"] = _EMULATED_CHIP
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_provider_for_devices([device], settings)
    if proving:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        with _stdout_to_stderr():
            session = ort.InferenceSession(model.SerializeToString(), sess_options=options)
    except Exception as error:  # as in QnnSession
        raise _failed(error, "compiling the graph") from error
    if proving:
        _prove(session)
    return session


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Qualcomm's library writes remarks to the process's stdout, where only results belong."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _prove(session: Any) -> None:
    counts = {True: 0, False: 0}
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            if node.op_type in _HEAVY:
                counts[part.ep_name == _PROVIDER] += 1
    if counts[False] >= counts[True]:
        raise IncompatibleError(
            f"the processor would execute only {counts[True]} of the graph's {sum(counts.values())} products",
            "use --hw cpu",
        )


def _failed(error: Exception, doing: str) -> IncompatibleError:
    from accel.core.export import cause

    return IncompatibleError(f"QNN failed {doing}: {cause(error)}", "use another engine (--engine)")


PLUGIN = QnnEngine
