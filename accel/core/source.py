"""A model on its way to an engine: loaded with torch once, exported to ONNX once, both only when asked."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accel.core import prepared
from accel.core.contracts import LoadedModel, ModelPlugin, Session, Source
from accel.core.registry import engine, family_class
from accel.core.types import Item, Model, Options, Plan, Recipe
from accel.core.weights import check_weights

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

REFERENCE = Plan(device="cpu:0", platform="cpu", engine="torch", precision="fp32", source="requested")
#: the most example batches that calibrated quantisation looks at
CALIBRATION_BATCHES = 64


class ModelSource(Source):
    """The `Source` of a resolved model.

    Args:
        model: the resolved model.
        items: the user's inputs (a sample of them), from which calibration feeds are made; the task's own example
            when there are none.
    """

    def __init__(self, model: Model, items: Sequence[Item] = ()) -> None:
        self.model = model
        self._items = tuple(items)
        self._loaded: LoadedModel | None = None
        found = prepared.read_recipe(model)
        if found is None:
            found = prepared.freeze(model, self._load_into)
        self.recipe: Recipe = found[0]
        self.assets: Path = found[1]

    def _load_into(self, assets: Path) -> Recipe:
        notes = check_weights(self.model)
        loaded = family_class(self.model.family)().load_model(self.model, assets)
        recipe = dataclasses.replace(loaded.recipe, notes=tuple(dict.fromkeys((*loaded.recipe.notes, *notes))))
        self._loaded = dataclasses.replace(loaded, recipe=recipe)
        return recipe

    def family(self) -> ModelPlugin:
        """The family's plugin for this model, ready to preprocess and execute."""
        return family_class(self.recipe.family)(self.recipe, self.assets)

    def torch(self) -> LoadedModel:
        """The model as torch modules, loaded on first use."""
        if self._loaded is None:
            scratch = Path(tempfile.mkdtemp(prefix="accel-assets-"))
            try:
                self._load_into(scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        assert self._loaded is not None
        return self._loaded

    def onnx(self, graph: str) -> Path:
        """The fp32 ONNX file of a graph: the model's own where it exists as ONNX only, else an export that is kept."""
        if self.model.layout == "onnx" or (self._loaded is not None and self._loaded.onnx):
            own = self.torch().onnx
            if graph in own:
                return own[graph]
        from accel.core.export import export

        target = prepared.model_folder(self.model) / "export" / graph
        with prepared.building(target) as folder:
            if folder is not None:
                export(self.torch().graphs[graph], folder / f"{graph}.onnx")
        return target / f"{graph}.onnx"

    def reference(self) -> Session:
        """The session that other engines are compared with: fp32 torch, or ONNX Runtime for ONNX-only models."""
        if self.torch().onnx:
            plan = Plan(device="cpu:0", platform="cpu", engine="onnxruntime", precision="fp32", source="requested")
            return open_session(self, plan)
        return open_session(self, REFERENCE)

    def calibration(self, graph: str) -> Iterator[Tensors]:
        """Feeds of a graph as they occur when the model runs on the user's inputs."""
        family = self.family()
        items = self._items or tuple(family.example_items())
        options = Options(truncate=True, max_new_tokens=8)
        recorder = _Recorder(self.reference(), graph)
        encoded = [e for e in family.preprocess_inputs(items, options) if not isinstance(e, Exception)]
        for one in encoded[:CALIBRATION_BATCHES]:
            family.execute(recorder, [one], options)
            yield from recorder.take()


class _Recorder(Session):
    """Passes calls on to a session and remembers the feeds of one graph."""

    def __init__(self, inner: Session, graph: str) -> None:
        self._inner = inner
        self._graph = graph
        self._feeds: list[Tensors] = []

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        if graph == self._graph:
            self._feeds.append(dict(feeds))
        return self._inner.run(graph, feeds)

    def take(self) -> list[Tensors]:
        """The feeds seen since the last call."""
        feeds, self._feeds = self._feeds, []
        return feeds


def open_session(source: Source, plan: Plan) -> Session:
    """Prepares a plan if need be and opens it (cold path: the source may load torch)."""
    chosen = engine(plan.engine)
    folder = prepared.keep(source.model, plan, lambda empty: chosen.prepare(source, plan, empty))
    return chosen.load(folder, source.recipe, plan, source if chosen.needs_framework else None)
