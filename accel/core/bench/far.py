"""The far end of a cell: a process that loads one model one way, runs it, and says how long each phase took.

What runs between two readings of the clock is one call of the family's `execute` and nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.bench import synthetic
from accel.core.bench.noise import die_first
from accel.core.contracts import Decoding, Session
from accel.core.types import GraphSpec, Item, Plan
from accel.core.worker import Far, items_from_json, main

if TYPE_CHECKING:
    from accel.core.contracts import Array, Tensors

#: unmeasured runs at the start of a stretch, which wake caches and threads after a pause: at least one, for this long
LEAD_S = 0.01


class Watched(Session):
    """A session that notes when each step of decoding ends."""

    def __init__(self, inner: Session) -> None:
        self._inner = inner
        self.effective_precision = inner.effective_precision
        self.stamps: list[int] = []
        #: `run` of the session itself: what is not decoding costs nothing more
        self.run = inner.run  # type: ignore[method-assign]

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """See `Session.run`."""
        return self._inner.run(graph, feeds)

    def decode(self, graph: GraphSpec, feeds: Tensors, max_length: int) -> Decoding:
        """See `Session.decode`."""
        return _WatchedDecoding(self._inner.decode(graph, feeds, max_length), self.stamps)

    def close(self) -> None:
        """Frees the session."""
        self._inner.close()


class _WatchedDecoding(Decoding):
    def __init__(self, inner: Decoding, stamps: list[int]) -> None:
        self._step, self._stamps = inner.step, stamps

    def step(self, input_ids: Array, attention_mask: Array | None = None) -> Array:
        logits = self._step(input_ids, attention_mask)
        self._stamps.append(time.perf_counter_ns())
        return logits


def timed(
    run: Callable[[], Any], seconds: float, least: int, most: int, after: Callable[[int], None] | None = None
) -> list[int]:
    """Nanoseconds of one call after the other, for `seconds` and at least `least` calls, at most `most`.

    The collector of cyclic garbage is off meanwhile, as in the standard library's timeit.

    Args:
        after: called after each run, outside the measured time, with the moment the run began.
    """
    clock = time.perf_counter_ns
    samples: list[int] = []
    note = samples.append
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        deadline = clock() + int(seconds * 1e9)
        while True:
            started = clock()
            run()
            ended = clock()
            note(ended - started)
            if after is not None:
                after(started)
            if (ended >= deadline and len(samples) >= least) or len(samples) >= most:
                return samples
    finally:
        if collecting:
            gc.enable()


class CellFar(Far):
    """One cell of a sweep."""

    def __init__(self, request: dict[str, Any]) -> None:
        bench = request["bench"]
        self._batch, self._length = bench["batch"], bench["length"]
        self._made: list[str] = []
        settle(bench["cpus"])
        super().__init__(request)

    def items(self, request: dict[str, Any]) -> list[Item]:
        """The user's own inputs, repeated to the size of the batch, or synthetic ones."""
        given = items_from_json(request["items"])
        if given:
            return [given[i % len(given)] for i in range(self._batch)]
        made = synthetic.items(self.family, self._batch, self._length, self.options)
        self._made = [item.audio for item in made if item.audio and self._length is not None]
        return made

    def describe(self) -> dict[str, Any]:
        """What the batch is: the length of its longest input, and operations of one run where the family knows."""
        for path in self._made:
            with contextlib.suppress(OSError):
                Path(path).unlink()
        lengths = [int(e.length) for e in self.batch]
        return {"length": max(lengths), "items": len(lengths), "flops": self.family.flops(lengths)}

    def reference(self, path: str) -> dict[str, Any]:
        """Writes what fp32 torch makes of the batch: numbers beside `path`, labels where the task has labels."""
        opened = self.open(None, reference=True)
        self.save(f"{path}.npy")
        Path(f"{path}.json").write_text(json.dumps({"labels": self._labels(), "engine": opened["engine"]}))
        return {"engine": opened["engine"]}

    def agree(self, path: str) -> dict[str, Any]:
        """How far the open session agrees with the reference, and with itself."""
        import numpy as np

        found = self.compare(f"{path}.npy")
        one, two = (np.asarray(self.family.comparable(self.session, self.batch), np.float64) for _ in range(2))
        found["repeats"] = bool(one.shape == two.shape and np.array_equal(one, two))
        about = json.loads(Path(f"{path}.json").read_text())
        theirs, mine = about["labels"], self._labels()
        found["top1"] = None
        if theirs and mine and len(mine) == len(theirs):
            found["top1"] = sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(mine)
        return {**found, "reference": about["engine"]}

    def _labels(self) -> list[str] | None:
        """The first label of each answer, or None where the task has none."""
        if not self.source.recipe.task.endswith("classification"):
            return None
        outputs = self.family.execute(self.session, self.batch, self.options)
        answers = self.family.postprocess_outputs(outputs, self.batch, self.options)
        found = [answer.get("labels") if isinstance(answer, dict) else None for answer in answers]
        return [str(labels[0]["label"]) for labels in found if labels] if all(found) else None

    def ready(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Prepares a plan (export, optimise, quantise) and says how long that took; None where it was ready."""
        from accel.core import prepared

        if prepared.find(self.source.model, Plan(**plan)) is not None:
            return {"prepare_s": None}
        started = time.perf_counter()
        self.prepare(plan)
        return {"prepare_s": time.perf_counter() - started}

    def load(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Opens a plan that is ready, for many inferences."""
        from accel.core.source import open_session

        wanted = Plan(**plan)
        started = time.perf_counter()
        session = open_session(self.source, wanted)
        load_s = time.perf_counter() - started
        self.session = session
        if any(graph.cache for graph in self.source.recipe.graphs.values()):
            self.session = Watched(session)
        return {"load_s": load_s, "precision": session.effective_precision}

    def first(self) -> dict[str, Any]:
        """The first inference; `compile_s` is the part of it that torch's compiler took."""
        started = time.perf_counter()
        self._run()
        first_s = time.perf_counter() - started
        return {"first_s": first_s, "compile_s": _compile_time()}

    def _run(self) -> None:
        self.family.execute(self.session, self.batch, self.options)

    def block(self, seconds: float, least: int, most: int, lead: bool) -> dict[str, Any]:
        """Runs the batch for a while.

        Returns:
            samples: seconds of each run; first_token, per_token: for decoders, of each run; resident_bytes.
        """
        if lead:
            timed(self._run, LEAD_S, 1, most)
        watched = self.session if isinstance(self.session, Watched) else None
        first_token: list[float] = []
        per_token: list[float] = []
        if watched is not None:
            watched.stamps.clear()
            stamps = watched.stamps

            def after(started: int) -> None:
                if stamps:
                    first_token.append((stamps[0] - started) / 1e9)
                if len(stamps) > 1:
                    per_token.append((stamps[-1] - stamps[0]) / 1e9 / (len(stamps) - 1))
                stamps.clear()

        samples = timed(self._run, seconds, least, most, after if watched is not None else None)
        return {
            "samples": [sample / 1e9 for sample in samples],
            "first_token": first_token,
            "per_token": per_token,
            **memory_use(),
        }


def settle(cpus: list[int] | None) -> None:
    """Puts this process onto its CPUs, and makes it the first that Linux ends when memory runs out."""
    die_first()
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def memory_use() -> dict[str, Any]:
    """Largest resident memory so far and what is resident now, bytes; for torch on a GPU also what it holds there."""
    from accel.core.inference import peak_memory
    from accel.core.probe import properties, read_text

    status = properties(read_text("/proc/self/status", 8192))

    def kibibytes(key: str) -> int | None:
        number = status.get(key, "").partition(" ")[0]
        return int(number) * 1024 if number.isdigit() else None

    device = None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        device = int(torch.cuda.max_memory_reserved())
    peak = kibibytes("VmHWM") or peak_memory()
    return {"peak_bytes": peak, "resident_bytes": kibibytes("VmRSS"), "device_bytes": device}


def _compile_time() -> float | None:
    """Seconds that torch's compiler has taken in this process, or None where it was not used."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return None
    try:
        spent = dynamo.calculate_time_spent()
        return float(spent.get("total_wall_time", 0.0)) or None
    except Exception:  # a function of torch's inside, which may change with any version
        return None


if __name__ == "__main__":
    main(CellFar)
