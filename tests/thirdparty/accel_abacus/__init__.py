"""A package of a third party: a platform, a model family and engines that misbehave, each in its own way."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accel.core.contracts import EnginePlugin, HardwarePlugin, LoadedModel, ModelPlugin, Session, Source, TorchGraph
from accel.core.registry import engine
from accel.core.types import Device, GraphSpec, Item, Model, Options, Plan, PlatformReport, Recipe, TensorSpec


class Abacus(HardwarePlugin):
    """A platform that is always there."""

    name = "abacus"
    priority = 1

    def detect_hardware(self) -> PlatformReport:
        device = Device("abacus:0", "abacus", "Wooden abacus", "Nobody", engines=("beads",))
        return PlatformReport("abacus", True, "on the desk", devices=(device,))


def _on_cpu(plan: Plan) -> Plan:
    return dataclasses.replace(plan, device="cpu:0", platform="cpu")


class Beads(EnginePlugin):
    """An honest engine on a platform of its own: ONNX Runtime under another name."""

    name = "beads"
    platforms = ("abacus",)

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "1"

    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        return [Plan(device, device.partition(":")[0], self.name, "fp32")]

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        engine("onnxruntime").prepare(source, _on_cpu(plan), folder)

    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        return engine("onnxruntime").load(folder, recipe, _on_cpu(plan), single=single)


class _Changed(Session):
    """Another session's outputs, changed."""

    def __init__(self, inner: Session, change: Callable[[Any], Any]) -> None:
        self._inner, self._change = inner, change

    def run(self, graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
        return {name: self._change(value) for name, value in self._inner.run(graph, feeds).items()}


class Liar(Beads):
    """Is very fast, since it answers with noise."""

    name = "liar"
    platforms = ("cpu",)

    def load(self, *args: Any, **kwargs: Any) -> Session:
        noise = np.random.default_rng(0)
        return _Changed(super().load(*args, **kwargs), lambda v: noise.standard_normal(v.shape).astype(v.dtype))


class Nan(Beads):
    """Answers with nothing that is a number."""

    name = "nan"
    platforms = ("cpu",)

    def load(self, *args: Any, **kwargs: Any) -> Session:
        return _Changed(super().load(*args, **kwargs), lambda v: v * np.nan)


class Crash(Beads):
    """Takes its process down."""

    name = "crash"
    platforms = ("cpu",)

    def load(self, *args: Any, **kwargs: Any) -> Session:
        os.abort()


class Raise(Beads):
    """Cannot prepare anything."""

    name = "raise"
    platforms = ("cpu",)

    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        raise RuntimeError("no beads left\nand a second line")


class Doubling(ModelPlugin):
    """A model family: numbers are doubled. `model_type` is `doubling`."""

    name = "doubling"
    tasks = ("double",)

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        return "double" if config.get("model_type") == "doubling" else None

    def load_model(self, model: Model, assets: Path) -> LoadedModel:
        import torch

        class Double(torch.nn.Module):
            def forward(self, x: Any) -> tuple[Any]:
                return (x * 2,)

        tensor = TensorSpec("x", "float32", ("batch", 1))
        spec = GraphSpec("model", (tensor,), (TensorSpec("y", "float32", ("batch", 1)),))
        recipe = Recipe(self.name, "double", {"model": spec}, {})
        return LoadedModel({"model": TorchGraph(spec, Double().eval(), {"x": torch.ones(2, 1)})}, recipe)

    def example_items(self) -> list[Item]:
        return [Item(0, text="21")]

    def preprocess_inputs(self, inputs: Sequence[Item], options: Options) -> list[Any]:
        return [_Number(float(item.text or 0)) for item in inputs]

    def execute(self, session: Session, batch: Sequence[Any], options: Options, emit: Any = None) -> list[Any]:
        x = np.array([[n.value] for n in batch], np.float32)
        return list(session.run("model", {"x": x})["y"][:, 0])

    def postprocess_outputs(
        self, outputs: Sequence[Any], batch: Sequence[Any], options: Options
    ) -> list[dict[str, Any]]:
        return [{"double": float(value)} for value in outputs]

    def comparable(self, session: Session, batch: Sequence[Any]) -> Any:
        return np.array(self.execute(session, batch, Options())).reshape(-1, 1)


class _Number:
    length = 1

    def __init__(self, value: float) -> None:
        self.value = value
