"""OpenVINO: read from the ONNX export once, kept in its own format.

Bulk text on a CPU, all-MiniLM-L6-v2 in fp32, batches of 32: 1.10 (16 tokens), 1.05 (64) and 1.05 (128) times the rate,
per second of processor time, of torch's large fp32 matrix product in the same run on an AMD EPYC. Tried without gain:
fixed shapes (0.98 to 1.00, and each costs 0.3 s to compile), 32-bit ids (0.97 to 1.00). What does cost is a shape met
for the first time, 20 to 40 ms of processor time, so lengths are best rounded before batching.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import Decoding, EnginePlugin, OperatorTime, Session, Source
from accel.core.cpu import describe, limits
from accel.core.errors import AccelError, IncompatibleError, OutOfMemoryError, UnavailableError
from accel.core.fingerprint import engine_version
from accel.core.types import GraphSpec, Plan, Recipe, TensorSpec

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
#: activations that share a scale when OpenVINO quantises them as they occur, by variant
_GROUPS = {"weights": "32", "weights128": "128"}
#: instruction sets without one of which a CPU multiplies the quantised weights as floats after all
_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "dotprod"}
_CONVOLUTIONS = ("cnn", "diffusion")
#: how lines of OpenVINO's errors begin that do not say what is wrong
_PREAMBLE = ("Exception from", "Check '", "While validating", "FrontEnd API failed", "Model wasn't", "Summary:")


def _library() -> Any:
    """The module `openvino` without its converter, which is half of its import and brings a usage reporter."""
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    try:
        sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment] # openvino goes on without it
        import openvino
    except ImportError as error:
        raise UnavailableError(f"openvino cannot be imported: {error}", "pip install 'ipfs-accel[openvino]'") from error
    finally:
        sys.modules.pop("openvino.tools.ovc", None)
    return openvino


def _name(port: Any, specs: Sequence[TensorSpec]) -> str:
    """The recipe's name of a port, which may also go by names of tensors that equal it."""
    return next((spec.name for spec in specs if spec.name in port.names), str(port.any_name))


class OpenVinoSession(Session):
    """One compiled graph and one request per graph of the recipe."""

    def __init__(self, compiled: dict[str, Any], recipe: Recipe, precision: str) -> None:
        self.effective_precision = precision
        self._compiled = compiled
        self._specs = recipe.graphs
        self._inputs = {n: [_name(port, recipe.graphs[n].inputs) for port in c.inputs] for n, c in compiled.items()}
        self._outputs = {n: [_name(port, recipe.graphs[n].outputs) for port in c.outputs] for n, c in compiled.items()}
        self._requests = {name: c.create_infer_request() for name, c in compiled.items()}

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """See `Session.run`."""
        request, inputs, outputs = self._requests[graph], self._inputs[graph], self._outputs[graph]
        try:
            if self._specs[graph].cache:
                from accel.engines._openvino_state import run_with_state

                return run_with_state(request, inputs, outputs, self._specs[graph], feeds)
            found = request.infer([feeds[name] for name in inputs], share_inputs=True, share_outputs=True)
            # copies, since the next call writes over what it shares
            return {name: found[i].copy() for i, name in enumerate(outputs)}
        except RuntimeError as error:
            raise _explained(error, f"executing the graph {graph!r}") from error

    def decode(self, graph: GraphSpec, feeds: Tensors, max_length: int) -> Decoding:
        """See `Session.decode`. The cache grows inside OpenVINO."""
        from accel.engines._openvino_state import StateDecoding

        request = self._compiled[graph.name].create_infer_request()
        logits = self._outputs[graph.name].index("logits")
        return StateDecoding(request, self._inputs[graph.name], logits, graph, feeds)

    def operator_times(self, run: Callable[[], object]) -> list[OperatorTime]:
        """See `Session.operator_times`."""
        from accel.engines._openvino_timing import TimedModel

        timed = [model for model in self._compiled.values() if isinstance(model, TimedModel)]
        for model in timed:
            model.times.clear()
        run()
        return [one for model in timed for one in model.times]

    def close(self) -> None:
        """Frees graphs and weights."""
        self._requests.clear()
        self._compiled.clear()


def _explained(error: Exception, doing: str) -> AccelError:
    text = str(error)
    if "bad_alloc" in text or "allocate" in text.lower() or "CL_OUT_OF_" in text:
        return OutOfMemoryError(f"memory ran out {doing} with OpenVINO", "use a smaller batch")
    return IncompatibleError(f"OpenVINO failed {doing}: {_reason(text)}", "use another engine (--engine)")


def _reason(text: str) -> str:
    """What OpenVINO says, without the places in its source where it says it."""
    lines = [line.strip(" -") for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(_PREAMBLE)]
    reason = (told or [text])[0]
    return reason if len(reason) <= 300 else reason[:297] + "..."


class OpenVinoEngine(EnginePlugin):
    """OpenVINO on its CPU, GPU and NPU."""

    name = "openvino"
    platforms = ("openvino",)

    def missing(self) -> str | None:
        """See `EnginePlugin.missing`."""
        return None if engine_version("openvino") else "openvino is not installed: pip install 'ipfs-accel[openvino]'"

    def version(self) -> str:
        """See `EnginePlugin.version`."""
        return engine_version("openvino") or "unknown"

    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        """See `EnginePlugin.plans`. On a CPU only what it has instructions for, since OpenVINO falls back silently."""
        ways = [("fp32", "")]
        if device.startswith("openvino:CPU"):
            has = set(describe().features)
            ways += [("bf16", "")] if has & {"avx512_bf16", "amx_bf16", "bf16"} else []
            ways += [("fp16", "")] if has & {"avx512_fp16", "amx_fp16", "fp16"} else []
            int8 = bool(has & _INT8)
        else:
            ways.append(("fp16", ""))
            int8 = True
        if int8 and engine_version("nncf"):
            if recipe.family not in _CONVOLUTIONS:
                ways += [("int8", variant) for variant in _GROUPS]
            if not any(g.cache for g in recipe.graphs.values()):
                ways.append(("int8", "calibrated"))
        return [Plan(device, "openvino", self.name, p, variant=v) for p, v in ways if p in precisions]

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """See `EnginePlugin.prepare`. Writes `<graph>.xml` and `.bin` per graph, and checks that they compile."""
        ov = _library()
        core = ov.Core()
        for name, spec in source.recipe.graphs.items():
            try:
                model = _quantised(core.read_model(source.onnx(name)), source, name, plan)
                if spec.cache:
                    from accel.engines._openvino_state import make_stateful

                    make_stateful(model, spec)
                ov.save_model(model, folder / f"{name}.xml", compress_to_fp16=False)
                del model
                _check_precision(_compile(core, folder, name, plan), plan)
            except RuntimeError as error:
                raise _explained(error, f"compiling the graph {name!r}") from error

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        """See `EnginePlugin.load`."""
        return OpenVinoSession(_opened(folder, recipe, plan, {}), recipe, plan.precision)

    def load_timed(self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None) -> Session:
        """See `EnginePlugin.load_timed`."""
        from accel.engines._openvino_timing import TimedModel

        compiled = _opened(folder, recipe, plan, {"PERF_COUNT": "YES"})
        timed = {name: TimedModel(model) for name, model in compiled.items()}
        return OpenVinoSession(timed, recipe, plan.precision)


def _opened(folder: Path, recipe: Recipe, plan: Plan, more: dict[str, Any]) -> dict[str, Any]:
    core = _library().Core()
    compiled = {}
    for name in recipe.graphs:
        try:
            compiled[name] = _compile(core, folder, name, plan, more)
        except RuntimeError as error:
            raise _explained(error, f"opening the graph {name!r}") from error
    return compiled


def _compile(core: Any, folder: Path, name: str, plan: Plan, more: dict[str, Any] | None = None) -> Any:
    return core.compile_model(folder / f"{name}.xml", _unit(plan), _settings(plan, folder) | (more or {}))


def _unit(plan: Plan) -> str:
    return plan.device.partition(":")[2] or "CPU"


def _settings(plan: Plan, folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _TYPES[plan.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    if _unit(plan) == "CPU":
        settings["INFERENCE_NUM_THREADS"] = str(plan.threads or limits()[1])
        settings["KV_CACHE_PRECISION"] = _TYPES[plan.precision]
    else:
        # Compiling for a GPU takes many seconds. Not for the CPU, whose compiled graphs do not survive it: with
        # OpenVINO 2026.4 one with rotary embeddings computes something else once it has been exported and imported.
        settings["CACHE_DIR"] = str(folder / "compiled")
    if plan.variant in _GROUPS:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _GROUPS[plan.variant]
    return settings


def _quantised(model: Any, source: Source, graph: str, plan: Plan) -> Any:
    if plan.precision != "int8":
        return model
    from accel.core import quantize

    if plan.variant == "calibrated":
        transformer = source.recipe.family not in _CONVOLUTIONS
        return quantize.openvino_calibrated(model, source.calibration(graph), transformer=transformer)
    return quantize.openvino_weights(model)


def _check_precision(compiled: Any, plan: Plan) -> None:
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != _TYPES[plan.precision]:
        raise IncompatibleError(
            f"OpenVINO computes in {found} on {plan.device} where {plan.precision} is asked for", "use --precision fp32"
        )


PLUGIN = OpenVinoEngine
