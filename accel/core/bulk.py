"""Bulk runs: thousands of inputs in bounded memory, batched by length, answered in input order.

Inputs come in windows. Within a window they are sorted by length, so that a batch holds inputs of nearly the same
length and little is padding; the answers are put back in order before they are written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from accel.core.errors import AccelError
from accel.core.inference import Answer, Runner
from accel.core.inputs import Window
from accel.core.types import Item, Plan

#: inputs of one batch where neither the user nor memory says otherwise
AUTO_BATCH = {"text-encoder": 32, "text-decoder": 8, "cnn": 16, "vision": 16, "audio": 4, "multimodal": 8}
#: padding that one batch may add to its inputs, as a share of the real length
MAX_PADDING = 0.15
#: time between two moments at which results are safe on disk, seconds
PIECE_S = 8.0

Result = Answer | tuple[int, AccelError]


def auto_batch(family: str) -> int:
    """The batch of `--batch auto` for many inputs."""
    return AUTO_BATCH.get(family, 1)


def make_batches(lengths: list[int], size: int) -> list[list[int]]:
    """Groups positions into batches of at most `size`, longest first, each of nearly equal lengths.

    Longest first, so that a batch too large for memory is met at the start.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for position in order:
        if batches and len(batches[-1]) < size:
            longest = lengths[batches[-1][0]]
            if longest - lengths[position] <= max(2, MAX_PADDING * longest):
                batches[-1].append(position)
                continue
        batches.append([position])
    return batches


def typical(lengths: list[int]) -> int:
    """The length at which half of all tokens lie in shorter inputs: what most of the work looks like."""
    total, seen = sum(lengths), 0
    for length in sorted(lengths):
        seen += length
        if 2 * seen >= total:
            return length
    return lengths[-1] if lengths else 1


@dataclass
class BulkRun:
    """A bulk run in progress; `done` and `failed` count inputs."""

    runner: Runner
    batch: int
    advance: Callable[[int], None] = lambda _: None
    done: int = 0
    failed: int = 0
    latencies_s: list[float] = field(default_factory=list)
    length: int = 1
    _rate: float = 0.0

    def results(self, windows: Iterable[Window]) -> Iterator[list[Result]]:
        """Answers every input of the windows, in input order, a piece of a few seconds at a time.

        When it is interrupted inside a piece, the answers that are complete up to the first missing one come out
        before the interruption goes on.
        """
        for window in windows:
            start = 0
            while start < len(window):
                size = self._piece_size()
                yield from self._piece(window[start : start + size])
                start += size

    def _piece_size(self) -> int:
        """As many inputs as PIECE_S seconds answer, so that little is lost when the run is killed."""
        least = 8 * self.batch
        return max(least, int(PIECE_S * self._rate)) if self._rate else least

    def _piece(self, window: Window) -> Iterator[list[Result]]:
        started = time.perf_counter()
        results: dict[int, Result] = {}
        try:
            self._fill(results, window)
        finally:
            ready: list[Result] = []
            for index, _ in window:
                if index not in results:
                    break
                ready.append(results[index])
            self.done += len(ready)
            self.failed += sum(not isinstance(r, Answer) for r in ready)
            if ready:
                yield ready
        self._rate = len(window) / max(time.perf_counter() - started, 1e-9)

    def _fill(self, results: dict[int, Result], window: Window) -> None:
        items = [e for _, e in window if isinstance(e, Item)]
        indices = [i for i, e in window if isinstance(e, Item)]
        results.update({i: (i, e) for i, e in window if isinstance(e, AccelError)})
        encoded = self.runner.encode(items) if items else []
        for index, one in zip(indices, encoded, strict=True):
            if isinstance(one, AccelError):
                results[index] = (index, one)
        self.advance(len(results))
        usable = [k for k, e in enumerate(encoded) if not isinstance(e, AccelError)]
        lengths = [encoded[k].length for k in usable]
        if usable and self.runner.current is None:
            self._start([items[k] for k in usable], lengths)
        for group in make_batches(lengths, self.batch):
            chosen = [usable[g] for g in group]
            answers = self.runner.execute([indices[k] for k in chosen], [encoded[k] for k in chosen])
            self.latencies_s += [r.latency_s for r in answers[:1] if isinstance(r, Answer)]
            for result in answers:
                results[result.index if isinstance(result, Answer) else result[0]] = result
            self.advance(len(chosen))

    def _start(self, items: list[Item], lengths: list[int]) -> Plan:
        self.length = typical(lengths)
        near = sorted(range(len(items)), key=lambda k: abs(lengths[k] - self.length))[: self.batch]
        return self.runner.start_best([items[k] for k in near], self.length, self.batch, None)
