"""From a model's configuration to the operators of a workload, by letting its family execute without numbers.

The family builds its graphs with weights that have shapes and no data, encodes inputs of the wanted size, and executes
them in a session that notes which graph is called with which shapes and how often. So what is counted is what
`accel run` executes, for every family, and a model of 70 billion parameters needs no more memory than a small one.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from accel.core.bench import synthetic
from accel.core.contracts import Decoding, LoadedModel, ModelPlugin, Session
from accel.core.decoding import PAST
from accel.core.errors import AccelError, IncompatibleError, InputError
from accel.core.inference import reject
from accel.core.performance import capture
from accel.core.performance.operators import Operator
from accel.core.registry import family_class
from accel.core.types import GraphSpec, Model, Options, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import Array, Tensors

#: configuration values that no model comes near; building one would take hours
ABSURD = {"layers": 5_000, "size": 10_000_000}


@dataclass(frozen=True)
class Trace:
    """The operators of one workload, in order and not merged.

    Attributes:
        peaks: bytes held at one time, by phase.
        calls: how often a graph is executed, by phase.
        cache_bytes: of keys and values at the end.
    """

    batch: int
    length: int | None
    operators: tuple[Operator, ...]
    peaks: dict[str, int]
    calls: dict[str, int]
    cache_bytes: int


@dataclass
class _Call:
    """A graph executed `count` times with inputs of these shapes."""

    graph: str
    phase: str
    shapes: dict[str, tuple[int, ...]]
    count: int = 1


def encode(family: ModelPlugin, batch: int, length: int | None, options: Options) -> list[Any]:
    """Made-up inputs of this length as the family's graphs take them; sounds that were written for it are removed.

    Raises:
        InputError: the model takes no such input.
    """
    items = synthetic.items(family, batch, length, options)
    try:
        return [reject(one) for one in family.preprocess_inputs(items, options)]
    finally:
        for path in {item.audio for item in items if item.audio and length is not None}:
            Path(path).unlink(missing_ok=True)


class Tracer:
    """A model without weights, whose workloads can be written down.

    Raises:
        InputError, IncompatibleError, UnavailableError: the configuration does not make a model.
    """

    def __init__(self, model: Model) -> None:
        check_sizes(model.name, model.config)
        self.model = model
        self._assets = Path(tempfile.mkdtemp(prefix="accel-profile-"))
        try:
            with capture.weightless() as mode:
                self.loaded: LoadedModel = family_class(model.family)().load_model(model, self._assets)
            self._mode = mode
        except AccelError:
            self.close()
            raise
        except Exception as error:  # a model's own code raises whatever it trips over
            self.close()
            raise InputError(
                f"the operators of {model.name} cannot be found from its configuration: {_said(error)}",
                "check the values of its config.json",
            ) from error
        modules = [graph.module for graph in self.loaded.graphs.values()]
        sizes = capture.storages(modules)
        self.weights_bytes = sum(sizes.values())
        self._parameters = set(sizes)
        self._traces: dict[tuple[Any, ...], capture.Trace] = {}

    @property
    def recipe(self) -> Recipe:
        """The recipe that the family made."""
        return self.loaded.recipe

    def close(self) -> None:
        """Removes what the family wrote."""
        shutil.rmtree(self._assets, ignore_errors=True)

    def workload(self, batch: int, length: int | None, options: Options) -> Trace:
        """The operators of a batch of inputs of this length.

        Raises:
            InputError: the model takes no such input. IncompatibleError: it cannot be executed without numbers.
        """
        family = family_class(self.recipe.family)(self.recipe, self._assets)
        encoded = encode(family, batch, length, options)
        session = _Schedule(self)
        try:
            family.execute(session, encoded, options)
            # what a family remembers (texts that come again) is not executed twice: the steady state counts
            session.calls.clear()
            family.execute(session, encoded, options)
            traces = [self.trace(call.graph, call.shapes) for call in session.calls]
        except AccelError:
            raise
        except Exception as error:  # as in __init__
            raise IncompatibleError(
                f"the operators of {self.model.name} cannot be found without running it: {_said(error)}",
                "measure it instead: accel bench",
            ) from error
        operators: list[Operator] = []
        peaks: dict[str, int] = {}
        calls: dict[str, int] = {}
        for call, trace in zip(session.calls, traces, strict=True):
            calls[call.phase] = calls.get(call.phase, 0) + call.count
            peaks[call.phase] = max(peaks.get(call.phase, 0), trace.peak_bytes)
            operators += [dataclasses.replace(op, phase=call.phase, count=call.count) for op in trace.operators]
        return Trace(batch, length, tuple(operators), peaks, calls, session.cache_bytes)

    def trace(self, graph: str, shapes: dict[str, tuple[int, ...]]) -> capture.Trace:
        """What one execution of a graph does with inputs of these shapes."""
        key = (graph, *shapes.items())
        if key not in self._traces:
            made = self.loaded.graphs[graph]
            with self._mode:
                inputs = [torch.empty(shapes[t.name], dtype=getattr(torch, t.dtype)) for t in made.spec.inputs]
            self._traces[key] = capture.record(self._mode, made.module, inputs, self._parameters)
        return self._traces[key]


class _Schedule(Session):
    """Notes what is executed. Outputs are zeros of the right shape; text goes on to its end."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.calls: list[_Call] = []
        self.cache_bytes = 0

    def note(self, graph: str, phase: str, shapes: dict[str, tuple[int, ...]], count: int = 1) -> None:
        """Adds executions."""
        for call in self.calls:
            if (call.graph, call.phase, call.shapes) == (graph, phase, shapes):
                call.count += count
                return
        self.calls.append(_Call(graph, phase, shapes, count))

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """See `Session.run`."""
        shapes = {name: tuple(array.shape) for name, array in feeds.items()}
        self.note(graph, graph, shapes)
        trace = self._tracer.trace(graph, shapes)
        names = [t.name for t in self._tracer.loaded.graphs[graph].spec.outputs]
        return {name: np.zeros(shape, kind) for name, (shape, kind) in zip(names, trace.shapes, strict=True)}

    def decode(self, graph: GraphSpec, feeds: Tensors, max_length: int) -> Decoding:
        """See `Session.decode`."""
        return _Steps(self, graph, feeds)


@dataclass
class _Steps(Decoding):
    """Counts the steps of generation; the one in the middle stands for those after the prompt."""

    session: _Schedule
    graph: GraphSpec
    feeds: Tensors
    past: int = 0
    noted: list[int] = field(default_factory=list)
    call: _Call | None = None

    def step(self, input_ids: Array, attention_mask: Array | None = None) -> Array:
        """See `Decoding.step`."""
        batch, length = input_ids.shape
        sizes: dict[str, int] = {"batch": batch, "length": length, "past": self.past}
        if self.past == 0 or length > 1:
            self.session.note(self.graph.name, "prefill", self._shapes(sizes))
        else:
            self.noted.append(self.past)
            if self.call is None:
                self.call = _Call(self.graph.name, "decode", {}, 0)
                self.session.calls.append(self.call)
            self.call.count += 1
            self.call.shapes = self._shapes(sizes | {"past": (self.noted[0] + self.noted[-1]) // 2})
        self.past += length
        held = sum(
            4 * batch * self.past * int(t.axes[1]) * int(t.axes[3])
            for t in self.graph.inputs
            if t.name.startswith(PAST)
        )
        self.session.cache_bytes = max(self.session.cache_bytes, held)
        width = next(int(t.axes[-1]) for t in self.graph.outputs if t.name == "logits")
        logits = np.zeros((batch, width), np.float32)
        logits[:, width // 2] = 1.0  # no token that ends a text
        return logits

    def _shapes(self, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
        known = {name: tuple(array.shape) for name, array in self.feeds.items()}

        def size(axis: int | str) -> int:
            if isinstance(axis, int):
                return axis
            return sizes[axis] if axis in sizes else sum(sizes[part.strip()] for part in axis.split("+"))

        return {t.name: known.get(t.name) or tuple(map(size, t.axes)) for t in self.graph.inputs}


def check_sizes(name: str, config: dict[str, Any]) -> None:
    """Refuses a configuration whose sizes no model has, before anything is built from it.

    Raises:
        InputError: a number below zero, or far beyond any model.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            check_sizes(name, value)
        elif (
            isinstance(value, int) and not isinstance(value, bool) and key.endswith(("layers", "layer", "size", "_dim"))
        ):
            most = ABSURD["layers" if "layer" in key else "size"]
            if value > most or (value < 0 and key.endswith(("layers", "size"))):
                raise InputError(
                    f"the configuration of {name} has {key} = {value}, which no model has", "check its config.json"
                )


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
