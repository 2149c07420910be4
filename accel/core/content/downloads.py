"""Gets many blocks from several sources at once; every one is hashed before it counts.

Threads take blocks from one queue, so that each source serves as much as it can. The calling thread watches: it gives a
block that takes too long to another source as well, lets go of sources that stall, and stays free for signals.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accel.core.content.car import LARGEST_BLOCK
from accel.core.content.dagpb import damaged
from accel.core.content.multibuffer import Meeting
from accel.core.content.providers import Scores
from accel.core.content.sources import Data, Source, SourceError
from accel.core.content.wants import Dropped, Served, Want

#: a source that fails so often in a row is let go
_MOST_FAILURES = 3
#: one that has none of so many blocks in a row, and gave none, is not asked further
_MOST_MISSING = 8
#: bytes per second below which a source counts as stalled once its time is up
_SLOWEST = 10_000
#: a block is given to a second source after this many times the usual time
_PATIENCE = 5.0
_LEAST_PATIENCE_S = 1.0


@dataclass(eq=False)
class _Ticket:
    """One request under way."""

    want: Want
    source: Source
    started: float
    first: float | None = None
    received: int = 0
    heard: float = 0.0
    void: bool = False
    hedged: bool = False


class Download:
    """Gets blocks from the sources of one level.

    Args:
        timeout_s: how long a source may stay silent.
        parallel: requests at once, over all sources.
        served, dropped: added to; sources that were dropped before are not asked again.
        said: what each source said last when it did not give a block; added to.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        scores: Scores,
        timeout_s: float,
        parallel: int,
        served: dict[str, Served],
        dropped: list[Dropped],
        said: dict[str, str],
    ) -> None:
        gone = {source.name for source in dropped}
        sources = [source for source in sources if source.name not in gone]
        self._scores, self._timeout = scores, timeout_s
        self._served, self._dropped = served, dropped
        self._said = said
        self.sources = sources[: max(1, parallel)]
        self._reserve = sources[len(self.sources) :]
        self._slots = max(1, parallel // max(1, len(self.sources)))
        lock = threading.Lock()
        #: workers wait here for blocks; the calling thread waits for the end at the other one, not to be woken by each
        self._work_left, self._ended = threading.Condition(lock), threading.Condition(lock)
        self._queue: deque[Want] = deque()
        self._left = 0
        self._tickets: set[_Ticket] = set()
        self._failures: dict[str, int] = {}
        self._missing: dict[str, int] = {}
        self._useful: set[str] = set()
        self._sinking = 0
        self._paused: dict[str, float] = {}
        self._gone: set[str] = set()
        self._durations: deque[float] = deque(maxlen=64)
        self._error: BaseException | None = None
        self._closing = False
        self._threads = 0
        self._meeting = Meeting()

    def run(self, wants: Sequence[Want], tick: Callable[[], None] | None = None) -> list[Want]:
        """Gets what can be had and returns the rest.

        Args:
            tick: called now and then on the calling thread.

        Raises:
            Whatever a sink raises; nothing more is asked for then.
        """
        self._queue = deque(want for want in wants if not want.done)
        self._left = len(self._queue)
        if not self._left or not self.sources:
            return [want for want in wants if not want.done]
        try:
            with self._work_left:
                for source in list(self.sources):
                    self._start(source, min(self._slots, self._left))
                while self._left and self._threads and self._error is None and not self._abandoned():
                    self._ended.wait(0.1)
                    self._watch()
                    if tick is not None:
                        tick()
        finally:
            with self._work_left:
                self._closing = True
                for ticket in self._tickets:
                    ticket.void = True
                self._work_left.notify_all()
                # whoever called may close files next, so no thread may still be writing to one
                while self._sinking:
                    self._ended.wait(0.1)
        if self._error is not None:
            raise self._error
        return [want for want in wants if not want.done]

    def _abandoned(self) -> bool:
        """Whether all that is left are threads that wait for sources which were let go."""
        return not self._tickets and all(source.name in self._gone for source in self.sources)

    def _start(self, source: Source, count: int) -> None:
        for _ in range(count):
            self._threads += 1
            threading.Thread(target=self._work, args=(source,), daemon=True).start()

    def _work(self, source: Source) -> None:
        try:
            while (ticket := self._take(source)) is not None:
                self._serve(ticket)
        except BaseException as error:
            # a sink that fails (a full disk) ends the whole download, on the calling thread
            with self._work_left:
                self._error = self._error or error
        finally:
            with self._work_left:
                self._threads -= 1
                self._ended.notify_all()

    def _take(self, source: Source) -> _Ticket | None:
        with self._work_left:
            while True:
                if self._closing or self._error or not self._left or source.name in self._gone:
                    return None
                wait = self._paused.get(source.name, 0.0) - time.monotonic()
                if wait <= 0:
                    want = self._next(source)
                    if want is not None:
                        now = time.monotonic()
                        ticket = _Ticket(want, source, now, heard=now)
                        self._tickets.add(ticket)
                        return ticket
                    if self._hopeless(source):
                        return None
                self._work_left.wait(min(max(wait, 0.05), 0.5))

    def _next(self, source: Source) -> Want | None:
        for _ in range(len(self._queue)):
            want = self._queue.popleft()
            if want.done:
                continue
            if source.name not in want.tried:
                return want
            self._queue.append(want)
        return None

    def _hopeless(self, source: Source) -> bool:
        """Whether nothing is left that this source could be asked for, now or after others fail."""
        return all(source.name in w.tried for w in self._queue if not w.done) and all(
            source.name in t.want.tried or t.source is source for t in self._tickets if not t.want.done
        )

    def _serve(self, ticket: _Ticket) -> None:
        want, source = ticket.want, ticket.source

        def tell(count: int) -> None:
            ticket.heard = time.monotonic()
            if ticket.first is None:
                ticket.first = ticket.heard
            ticket.received += count
            if ticket.void:
                raise SourceError("broken", "it took too long")

        try:
            data = source.get(want.cid, tell)
            self._check(want, data)
        except SourceError as error:
            self._failed(ticket, error)
            return
        ended = time.monotonic()
        with self._work_left:
            self._tickets.discard(ticket)
            if want.done or self._closing:
                return
            want.done = True
            self._sinking += 1
            self._durations.append(ended - ticket.started)
            self._failures[source.name] = 0
            self._useful.add(source.name)
            for late in [t for t in self._tickets if t.want is want]:
                self._lost(late, ended)
        try:
            want.sink(data)
        finally:
            with self._work_left:
                self._sinking -= 1
                self._left -= 1
                if not self._left or self._closing:
                    self._work_left.notify_all()
                    self._ended.notify_all()
        first = ticket.first if ticket.first is not None else ended
        self._scores.served(source.name, first - ticket.started, len(data), ended - ticket.started)
        with self._work_left:
            served = self._served.setdefault(source.name, Served(source.name, source.level))
            served.blocks += 1
            served.bytes += len(data)

    def _lost(self, ticket: _Ticket, now: float) -> None:
        """A source that was asked for a block first and had not given it when another one had."""
        name = ticket.source.name
        ticket.void = True
        self._scores.failed(name)
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] >= 2:
            self._let_go(ticket.source, f"it was slow: no block after {now - ticket.started:.1f} s")

    def _failed(self, ticket: _Ticket, error: SourceError) -> None:
        want, source = ticket.want, ticket.source
        with self._work_left:
            self._tickets.discard(ticket)
            late = ticket.void or want.done or self._closing
            self._said[source.name] = error.reason
            if not late:
                if error.kind != "busy":
                    want.tried.add(source.name)
                self._queue.append(want)
                self._judge(source, error)
            self._work_left.notify_all()
        if not late and error.kind != "missing":
            self._scores.failed(source.name, lied=error.kind == "lied", busy=error.kind == "busy")

    def _judge(self, source: Source, error: SourceError) -> None:
        name = source.name
        if error.kind == "missing":
            self._missing[name] = self._missing.get(name, 0) + 1
            if self._missing[name] >= _MOST_MISSING and name not in self._useful:
                self._let_go(source, "it has none of the blocks", quiet=True)
            return
        self._failures[name] = self._failures.get(name, 0) + 1
        if error.kind in ("lied", "unsupported"):
            self._let_go(source, error.reason)
        elif error.kind == "busy" and self._failures[name] < 4 * _MOST_FAILURES:
            self._paused[name] = time.monotonic() + min(error.wait_s or 1.0, self._timeout)
        elif self._failures[name] >= _MOST_FAILURES:
            self._let_go(source, error.reason)

    def _let_go(self, source: Source, reason: str, *, quiet: bool = False) -> None:
        if source.name in self._gone:
            return
        self._gone.add(source.name)
        if not quiet:
            self._dropped.append(Dropped(source.name, reason))
        # what it is still sending may be right, and counts if it is; `_watch` ends what does not come
        if self._reserve:
            follower = self._reserve.pop(0)
            self.sources.append(follower)
            self._start(follower, min(self._slots, max(1, self._left)))

    def _void(self, ticket: _Ticket) -> None:
        ticket.void = True
        ticket.want.tried.add(ticket.source.name)
        self._tickets.discard(ticket)
        if not ticket.want.done:
            self._queue.append(ticket.want)
        self._work_left.notify_all()

    def _watch(self) -> None:
        now = time.monotonic()
        usual = statistics.median(self._durations) if self._durations else None
        for ticket in list(self._tickets):
            age = now - ticket.started
            silent = now - ticket.heard > self._timeout
            crawling = age > self._timeout and ticket.received < _SLOWEST * age
            if silent or crawling:
                rate = ticket.received / max(age, 1e-9)
                reason = f"it was silent for {self._timeout:g} s" if silent else f"it gave {rate:.0f} bytes per second"
                self._said[ticket.source.name] = reason
                self._scores.failed(ticket.source.name)
                self._void(ticket)
                self._let_go(ticket.source, reason)
            elif usual is not None and not self._queue and age > max(_LEAST_PATIENCE_S, _PATIENCE * usual):
                self._hedge(ticket)

    def _hedge(self, ticket: _Ticket) -> None:
        """Has a late block asked for at another source as well."""
        asked = ticket.want.tried | {ticket.source.name}
        others = [s for s in self.sources if s.name not in self._gone and s.name not in asked]
        if others and not ticket.hedged:
            ticket.hedged = True
            ticket.want.tried.add(ticket.source.name)
            self._queue.append(ticket.want)
            self._work_left.notify_all()

    def _check(self, want: Want, data: Data) -> None:
        if len(data) > LARGEST_BLOCK:
            raise SourceError("lied", f"it sent {len(data):,} bytes for the block {want.cid}")
        if self._meeting.sha256(data, alone=len(self._tickets) < 2) != want.cid.digest:
            raise SourceError("lied", f"it sent wrong bytes for the block {want.cid}")
        if want.size is not None and len(data) != want.size:
            # the bytes are right, so it is the folder or file that lied about its part
            raise damaged(f"the block {want.cid} has {len(data):,} bytes and its file claims {want.size:,}")
