"""ONNX Runtime: the graph is optimised once, saved with its weights beside it, and mapped from there ever after.

Loading an optimised graph whose weights lie in a file of their own takes a tenth of the time of loading and optimising
the export: the weights are mapped, not read, and nothing is left to optimise.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import Decoding, EnginePlugin, OperatorTime, Session, Source
from accel.core.cpu import describe, limits
from accel.core.errors import IncompatibleError, UnavailableError
from accel.core.fingerprint import engine_version
from accel.core.types import GraphSpec, Plan, Recipe
from accel.engines import _gqa
from accel.engines._ort_decoding import OrtDecoding, SharedDecoding, explained

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

#: distributions that bring the module `onnxruntime`, by platform; each replaces the others
_BUILDS = {
    "cpu": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-rocm", "onnxruntime-migraphx"),
    "cuda": ("onnxruntime-gpu",),
    "rocm": ("onnxruntime-rocm", "onnxruntime-migraphx"),
}
_PROVIDERS = {"cuda": ("CUDAExecutionProvider",), "rocm": ("ROCMExecutionProvider", "MIGraphXExecutionProvider")}
#: families whose work is convolutions: only calibration makes those int8
_CONVOLUTIONS = ("cnn", "diffusion")
_WEIGHTS_BESIDE = "session.optimized_model_external_initializers_file_name"
_WEIGHTS_BESIDE_FROM = "session.optimized_model_external_initializers_min_size_in_bytes"


class OrtSession(Session):
    """One ONNX Runtime session per graph of the recipe.

    Args:
        where: device and number of it that caches of decoders live on.
        shared: the graphs write their cache in place (`_gqa`), so that they can only decode.
        profile: folder that the sessions write the times of their operators to; empty where they do not.
    """

    def __init__(
        self,
        sessions: dict[str, Any],
        precision: str,
        where: tuple[str, int] = ("cpu", 0),
        *,
        shared: bool = False,
        profile: str = "",
    ) -> None:
        self._profile = profile
        self.effective_precision = precision
        self.sessions = sessions
        self._where = where
        self._shared = shared
        self._outputs = {name: [o.name for o in s.get_outputs()] for name, s in sessions.items()}

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """See `Session.run`."""
        if self._shared:
            raise IncompatibleError(
                "a graph with grouped-query attention only decodes", "use decode, or the plain graph"
            )
        names = self._outputs[graph]
        try:
            return dict(zip(names, self.sessions[graph].run(names, feeds), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise explained(error, f"executing the graph {graph!r}") from error

    def decode(self, graph: GraphSpec, feeds: Tensors, max_length: int) -> Decoding:
        """See `Session.decode`. The cache stays inside ONNX Runtime."""
        session = self.sessions[graph.name]
        if self._shared:
            return SharedDecoding(session, graph, max_length)
        return OrtDecoding(session, graph, feeds, *self._where)

    def operator_times(self, run: Callable[[], object]) -> list[OperatorTime]:
        """See `Session.operator_times`."""
        if not self._profile:
            return []
        from accel.engines._ort_timing import read

        return read(list(self.sessions.values()), run)

    def close(self) -> None:
        """Frees graphs and weights."""
        self.sessions.clear()
        if self._profile:
            shutil.rmtree(self._profile, ignore_errors=True)


def _options(threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or limits()[1]
    return options


class OnnxRuntimeEngine(EnginePlugin):
    """ONNX Runtime on the CPU, and on a GPU where the installed build has the provider for it."""

    name = "onnxruntime"
    platforms = ("cpu", "cuda", "rocm")

    def missing(self) -> str | None:
        """See `EnginePlugin.missing`."""
        return None if self._installed("cpu") else "onnxruntime is not installed: pip install onnxruntime"

    def missing_on(self, platform: str) -> str | None:
        """See `EnginePlugin.missing_on`."""
        if self.missing() or self._installed(platform):
            return self.missing()
        build = _BUILDS[platform][0]
        return f"the installed onnxruntime is built without {platform}: pip install {build} in its place"

    def version(self) -> str:
        """See `EnginePlugin.version`."""
        return self._installed("cpu") or "unknown"

    def _installed(self, platform: str) -> str | None:
        return next((v for v in map(engine_version, _BUILDS[platform]) if v), None)

    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        """See `EnginePlugin.plans`. fp16 and bf16 are left to GPUs: on a CPU it would compute in fp32 all the same."""
        platform = device.partition(":")[0]
        fused = platform == "cpu" and _gqa.missing(recipe) is None
        ways = [("fp32", "gqa"), ("int8", "gqa")] if fused else []
        ways.append(("fp32", ""))
        if platform == "cuda":
            ways.append(("fp16", ""))
        elif platform == "cpu":
            ways += [("int8", "calibrated")] if recipe.family in _CONVOLUTIONS else [("int8", "dynamic")]
            ways += [("int8", "weights")] if recipe.family not in _CONVOLUTIONS else []
        return [Plan(device, platform, self.name, p, variant=v) for p, v in ways if p in precisions]

    def needs_export(self, plan: Plan) -> bool:
        return plan.variant != "gqa"

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """See `EnginePlugin.prepare`. Writes `<graph>.onnx` and `<graph>.onnx.data` per graph."""
        for graph in source.recipe.graphs:
            target = folder / f"{graph}.onnx"
            if plan.variant == "gqa":
                self._prepare_fused(source, plan, target)
                continue
            exported = source.onnx(graph)
            if plan.platform != "cpu":
                _for_gpu(exported, target, plan.precision)
                continue
            if plan.precision == "fp32":
                _optimise(exported, target)
                continue
            scratch = folder / "quantised"
            scratch.mkdir()
            quantised = scratch / target.name
            _quantise(source, graph, exported, quantised, plan.variant)
            _optimise(quantised, target)
            shutil.rmtree(scratch)

    def _prepare_fused(self, source: Source, plan: Plan, target: Path) -> None:
        scratch = target.parent / "built"
        scratch.mkdir()
        _optimise(_gqa.build(source, plan.precision, scratch), target)
        shutil.rmtree(scratch)
        if plan.precision == "fp32":
            session = self.load(target.parent, source.recipe, plan, single=True)
            try:
                _gqa.check(session, source)
            finally:
                session.close()

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        """See `EnginePlugin.load`."""
        return self._opened(folder, recipe, plan, single=single)

    def load_timed(self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None) -> Session:
        """See `EnginePlugin.load_timed`."""
        return self._opened(folder, recipe, plan, profile=tempfile.mkdtemp(prefix="accel-timed-"))

    def _opened(
        self, folder: Path, recipe: Recipe, plan: Plan, *, single: bool = False, profile: str = ""
    ) -> OrtSession:
        import onnxruntime as ort

        sessions = {}
        for graph in recipe.graphs:
            options = _options(plan.threads)
            if profile:
                options.enable_profiling = True
                options.profile_file_prefix = str(Path(profile) / graph)
            providers: list[Any] = ["CPUExecutionProvider"]
            if plan.platform == "cpu":
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                # between two calls nobody else should be kept from the processor
                options.add_session_config_entry("session.force_spinning_stop", "1")
                if single:
                    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                # packing weights for the processor pays from the second inference on; blocks are not int8 without it
                if single and plan.variant != "weights" and (plan.variant, plan.precision) != ("gqa", "int8"):
                    options.add_session_config_entry("session.disable_prepacking", "1")
            else:
                providers.insert(0, _provider(plan))
            try:
                session = ort.InferenceSession(str(folder / f"{graph}.onnx"), options, providers=providers)
            except Exception as error:  # as in OrtSession.run
                raise explained(error, f"opening the graph {graph!r}") from error
            if plan.platform != "cpu" and session.get_providers()[0] != providers[0][0]:
                raise UnavailableError(
                    f"onnxruntime's {providers[0][0]} does not start on {plan.device}",
                    "check the driver with accel detect, or use --engine torch",
                )
            sessions[graph] = session
        number = int(plan.device.partition(":")[2] or 0) if plan.platform == "cuda" else 0
        where = ("cuda" if plan.platform == "cuda" else "cpu", number)
        return OrtSession(sessions, plan.precision, where, shared=plan.variant == "gqa", profile=profile)


def _provider(plan: Plan) -> tuple[str, dict[str, str]]:
    import onnxruntime as ort

    offered = ort.get_available_providers()
    wanted = _PROVIDERS[plan.platform]
    name = next((p for p in wanted if p in offered), None)
    if name is None:
        raise UnavailableError(
            f"the installed onnxruntime offers no {wanted[0]}", f"pip install {_BUILDS[plan.platform][0]} in its place"
        )
    options = {"device_id": plan.device.partition(":")[2] or "0"}
    if name == "CUDAExecutionProvider":
        # its default, TF32, rounds products to 10 bits and is not fp32
        options["use_tf32"] = "0"
    return name, options


def _optimise(source: Path, target: Path) -> None:
    """Writes the graph as ONNX Runtime's own optimiser leaves it for this very processor."""
    import onnxruntime as ort

    options = _options(0)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry(_WEIGHTS_BESIDE, f"{target.name}.data")
    options.add_session_config_entry(_WEIGHTS_BESIDE_FROM, "1024")
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as in OrtSession.run
        raise explained(error, "optimising the graph") from error


def _quantise(source: Source, graph: str, exported: Path, target: Path, variant: str) -> None:
    from accel.core import quantize

    has = set(describe().features)
    narrow = "avx2" in has and not has & {"avx512_vnni", "avx_vnni"}
    if variant == "weights":
        quantize.blockwise(exported, target)
    elif variant == "dynamic":
        quantize.dynamic(exported, target, narrow=narrow)
    else:
        quantize.calibrated(exported, target, source.calibration(graph), narrow=narrow)


def _for_gpu(source: Path, target: Path, precision: str) -> None:
    """The export itself, or its weights and arithmetic in fp16 with fp32 inputs and outputs."""
    import onnx

    from accel.core.export import cause, quiet, save

    model = onnx.load(str(source))
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        try:
            with quiet():
                model = convert_float_to_float16(model, keep_io_types=True)
        except Exception as error:  # the converter raises whatever a graph makes it stumble over
            raise IncompatibleError(
                f"the graph cannot be converted to fp16: {cause(error)}", "use --precision fp32"
            ) from error
    save(model, target)


PLUGIN = OnnxRuntimeEngine
