"""A family of several kinds of models, each kind a part of its own that knows how its models load and run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel.core.contracts import LoadedModel, ModelPlugin, Session
from accel.core.errors import IncompatibleError
from accel.core.types import Item, Model, Options, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import Array

#: the recipe's setting that names its part
PART = "part"


class Part(ABC):
    """One kind of models of a family. The methods mean what those of `ModelPlugin` mean."""

    name: ClassVar[str]

    def __init__(self, recipe: Recipe, assets: Path | None) -> None:
        self.recipe = recipe
        self.settings = recipe.settings
        self.assets = assets

    @classmethod
    @abstractmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        """Loads the model and freezes its assets; the recipe's settings need not name the part."""

    @abstractmethod
    def example_items(self) -> list[Item]: ...

    @abstractmethod
    def encode(self, items: Sequence[Item], options: Options) -> list[Any]: ...

    @abstractmethod
    def execute(
        self, session: Session, batch: Sequence[Any], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]: ...

    @abstractmethod
    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]: ...

    @abstractmethod
    def comparable(self, session: Session, batch: Sequence[Any]) -> Array: ...

    def flops(self, lengths: Sequence[int]) -> float | None:
        return None


class PartedFamily(ModelPlugin):
    """A family that leaves everything but the choice of the part to its parts."""

    @classmethod
    @abstractmethod
    def parts(cls) -> Sequence[type[Part]]:
        """Every part of the family."""

    @classmethod
    @abstractmethod
    def choose(cls, model: Model) -> type[Part] | None:
        """The part for a model and its task."""

    @cached_property
    def part(self) -> Part:
        """The part that the recipe names."""
        assert self.recipe is not None
        named = {part.name: part for part in self.parts()}
        return named[self.recipe.settings[PART]](self.recipe, self.assets)

    def load_model(self, model: Model, assets: Path) -> LoadedModel:
        part = self.choose(model)
        if part is None:
            what = model.config.get("model_type") or model.layout
            raise IncompatibleError(
                f"the {self.name} family has no task {model.task!r} for {what} models",
                f"its tasks: {', '.join(self.tasks)}",
            )
        loaded = part.load(self.name, model, assets)
        loaded.recipe.settings[PART] = part.name
        return loaded

    def example_items(self) -> list[Item]:
        return self.part.example_items()

    def preprocess_inputs(self, inputs: Sequence[Item], options: Options) -> list[Any]:
        return self.part.encode(inputs, options)

    def execute(
        self, session: Session, batch: Sequence[Any], options: Options, emit: Callable[[str], None] | None = None
    ) -> list[Any]:
        return self.part.execute(session, batch, options, emit)

    def postprocess_outputs(
        self, outputs: Sequence[Any], batch: Sequence[Any], options: Options
    ) -> list[dict[str, Any]]:
        return self.part.answers(outputs, batch, options)

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        return self.part.comparable(session, batch)

    def flops(self, lengths: Sequence[int]) -> float | None:
        return self.part.flops(lengths)
