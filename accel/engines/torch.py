"""torch eager: runs the model's own modules. The reference that every other engine is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.core.contracts import EnginePlugin, Session, Source
from accel.core.errors import IncompatibleError
from accel.core.fingerprint import engine_version, torch_build
from accel.core.types import Plan, Recipe

#: precisions by platform. int8 is left to other engines: torch's dynamic int8 is slower than theirs and far less exact
_PRECISIONS = {
    "cpu": ("fp32", "bf16", "fp16"),
    "cuda": ("fp32", "fp16", "bf16"),
    "rocm": ("fp32", "fp16", "bf16"),
    "mps": ("fp32", "fp16"),
}


class TorchEngine(EnginePlugin):
    """torch without a compiler."""

    name = "torch"
    platforms = ("cpu", "cuda", "mps", "rocm")
    needs_framework = True

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
        return [Plan(device, platform, self.name, p) for p in _PRECISIONS[platform] if p in precisions]

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """Nothing to write: the modules come from the model itself."""
        if not source.torch().graphs:
            raise IncompatibleError("the model exists as ONNX only, which torch does not run", "use another engine")

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        """See `EnginePlugin.load`."""
        from accel.engines._torch_session import open_modules

        return open_modules(plan, source)


PLUGIN = TorchEngine
