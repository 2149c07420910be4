"""Runs a model: recipe, plan, session, answers. The hot path imports neither torch nor transformers.

A `Runner` belongs to one model. `prepare` makes sure of its recipe (in a process of its own when torch is needed),
`plan` chooses how to run, `start` opens the session, `execute` answers one batch.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.core import prepared
from accel.core.errors import (
    AccelError,
    IncompatibleError,
    InputError,
    OutOfMemoryError,
    TransferError,
    UnavailableError,
)
from accel.core.logs import profiled
from accel.core.memory_limit import limit_memory
from accel.core.paths import ensure, home
from accel.core.registry import engine, family_class
from accel.core.types import Item, Model, Options, Plan, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import ModelPlugin, Session
    from accel.core.planner import Wish
    from accel.core.worker import Worker

SCHEMA = "accel.run/1"


@dataclass(frozen=True)
class Answer:
    """One answered input.

    Attributes:
        output: the family's answer, JSON-ready.
        latency_s: time of the batch it was in (model and decoding, without pre- and postprocessing).
        batch: inputs in that batch.
    """

    index: int
    output: dict[str, Any]
    latency_s: float
    batch: int


def ensure_writable_home(warn: Callable[[str], None]) -> tempfile.TemporaryDirectory[str] | None:
    """Moves the home folder into a temporary one when it cannot be written, so that a run still answers.

    Returns:
        the temporary folder to keep alive until the process ends, or None.
    """
    try:
        folder = ensure(home())
        probe = folder / f".write-{os.getpid()}"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except (TransferError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        warn(f"the home folder {home()} cannot be written ({reason}): nothing of this run is kept")
        temporary = tempfile.TemporaryDirectory(prefix="accel-home-")
        os.environ["IPFS_ACCELERATE_HOME"] = temporary.name
        return temporary
    return None


class Runner:
    """Everything between a resolved model and its answers.

    Args:
        show: called with a line about slow steps. warn: called with what the user has to know.
    """

    def __init__(
        self,
        model: Model,
        options: Options,
        wish: Wish,
        show: Callable[[str], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.options, self.wish = model, options, wish
        self._show, self._warn = show, warn
        self._recipe: Recipe | None = None
        self._family: ModelPlugin | None = None
        self._session: Session | None = None
        self._worker: Worker | None = None
        self._looked = False
        self.current: Plan | None = None

    @property
    def recipe(self) -> Recipe:
        """The model's recipe, frozen on first use in a process of its own."""
        if self._recipe is None:
            found = prepared.read_recipe(self.model)
            if found is None:
                self._show("loading the model")
                self._cold_worker().call("build")
                found = prepared.read_recipe(self.model)
                if found is None:
                    raise TransferError(f"what was prepared for {self.model.name} is gone", "run it again")
            self._recipe = found[0]
            self._family = family_class(found[0].family)(found[0], found[1])
        return self._recipe

    @property
    def family(self) -> ModelPlugin:
        """The family's plugin for this model."""
        _ = self.recipe
        assert self._family is not None
        return self._family

    def encode(self, items: Sequence[Item]) -> list[Any]:
        """Encoded inputs in order, an `AccelError` in the place of each that cannot be used."""
        return self.family.preprocess_inputs(items, self.options)

    def plan(self, items: Sequence[Item], length: int, batch: int, count: int | None) -> Plan:
        """Chooses the plan for inputs of this length (tokens, samples, pixels) in batches of this size.

        Args:
            items: the inputs of one such batch, for a trial.
            count: inputs to come; None for many.
        """
        from accel.core.evidence import Shape
        from accel.core.planner import choose

        return choose(
            self.model, self.recipe, items, self.options, Shape(batch, length), self.wish, count, self._show,
            self._cold_worker,
        )  # fmt: skip

    def start_best(
        self, items: Sequence[Item], length: int, batch: int, count: int | None, *, single: bool = False
    ) -> Plan:
        """Plans and starts; a plan that turns out not to work gives way to the next, unless it is the only one left.

        See `plan` and `start` for the arguments.
        """
        from accel.core.planner import candidates

        while True:
            with profiled("plan"):
                plan = self.plan(items, length, batch, count)
            try:
                with profiled("open"):
                    return self.start(plan, single=single)
            except (IncompatibleError, UnavailableError) as error:
                left = dataclasses.replace(self.wish, without=(*self.wish.without, plan.key))
                if plan.source == "requested" or not candidates(self.recipe, left)[0]:
                    raise
                self._warn(f"{plan.device} {plan.engine} {plan.precision} is left out: {error.message}")
                self.wish = left

    def start(self, plan: Plan, *, single: bool = False) -> Plan:
        """Opens the session of a plan, preparing it when it is not ready. Returns the plan as it really runs.

        Raises:
            AccelError: the engine cannot run it.
        """
        if self._session is not None:
            self._session.close()
            self._session = None
        limit_memory(self.wish.memory_limit)
        chosen = engine(plan.engine)
        folder = prepared.find(self.model, plan)
        if folder is not None or chosen.needs_framework:
            self._dismiss()  # its memory is needed here
        if folder is None or chosen.needs_framework:
            session = self._start_cold(plan)
        else:
            try:
                session = chosen.load(folder, self.recipe, plan, single=single)
            except (OutOfMemoryError, UnavailableError, MemoryError):
                raise
            except Exception as error:  # whatever a damaged file makes the engine throw, building anew is the remedy
                self._show(f"what was ready could not be opened ({error}): preparing it again")
                prepared.discard(self.model, plan)
                session = self._start_cold(plan)
        self._session = session
        self.current = dataclasses.replace(plan, precision=session.effective_precision)
        return self.current

    def _start_cold(self, plan: Plan) -> Session:
        chosen = engine(plan.engine)
        if chosen.needs_framework:
            from accel.core.source import ModelSource, open_session

            self._show("loading the model with torch")
            return open_session(ModelSource(self.model), plan)
        from accel.core.worker import to_json

        self._show(f"preparing the model for {plan.engine}")
        self._cold_worker().call("prepare", plan=to_json(plan))
        self._dismiss()
        folder = prepared.find(self.model, plan)
        if folder is None:
            raise TransferError(f"what was prepared for {plan.engine} is gone", "run it again")
        return chosen.load(folder, self.recipe, plan)

    def _cold_worker(self) -> Worker:
        """The process that loads the model with its framework: one for recipe, trial and preparation."""
        from accel.core.worker import Worker

        if self._worker is None or not self._worker.alive:
            self._dismiss()
            self._worker = Worker(self.model, (), self.options, self.wish.memory_limit)
        return self._worker

    def _dismiss(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    @property
    def session(self) -> Session:
        """The open session."""
        if self._session is None:
            raise IncompatibleError("no session is open", "call start first")
        return self._session

    def execute(
        self, indices: Sequence[int], batch: Sequence[Any], emit: Callable[[str], None] | None = None
    ) -> list[Answer | tuple[int, AccelError]]:
        """Answers encoded inputs as one batch; halves it when memory runs out.

        Returns:
            an `Answer` per input, or its index and error.

        Raises:
            OutOfMemoryError: memory runs out even for a single input.
        """
        started = time.perf_counter()
        try:
            outputs = self.family.execute(self.session, batch, self.options, emit)
            latency = time.perf_counter() - started
            self._look()
            answers = self.family.postprocess_outputs(outputs, batch, self.options)
        except (OutOfMemoryError, MemoryError) as error:
            if len(batch) == 1:
                raise OutOfMemoryError(
                    "memory ran out for a single input", "use a shorter input, --precision int8, or another device"
                ) from error
            half = len(batch) // 2
            self._warn(f"memory ran out with a batch of {len(batch)}: going on with {half}")
            return self.execute(indices[:half], batch[:half]) + self.execute(indices[half:], batch[half:])
        results: list[Answer | tuple[int, AccelError]] = []
        for index, answer in zip(indices, answers, strict=True):
            if isinstance(answer, AccelError):
                results.append((index, answer))
            else:
                results.append(Answer(index, answer, latency, len(batch)))
        return results

    def _look(self) -> None:
        """After the first batch, when engines that compile for shapes know: whether the work runs where it should."""
        if self._looked:
            return
        self._looked = True
        fallback = self.session.execution().get("fallback")
        if fallback and self.wish.strict:
            raise IncompatibleError(f"--strict: {fallback}", "leave out --strict, or use --hw auto")
        if fallback:
            self._warn(fallback)

    def record(self, answer: Answer) -> dict[str, Any]:
        """An answer as the object that `--json` prints."""
        plan = self.current
        assert plan is not None
        return {
            "schema": SCHEMA,
            "index": answer.index,
            "model": self.model.name,
            "revision": self.model.revision,
            "family": self.recipe.family,
            "task": self.recipe.task,
            "device": plan.device,
            "platform": plan.platform,
            "engine": plan.engine,
            "precision": plan.precision,
            "batch": answer.batch,
            "latency_ms": 1000 * answer.latency_s,
            "output": answer.output,
            "weights": self.model.weights,
            "plan": {"source": plan.source, "reason": plan.reason, "candidates": list(plan.candidates)},
            "notes": list(self.notes),
            "execution": self.session.execution(),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user has to know about the answer: random weights, a stand-in tokenizer..."""
        random = ("random weights: the output means nothing",) if self.model.weights == "random" else ()
        return tuple(dict.fromkeys((*random, *self.model.notes, *self.recipe.notes)))

    def measurement(self, latencies_s: Sequence[float], batch: int, length: int) -> dict[str, Any]:
        """The run as a record for the results."""
        from statistics import median

        from accel.core.fingerprint import fingerprint

        plan = self.current
        assert plan is not None
        middle = median(latencies_s)
        return {
            "kind": "run",
            "model_name": self.model.name,
            "model_digest": self.model.digest,
            "revision": self.model.revision,
            "weights": self.model.weights,
            "family": self.recipe.family,
            "task": self.recipe.task,
            "hardware_type": plan.platform,
            "device": plan.device,
            "engine": plan.engine,
            "precision": plan.precision,
            "variant": plan.variant,
            "threads": plan.threads,
            "batch": batch,
            "length": length,
            "inference_time": middle,
            "throughput": batch / middle if middle > 0 else None,
            "memory_usage": peak_memory(),
            "samples": list(latencies_s[:1000]),
            "plan_source": plan.source,
            "fingerprint": fingerprint(),
        }

    def close(self) -> None:
        """Closes the session and ends the process that prepared it."""
        self._dismiss()
        if self._session is not None:
            self._session.close()
            self._session = None


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reject(encoded: Any) -> Any:
    """Returns an encoded input, or raises the error that stands in its place."""
    if isinstance(encoded, AccelError):
        raise encoded
    if isinstance(encoded, Exception):
        raise InputError(f"the input cannot be used: {encoded}", "check it") from encoded
    return encoded
