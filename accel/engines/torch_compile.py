"""torch with its compiler. Compiling takes 9 to 31 s for each graph, and again in every process: only for long runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from accel.core.contracts import Session, Source
from accel.core.types import Plan, Recipe
from accel.engines._torch_engine import TorchModulesEngine


class TorchCompileEngine(TorchModulesEngine):
    """torch.compile with inductor, shapes left open."""

    name = "torch-compile"
    platforms = ("cpu", "cuda", "rocm")
    on_request = ("cpu",)
    precisions: ClassVar = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16"), "rocm": ("fp32", "fp16", "bf16")}

    def missing(self) -> str | None:
        """See `EnginePlugin.missing`."""
        compiler = any(map(shutil.which, ("c++", "g++", "clang++")))
        return super().missing() or (None if compiler else "torch's compiler needs a C++ compiler: install g++")

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
