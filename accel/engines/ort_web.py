"""onnxruntime-web in a browser that nobody sees: WebGPU, WebNN, and WebAssembly as the reference in the same page.

The model is exported and its inputs are encoded here; only tensors travel, over a WebSocket of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from accel.core.browser import audience, choosing, runtime
from accel.core.browser.finding import chosen, find
from accel.core.contracts import EnginePlugin, Session, Source
from accel.core.errors import IncompatibleError
from accel.core.fingerprint import engine_version
from accel.core.types import Model, Plan, Recipe

#: which browsers can have which platform
KINDS = {
    "webgpu": ("chromium", "chrome", "edge", "firefox"),
    "webnn": ("chromium", "chrome", "edge"),
    "cpu": ("chromium", "chrome", "edge", "firefox"),
}


class OrtWebEngine(EnginePlugin):
    """onnxruntime-web. On `cpu` it executes in WebAssembly, which is the reference for the page's other two."""

    name = "ort-web"
    platforms = ("webgpu", "webnn", "cpu")
    #: a browser takes seconds to start, and the processor has better engines
    on_request = ("cpu",)
    #: WebAssembly addresses 4 GB, and a model is there twice while it is opened
    largest_weights = 1_900_000_000

    def missing(self) -> str | None:
        """See `EnginePlugin.missing`."""
        if engine_version("websockets") is None:
            return "websockets is not installed: pip install 'ipfs-accel[browser]'"
        return runtime.missing()

    def missing_on(self, platform: str) -> str | None:
        """See `EnginePlugin.missing_on`."""
        reason = self.missing()
        if (
            reason is None
            and audience.current.mode != "wait"
            and not any(b.kind in KINDS[platform] for b in find(wanted=chosen()))
        ):
            return "no browser is here: install Chromium, Chrome, Edge or Firefox, or set hardware.browser"
        return reason

    def version(self) -> str:
        """See `EnginePlugin.version`."""
        return runtime.VERSION

    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        """See `EnginePlugin.plans`."""
        platform = device.partition(":")[0]
        from accel.engines._ort_web_decoding import fixed

        if platform == "webnn" and not all(fixed(graph) for graph in recipe.graphs.values() if graph.cache):
            return []  # it compiles every shape anew, and this cache grows with every token
        return [Plan(device, platform, self.name, "fp32")] if "fp32" in precisions else []

    def prefer(self, plans: Sequence[Plan], model: Model, recipe: Recipe, batch: int) -> tuple[Plan, str] | None:
        """See `EnginePlugin.prefer`: the browser that was fastest here with this model, else the one of the rule."""
        if len({plan.platform for plan in plans}) > 1:
            return None
        by_browser = {plan.device.partition(":")[2]: plan for plan in plans}
        name, reason = choosing.choose(list(by_browser), plans[0].platform, model, recipe.family, batch)
        return by_browser[name], reason

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """See `EnginePlugin.prepare`. Writes `<graph>.onnx`, its weights beside it, and `graphs.json`."""
        from accel.engines._ort_web_graphs import write

        described = {
            graph: write(source.onnx(graph), graph, folder, rewritten=plan.platform != "cpu")
            for graph in source.recipe.graphs
        }
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > self.largest_weights:
            raise IncompatibleError(
                f"the model has {size / 1e9:.1f} GB of weights, and WebAssembly addresses 4 GB with two copies of them",
                "use another engine (--hw cpu)",
            )
        runtime.obtain()
        (folder / "graphs.json").write_text(json.dumps(described))

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        """See `EnginePlugin.load`."""
        from accel.engines._ort_web_session import OrtWebSession

        return OrtWebSession(folder, recipe, plan, single=single)


PLUGIN = OrtWebEngine
