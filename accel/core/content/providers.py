"""How well each source has served, remembered between runs, and which to ask first."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accel.core import locks, paths
from accel.core.content.sources import Source
from accel.core.errors import TransferError

#: weight of the newest measurement
_NEW = 0.2
#: what a source that nobody has measured yet is taken for: better than a bad one, worse than a good one
_UNKNOWN = {"gateway": (0.3, 4e6), "provider": (0.5, 2e6)}
_LOCAL = (0.005, 2e8)
#: a source that gave wrong bytes is not asked for this long, doubled each time
_DISTRUST_S = 3600.0
#: records of sources not used for this long are dropped
_FORGET_S = 90 * 86400.0


@dataclass
class Record:
    """What is known of one source.

    Attributes:
        latency_s: until the first bytes come. bandwidth: bytes per second after that, of one request.
        successes, failures: requests, fading with time. lies: answers with wrong bytes.
        load: 0 to 1: how often it said that it was busy, of late.
    """

    latency_s: float | None = None
    bandwidth: float | None = None
    successes: float = 0.0
    failures: float = 0.0
    lies: int = 0
    load: float = 0.0
    lied_at: float = 0.0
    seen_at: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def reliability(self) -> float:
        """Share of requests that go well, with one good and one bad assumed at first."""
        return (self.successes + 1) / (self.successes + self.failures + 2)


class Scores:
    """The records of all sources. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._records = _load(path)
        self._changed: set[str] = set()

    def record(self, name: str) -> Record:
        """What is known of a source."""
        with self._lock:
            return self._records.setdefault(name, Record())

    def seconds_per_block(self, source: Source, size: int = 1 << 20) -> float:
        """The expected time to a block of this size from a source, failures and load counted in; lower is better."""
        record = self.record(source.name)
        latency, bandwidth = _UNKNOWN.get(source.level, _LOCAL)
        latency = latency if record.latency_s is None else record.latency_s
        bandwidth = bandwidth if record.bandwidth is None else record.bandwidth
        return (latency + size / max(bandwidth, 1.0)) * (1 + record.load) / record.reliability()

    def ranked(self, sources: Sequence[Source]) -> list[Source]:
        """The sources, best first, without those that gave wrong bytes of late."""
        return sorted((s for s in sources if self.distrusted_for(s.name) <= 0), key=self.seconds_per_block)

    def distrusted_for(self, name: str) -> float:
        """Seconds for which a source is still not asked."""
        record = self.record(name)
        if not record.lies:
            return 0.0
        return record.lied_at + _DISTRUST_S * float(1 << min(record.lies - 1, 8)) - time.time()

    def served(self, name: str, latency_s: float, size: int, elapsed_s: float) -> None:
        """Notes a good answer."""
        with self._lock:
            record = self._touch(name)
            record.latency_s = _blend(record.latency_s, latency_s)
            rest = elapsed_s - latency_s
            # a block that came whole with its first bytes says nothing of bandwidth but that it is high
            if size >= 1 << 16:
                record.bandwidth = _blend(record.bandwidth, size / max(rest, 1e-4))
            record.successes = record.successes * 0.99 + 1
            record.failures *= 0.99
            record.load *= 0.95

    def failed(self, name: str, *, lied: bool = False, busy: bool = False) -> None:
        """Notes a bad answer."""
        with self._lock:
            record = self._touch(name)
            if busy:
                record.load = min(1.0, record.load * 0.8 + 0.2)
            else:
                record.failures = record.failures * 0.99 + 1
                record.successes *= 0.9
            if lied:
                record.lies += 1
                record.lied_at = time.time()

    def _touch(self, name: str) -> Record:
        self._changed.add(name)
        record = self._records.setdefault(name, Record())
        record.seen_at = time.time()
        return record

    def save(self) -> None:
        """Keeps what was learned; other processes' records of other sources stay."""
        with self._lock:
            if not self._changed:
                return
            try:
                with locks.holding(self._path.with_suffix(".lock")):
                    records = _load(self._path)
                    records.update({name: self._records[name] for name in self._changed})
                    oldest = time.time() - _FORGET_S
                    kept = {n: asdict(r) for n, r in records.items() if r.seen_at >= oldest}
                    paths.write_atomic(self._path, json.dumps(kept, indent=1).encode(), durable=False)
            except TransferError:
                # a full or read-only disk must not spoil a fetch that went well
                return
            self._changed.clear()


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _NEW * (new - old)


def _load(path: Path) -> dict[str, Record]:
    try:
        data = json.loads(path.read_bytes())
        return {str(name): Record(**record) for name, record in data.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
