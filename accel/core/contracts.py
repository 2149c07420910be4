"""The plugin contracts: what a platform, an engine, a model family and a store must offer.

A third party implements one of these classes in a package of its own and names it under the entry-point group
`accel.platforms`, `accel.engines`, `accel.families` or `accel.storage`. The built-in plugins are written against
the same classes. A plugin module must be cheap to import: heavy libraries belong inside the methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel.core.types import GraphSpec, Item, Model, Options, Plan, PlatformReport, Recipe

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Tensors = dict[str, Array]


@dataclass(frozen=True)
class OperatorTime:
    """How long one execution of an operator took.

    Attributes:
        name: as the engine calls its kind (`aten::addmm`, `Conv`, `FullyConnected`).
        detail: the implementation that was used, where the engine tells.
        shapes: of its inputs, where the engine tells.
    """

    name: str
    seconds: float
    detail: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()


class Session(ABC):
    """A plan made ready to run: weights loaded, graphs compiled. Tensors in and out are numpy arrays."""

    #: precision the engine really computes in, which may differ from what was asked
    effective_precision: str = "fp32"

    @abstractmethod
    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """Executes one graph once.

        Args:
            graph: name of a graph of the recipe.
            feeds: every input of the graph, by name.

        Returns:
            Every output of the graph, by name.
        """

    def decode(self, graph: GraphSpec, feeds: Tensors, max_length: int) -> Decoding:
        """Starts step-by-step decoding with a graph that carries a key-value cache.

        Args:
            graph: the recipe's spec of a graph with `cache`.
            feeds: constant inputs of every step (`encoder_hidden_states` for example), without cache tensors.
            max_length: the most tokens that the cache will hold.
        """
        from accel.core.decoding import ArrayDecoding

        return ArrayDecoding(self, graph, feeds)

    def execution(self) -> dict[str, Any]:
        """Where the graphs really execute, as far as the engine tells: JSON-ready, empty where the plan says it all.

        Keys that others rely on: `summary` (one line for people) and `fallback` (why most of the work does not run
        where the plan says; absent or empty where it does).
        """
        return {}

    def operator_times(self, run: Callable[[], object]) -> list[OperatorTime]:
        """Calls `run`, which executes the session, and says how long each operator took; empty where nothing tells.

        At most once for a session that `EnginePlugin.load_timed` opened.
        """
        return []

    def close(self) -> None:  # noqa: B027 - nothing to free is a valid answer
        """Frees what the session holds."""


class Decoding(ABC):
    """A key-value cache in progress. The engine keeps the cache in the form that is fastest for it."""

    @abstractmethod
    def step(self, input_ids: Array, attention_mask: Array | None = None) -> Array:
        """Feeds tokens after those fed before.

        Args:
            input_ids: (batch, n), int64.
            attention_mask: (batch, n), 0 for padding; only prompts are padded, and on the left. None is no padding.

        Returns:
            fp32 logits of the last position (batch, vocabulary).
        """


@dataclass(frozen=True)
class TorchGraph:
    """A graph while it still is a torch module.

    Attributes:
        spec: names, types and axes; the module's `forward` takes the inputs in this order and returns the
            outputs in this order as a tuple.
        module: a `torch.nn.Module` in eval mode, fp32, on the CPU.
        example: tensors by input name, used for tracing; sizes of dynamic axes must differ from 0 and 1.
    """

    spec: GraphSpec
    module: Any
    example: dict[str, Any]


@dataclass(frozen=True)
class LoadedModel:
    """A model in its own framework (torch), ready to be run or exported.

    Attributes:
        graphs: by name, as in the recipe.
        recipe: what the family needs afterwards; its assets were written by `ModelPlugin.freeze`.
        module: the whole framework model, for families whose reference needs it; may be None.
        onnx: for models that exist as ONNX only: graph name to file. `graphs` is then empty.
    """

    graphs: dict[str, TorchGraph]
    recipe: Recipe
    module: Any = None
    onnx: dict[str, Path] = field(default_factory=dict)


class ModelPlugin(ABC):
    """A model family.

    One class serves two situations. *Cold*: `load_model` reads the weights with torch and transformers and `freeze`
    writes the assets that later runs need. *Hot*: an instance made from a recipe and its assets folder preprocesses,
    executes and postprocesses with numpy alone.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]

    def __init__(self, recipe: Recipe | None = None, assets: Path | None = None) -> None:
        self.recipe = recipe
        self.assets = assets

    @classmethod
    @abstractmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        """The default task of a model with this configuration, or None if it is not of this family."""

    @abstractmethod
    def load_model(self, model: Model, assets: Path) -> LoadedModel:
        """Loads weights (or makes random ones) and freezes what later runs need into `assets`.

        Args:
            model: the resolved model; `model.weights == "random"` means seeded random weights.
            assets: an existing empty folder to write tokenizer.json and the like into.

        Raises:
            InputError: damaged or hostile files. UnavailableError: missing files or libraries.
        """

    @abstractmethod
    def example_items(self) -> list[Item]:
        """The task's own small example, used when the user gives no input."""

    @abstractmethod
    def preprocess_inputs(self, inputs: Sequence[Item], options: Options) -> list[Any]:
        """Turns items into encoded inputs, one each, in order (numpy only).

        An item that cannot be used yields the `AccelError` instance in its place, so that a bulk run goes on.
        An encoded input has an attribute `length` (tokens, samples or pixels) that batches are sorted by.
        """

    @abstractmethod
    def execute(
        self, session: Session, batch: Sequence[Any], options: Options, emit: Callable[[str], None] | None = None
    ) -> list[Any]:
        """Runs the encoded inputs as one batch, one raw output each. `emit` takes text as it is generated."""

    @abstractmethod
    def postprocess_outputs(
        self, outputs: Sequence[Any], batch: Sequence[Any], options: Options
    ) -> list[dict[str, Any]]:
        """Turns raw outputs into answers, one JSON-ready dict each: `{"embedding": [...]}`, `{"text": ...}`, ..."""

    @abstractmethod
    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        """The numbers in which two engines are compared (cosine): embeddings, logits of the first step, an image."""

    def flops(self, lengths: Sequence[int]) -> float | None:
        """Floating-point operations of one batch, if the family knows."""
        return None


class EnginePlugin(ABC):
    """A library that executes models."""

    name: ClassVar[str]
    platforms: ClassVar[tuple[str, ...]]
    #: the engine runs the framework's own modules, so a prepared run of it still loads torch
    needs_framework: ClassVar[bool] = False
    #: platforms on which starting costs so much that the engine is left out unless the user names it
    on_request: ClassVar[tuple[str, ...]] = ()
    #: bytes of weights beyond which it refuses a model, whatever the device has; None for no bound of its own
    largest_weights: ClassVar[int | None] = None

    @abstractmethod
    def missing(self) -> str | None:
        """Why the engine cannot be used here (not installed...), or None. Must not import the engine."""

    def missing_on(self, platform: str) -> str | None:
        """Why the installed engine cannot run on one of its platforms (a build without CUDA...), or None."""
        return self.missing()

    @abstractmethod
    def version(self) -> str:
        """Version of the library, from its metadata, without importing it."""

    @abstractmethod
    def plans(self, device: str, recipe: Recipe, precisions: Sequence[str]) -> list[Plan]:
        """Every way this engine could run the recipe on the device within the given precisions, best guess first."""

    def prefer(self, plans: Sequence[Plan], model: Model, recipe: Recipe, batch: int) -> tuple[Plan, str] | None:
        """Chooses between plans of this engine without a trial, and says why; None leaves the choice to a trial.

        Args:
            plans: of this engine alone, with the devices that the user allows.
        """
        return None

    def needs_export(self, plan: Plan) -> bool:
        """Whether preparing the plan starts from the model's ONNX export, which can be the slowest step of a trial."""
        return not self.needs_framework

    @abstractmethod
    def prepare(self, source: Source, plan: Plan, folder: Path) -> None:
        """Writes everything that `load` needs into an empty folder (a compiled graph, quantised weights).

        Raises:
            IncompatibleError: the engine cannot run this model, with the engine's own reason.
        """

    @abstractmethod
    def load(
        self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None, *, single: bool = False
    ) -> Session:
        """Opens what `prepare` wrote.

        Args:
            source: given where `needs_framework` is set.
            single: one inference is coming and then the process ends, so a fast start is worth more than a fast
                steady state.
        """

    def load_timed(self, folder: Path, recipe: Recipe, plan: Plan, source: Source | None = None) -> Session:
        """As `load`, with what `Session.operator_times` needs turned on, where the engine has to know beforehand."""
        return self.load(folder, recipe, plan, source)


class Source(ABC):
    """Where an engine gets a model from while preparing. Both forms are made on demand and kept."""

    model: Model
    recipe: Recipe

    @abstractmethod
    def torch(self) -> LoadedModel:
        """The model as torch modules."""

    @abstractmethod
    def onnx(self, graph: str) -> Path:
        """The fp32 ONNX export of a graph; weights may lie beside it as external data."""

    @abstractmethod
    def calibration(self, graph: str) -> Iterator[Tensors]:
        """Real feeds of a graph, for calibrated quantisation."""


class HardwarePlugin(ABC):
    """A hardware platform."""

    name: ClassVar[str]
    #: where there is no evidence, the higher number goes first
    priority: ClassVar[int]
    #: seconds after which a probe that does not answer is given up
    time_limit: ClassVar[float] = 10.0

    @abstractmethod
    def detect_hardware(self) -> PlatformReport:
        """What this machine has of the platform. Fast, without torch; never raises for absent hardware."""

    #: the same for `detect_deep`
    deep_time_limit: ClassVar[float] = 10.0

    def detect_deep(self) -> PlatformReport:
        """As `detect_hardware`, with what can only be known by trying, which may take seconds."""
        return self.detect_hardware()

    def optimize_model(self, model: Source, config: Plan, folder: Path) -> Session:
        """Prepares the model for this platform under the plan and opens it."""
        from accel.core.registry import engine

        chosen = engine(config.engine)
        chosen.prepare(model, config, folder)
        return chosen.load(folder, model.recipe, config, model)

    def run_inference(self, model: Session, inputs: Tensors, graph: str | None = None) -> Tensors:
        """Executes one graph of a session that `optimize_model` returned ("model" when it is the only one)."""
        return model.run(graph or "model", inputs)


class StoragePlugin(ABC):
    """A content store: bytes by content id. Every method is a coroutine."""

    name: ClassVar[str]

    @abstractmethod
    async def store(self, data: bytes) -> str:
        """Keeps one block and returns its CID."""

    @abstractmethod
    async def retrieve(self, id: str) -> bytes:
        """Returns the block with this CID, hashed and checked, or raises TransferError."""

    @abstractmethod
    def list_stored(self) -> AsyncIterator[str]:
        """CIDs of the blocks that the store keeps."""


class Migration(ABC):
    """One step of the results database's schema. `number` orders the steps."""

    number: ClassVar[int]

    @abstractmethod
    def up(self, con: Any) -> None:
        """Applies the step on an open DuckDB connection, inside a transaction."""

    @abstractmethod
    def down(self, con: Any) -> None:
        """Undoes the step without losing rows that the older schema can hold."""
