"""Loads a model with its family and runs it, for the tests of the families."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from accel.core.contracts import LoadedModel, ModelPlugin, Session, Source
from accel.core.errors import AccelError
from accel.core.registry import engine, family_class
from accel.core.types import Item, Model, Options, Plan, Recipe


def random_model(family: str, task: str, config: dict[str, Any], **more: Any) -> Model:
    """A model with random weights from a configuration."""
    values: dict[str, Any] = {
        "name": str(config.get("model_type", "model")),
        "source": "catalogue",
        "folder": None,
        "files": (),
        "layout": "transformers",
        "config": config,
        "family": family,
        "task": task,
        "weights": "random",
        "digest": "0" * 64,
    }
    return Model(**{**values, **more})


def folder_model(family: str, task: str, folder: Path, **more: Any) -> Model:
    """A model from a folder with a config.json."""
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    files = tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
    return random_model(family, task, config, folder=folder, files=files, weights="pretrained", source="local", **more)


def package_file(package: str, inside: str) -> Path:
    """A file of an installed package that carries weights; skips the test where it is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0]) / inside


class Running:
    """A loaded model, its family made from the recipe as JSON, and a session.

    Args:
        engine: `torch` runs the model's own modules, `onnx` their export (or the model's own ONNX files).
    """

    def __init__(self, model: Model, folder: Path, engine: str = "torch") -> None:
        self.model = model
        self.assets = folder / "assets"
        self.assets.mkdir(parents=True)
        self.loaded: LoadedModel = family_class(model.family)().load_model(model, self.assets)
        self.recipe = Recipe.from_json(json.loads(json.dumps(self.loaded.recipe.as_json())))
        self.family: ModelPlugin = family_class(model.family)(self.recipe, self.assets)
        self.folder = folder
        self.session: Session = self.torch() if engine == "torch" else self.onnx()

    def torch(self) -> Session:
        """The model's own modules."""
        plan = Plan("cpu:0", "cpu", "torch", "fp32")
        return engine("torch").load(self.folder, self.recipe, plan, _Given(self))

    def onnx(self) -> Session:
        """ONNX Runtime on the exported graphs, or on the model's own files."""
        plan = Plan("cpu:0", "cpu", "onnxruntime", "fp32")
        prepared = self.folder / "prepared"
        prepared.mkdir()
        engine("onnxruntime").prepare(_Given(self), plan, prepared)
        return engine("onnxruntime").load(prepared, self.recipe, plan)

    def encode(self, items: Sequence[Item], options: Options = Options()) -> list[Any]:
        """Encoded inputs; an error of any of them is raised."""
        encoded = self.family.preprocess_inputs(items, options)
        for one in encoded:
            if isinstance(one, AccelError):
                raise one
        return encoded

    def answer(self, items: Sequence[Item] | None = None, options: Options = Options(), **more: Any) -> list[Any]:
        """Answers to items (the example by default)."""
        batch = self.encode(items if items is not None else self.family.example_items(), options)
        outputs = self.family.execute(self.session, batch, options, **more)
        answers = self.family.postprocess_outputs(outputs, batch, options)
        json.dumps(answers, allow_nan=False)
        return answers

    def comparable(self, items: Sequence[Item] | None = None) -> Any:
        """What engines are compared by."""
        return self.family.comparable(self.session, self.encode(items or self.family.example_items()))


class _Given(Source):
    """The loaded model as the engines' source; graphs are exported into its folder."""

    def __init__(self, running: Running) -> None:
        self.model, self.recipe = running.model, running.recipe
        self._loaded, self._folder = running.loaded, running.folder

    def torch(self) -> LoadedModel:
        return self._loaded

    def onnx(self, graph: str) -> Path:
        from accel.core.export import export

        if graph in self._loaded.onnx:
            return self._loaded.onnx[graph]
        path = self._folder / f"{graph}.onnx"
        export(self._loaded.graphs[graph], path)
        return path

    def calibration(self, graph: str) -> Iterator[dict[str, Any]]:
        return iter(())
