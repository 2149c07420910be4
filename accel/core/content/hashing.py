"""Reads a file once, on all cores, and hands on each piece with its SHA-256.

Python's lock is released while reading and hashing, and each thread reads into one buffer of its own, so that the
rate is that of SHA-256 itself and memory does not grow with the file.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Sequence

from accel.core.content.multibuffer import sha256_each
from accel.core.errors import TransferError

#: bytes that a thread takes at a time: two of the larger chunks, and small enough to stay in the processor's caches
_UNIT = 2 << 20
#: below this size starting threads costs more than it saves
_WORTH_THREADS = 4 << 20

#: takes the number of the piece, its bytes (valid during the call only) and its digest; called from several threads
Handle = Callable[[int, memoryview, bytes], None]
#: offset and length of a piece of a file
Span = tuple[int, int]


def cores() -> int:
    """Cores that this process may use, at most 16: memory gives no more."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    return max(1, min(count, 16))


class Claim:
    """Numbers 0 to count - 1, each given out once, until somebody calls `stop`."""

    def __init__(self, count: int) -> None:
        self._next, self._count = 0, count
        self._lock = threading.Lock()
        self._stopped = False

    def take(self) -> int | None:
        """The next number, or None."""
        with self._lock:
            if self._stopped or self._next >= self._count:
                return None
            self._next += 1
            return self._next - 1

    def stop(self) -> None:
        """Gives out no more."""
        self._stopped = True


def on_threads(work: Callable[[], None], threads: int, stop: Callable[[], None]) -> None:
    """Runs the same work on this thread and `threads - 1` others; `stop` asks them to end.

    Raises:
        The first error of any of them, after all have ended.
    """
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            stop()

    others = [threading.Thread(target=guarded, daemon=True) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    try:
        work()
    except BaseException:
        stop()
        raise
    finally:
        for thread in others:
            thread.join()
    if errors:
        raise errors[0]


def read_into(handle: int, view: memoryview, offset: int) -> int:
    """Fills the buffer from a file, as far as the file goes, and returns the bytes read."""
    done = 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def spans_of(size: int, chunk: int) -> list[Span]:
    """The chunks of a file; an empty file has one empty chunk."""
    return [(start, min(chunk, size - start)) for start in range(0, max(size, 1), chunk)]


def _units(spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Neighbouring spans that are read together: first and behind the last number."""
    units: list[tuple[int, int]] = []
    first = 0
    for number in range(1, len(spans) + 1):
        if number < len(spans):
            offset, length = spans[number]
            before = spans[number - 1]
            if offset == before[0] + before[1] and offset + length - spans[first][0] <= _UNIT:
                continue
        units.append((first, number))
        first = number
    return units


def hash_spans(
    handle: int,
    spans: Sequence[Span],
    act: Handle | None = None,
    advance: Callable[[float], None] | None = None,
    *,
    short: bool = False,
) -> list[bytes]:
    """The SHA-256 of pieces of an open file.

    Args:
        spans: in the order of the file.
        act: called with every piece, in no particular order.
        advance: told of bytes done.
        short: a piece that the file does not have gets an empty digest instead of an error.

    Raises:
        TransferError: the file ends too early.
    """
    digests = [b""] * len(spans)
    units = _units(spans)
    claim = Claim(len(units))
    largest = max((spans[behind - 1][0] + spans[behind - 1][1] - spans[first][0] for first, behind in units), default=0)

    def work() -> None:
        # memory of whole pages, which can be written past the page cache
        buffer = memoryview(mmap.mmap(-1, max(largest, 1)))
        while (taken := claim.take()) is not None:
            first, behind = units[taken]
            start = spans[first][0]
            want = spans[behind - 1][0] + spans[behind - 1][1] - start
            have = read_into(handle, buffer[:want], start)
            if have < want and not short:
                raise TransferError(
                    "a file became shorter while it was read", "wait until nobody writes to it, then try again"
                )
            numbers = [n for n in range(first, behind) if spans[n][0] - start + spans[n][1] <= have]
            parts = [buffer[spans[n][0] - start :][: spans[n][1]] for n in numbers]
            for number, part, digest in zip(numbers, parts, sha256_each(parts), strict=True):
                digests[number] = digest
                if act is not None:
                    act(number, part, digest)
            if advance is not None:
                advance(float(want))

    total = sum(length for _, length in spans)
    # while some write to the disk, others hash
    most = cores() if act is None else min(3 * cores(), 16)
    threads = min(most, len(units)) if total >= _WORTH_THREADS else 1
    on_threads(work, max(threads, 1), claim.stop)
    return digests
