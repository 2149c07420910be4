"""torch with its compiler. Compiling takes 9 to 31 s for each graph, and again in every process: only for long runs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accel.core.contracts import EnginePlugin, Session, Source
from accel.core.errors import IncompatibleError
from accel.core.fingerprint import engine_version, torch_build
from accel.core.types import Plan, Recipe

_PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16"), "rocm": ("fp32", "fp16", "bf16")}


class TorchCompileEngine(EnginePlugin):
    """torch.compile with inductor, shapes left open."""

    name = "torch-compile"
    platforms = ("cpu", "cuda", "rocm")
    needs_framework = True
    on_request = ("cpu",)

    def missing(self) -> str | None:
        """See `EnginePlugin.missing`."""
        if not engine_version("torch"):
            return "torch is not installed: pip install torch"
        if not any(map(shutil.which, ("c++", "g++", "clang++"))):
            return "torch's compiler needs a C++ compiler: install g++"
        return None

    def missing_on(self, platform: str) -> str | None:
        """See `EnginePlugin.missing_on`."""
        build = torch_build()
        lacks = {"cuda": not build.get("cuda"), "rocm": not build.get("hip")}.get(platform, False)
        built = f"the installed torch {build.get('version', '')} is built without {platform}"
        return self.missing() or (built if lacks else None)

    def version(self) -> str:
        """See `EnginePlugin.version`."""
        return engine_version("torch") or "unknown"

    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        """See `EnginePlugin.plans`."""
        platform = device.partition(":")[0]
        return [Plan(device, platform, self.name, p) for p in _PRECISIONS[platform] if p in precisions]

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """Nothing to write: the compiler keeps its own cache, and the modules come from the model."""
        if not source.torch().graphs:
            raise IncompatibleError("the model exists as ONNX only, which torch does not run", "use another engine")

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        """See `EnginePlugin.load`. The compiler starts at the first inference; an error of it comes out there."""
        from accel.engines._torch_session import open_modules

        return open_modules(plan, source, _compiled)


def _compiled(module: Any) -> Any:
    import torch

    return torch.compile(module, dynamic=True)


PLUGIN = TorchCompileEngine
