"""torch eager: runs the model's own modules. The reference that every other engine is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accel.core.contracts import EnginePlugin, Session, Source, TorchGraph
from accel.core.errors import IncompatibleError
from accel.core.fingerprint import engine_version, torch_build
from accel.core.types import Plan, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import Tensors


class TorchSession(Session):
    """The modules of a loaded model on one device."""

    def __init__(self, graphs: dict[str, TorchGraph], device: str, precision: str, threads: int) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.effective_precision = precision
        self.device = torch.device(device)
        self.graphs = graphs
        self._inputs = {name: [t.name for t in g.spec.inputs] for name, g in graphs.items()}
        self._outputs = {name: [t.name for t in g.spec.outputs] for name, g in graphs.items()}

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        import torch

        with torch.inference_mode():
            arguments = [torch.from_numpy(feeds[name]) for name in self._inputs[graph]]
            outputs = self.graphs[graph].module(*arguments)
        return {name: value.numpy() for name, value in zip(self._outputs[graph], outputs, strict=True)}


class TorchEngine(EnginePlugin):
    """torch without a compiler."""

    name = "torch"
    platforms = ("cpu", "cuda", "mps", "rocm")
    needs_framework = True

    def missing(self) -> str | None:
        return None if engine_version("torch") else "torch is not installed: pip install torch"

    def missing_on(self, platform: str) -> str | None:
        build = torch_build()
        lacks = {"cuda": not build.get("cuda"), "rocm": not build.get("hip")}.get(platform, False)
        built = f"the installed torch {build.get('version', '')} is built without {platform}"
        return self.missing() or (built if lacks else None)

    def version(self) -> str:
        return engine_version("torch") or "unknown"

    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        platform = device.partition(":")[0]
        return [Plan(device, platform, self.name, "fp32")] if "fp32" in precisions else []

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """Nothing to write: the modules come from the model itself."""
        if not source.torch().graphs:
            raise IncompatibleError("the model exists as ONNX only, which torch does not run", "use another engine")

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        if source is None:
            raise IncompatibleError("the torch engine needs the model itself", "run again without a kept plan")
        return TorchSession(source.torch().graphs, "cpu", "fp32", plan.threads)


PLUGIN = TorchEngine
