"""torch eager: runs the model's own modules. The reference that every other engine is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from accel.core.contracts import Session, Source
from accel.core.types import Plan, Recipe
from accel.engines._torch_engine import TorchModulesEngine


class TorchEngine(TorchModulesEngine):
    """torch without a compiler."""

    name = "torch"
    platforms = ("cpu", "cuda", "mps", "rocm")
    # int8 is left to other engines: torch's dynamic int8 is slower than theirs and far less exact
    precisions: ClassVar = {
        "cpu": ("fp32", "bf16", "fp16"),
        "cuda": ("fp32", "fp16", "bf16"),
        "rocm": ("fp32", "fp16", "bf16"),
        "mps": ("fp32", "fp16"),
    }

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        """See `EnginePlugin.load`."""
        from accel.engines._torch_session import open_modules

        return open_modules(plan, source)


PLUGIN = TorchEngine
