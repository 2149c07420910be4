"""What the engines have in common that run the model's own modules with torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from accel.core.contracts import EnginePlugin, Source
from accel.core.errors import IncompatibleError
from accel.core.fingerprint import engine_version, torch_build
from accel.core.types import Plan, Recipe


class TorchModulesEngine(EnginePlugin):
    """Runs modules; an engine of it adds how they are opened."""

    needs_framework = True
    #: precisions by platform, best guess first
    precisions: ClassVar[Mapping[str, tuple[str, ...]]]

    def missing(self) -> str | None:
        """See `EnginePlugin.missing`."""
        return None if engine_version("torch") else "torch is not installed: pip install torch"

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
        return [Plan(device, platform, self.name, p) for p in self.precisions[platform] if p in precisions]

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """Nothing to write: the modules come from the model itself."""
        if not source.torch().graphs:
            raise IncompatibleError("the model exists as ONNX only, which torch does not run", "use another engine")
