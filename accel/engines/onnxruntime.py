"""ONNX Runtime: the graph is optimised once, saved with its weights beside it, and mapped from there ever after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import EnginePlugin, Session, Source
from accel.core.errors import IncompatibleError
from accel.core.fingerprint import engine_version
from accel.core.types import Plan, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import Tensors


class OrtSession(Session):
    """One ONNX Runtime session per graph of the recipe."""

    def __init__(self, sessions: dict[str, Any], precision: str) -> None:
        self.effective_precision = precision
        self.sessions = sessions
        self._outputs = {name: [o.name for o in s.get_outputs()] for name, s in sessions.items()}

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        names = self._outputs[graph]
        return dict(zip(names, self.sessions[graph].run(names, feeds), strict=True))

    def close(self) -> None:
        self.sessions.clear()


def _threads(plan: Plan) -> int:
    return plan.threads or len(os.sched_getaffinity(0))


class OnnxRuntimeEngine(EnginePlugin):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"
    platforms = ("cpu",)

    def missing(self) -> str | None:
        return None if engine_version("onnxruntime") else "onnxruntime is not installed: pip install onnxruntime"

    def version(self) -> str:
        return engine_version("onnxruntime") or "unknown"

    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        platform = device.partition(":")[0]
        return [Plan(device, platform, self.name, "fp32")] if "fp32" in precisions else []

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        import onnxruntime as ort

        for graph in source.recipe.graphs:
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
            options.optimized_model_filepath = str(folder / f"{graph}.onnx")
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", f"{graph}.onnx.data"
            )
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
            try:
                ort.InferenceSession(str(source.onnx(graph)), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's exceptions share no base class but Exception
                raise IncompatibleError(f"ONNX Runtime cannot run the graph {graph!r}: {error}") from error

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        import onnxruntime as ort

        sessions = {}
        for graph in recipe.graphs:
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = _threads(plan)
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            if single:
                options.add_session_config_entry("session.disable_prepacking", "1")
            sessions[graph] = ort.InferenceSession(
                str(folder / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"]
            )
        return OrtSession(sessions, "fp32")


PLUGIN = OnnxRuntimeEngine
