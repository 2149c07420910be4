"""SHA-256 of several pieces of memory, two at a time where the processor can.

The second one is nearly free: see `sha256_pair.c`, which is built at installation where there is a C compiler. Without
it, or on a processor without SHA instructions, hashlib does the same work one piece after the other.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

#: below this size a call costs more than the second lane saves
_WORTH_PAIRING = 4096
#: the same for two threads that have to meet first
_WORTH_MEETING = 128 << 10

Pair = Callable[[memoryview, memoryview], tuple[bytes, bytes]]


def _load() -> Pair | None:
    try:
        from accel.core.content._sha256_pair import digest_pair
    except ImportError:
        return None
    # a name that is computed wrongly would be worse than a slow one
    one, other = b"abc" * 43, b"xyz" * 43
    expected = hashlib.sha256(one).digest(), hashlib.sha256(other).digest()
    return digest_pair if digest_pair(one, other) == expected else None


#: hashes two pieces of one length; None where that is not to be had
digest_pair: Pair | None = _load()


def sha256_each(parts: Sequence[memoryview]) -> list[bytes]:
    """The digest of every piece. Neighbours of one length are hashed together."""
    digests: list[bytes] = []
    pair = digest_pair
    while len(digests) < len(parts):
        at = len(digests)
        part = parts[at]
        if pair is not None and at + 1 < len(parts) and len(part) == len(parts[at + 1]) >= _WORTH_PAIRING:
            digests.extend(pair(part, parts[at + 1]))
        else:
            digests.append(hashlib.sha256(part).digest())
    return digests


class _Piece:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.digest = b""
        self.done = threading.Lock()
        self.done.acquire()


class Meeting:
    """Where threads that each have a piece to hash meet in pairs.

    Args:
        patience_s: how long the first one waits for a second one.
    """

    def __init__(self, patience_s: float = 0.002) -> None:
        self._patience = patience_s
        self._lock = threading.Lock()
        self._waiting: _Piece | None = None

    def sha256(self, data: bytes | memoryview, *, alone: bool) -> bytes:
        """The digest of a piece.

        Args:
            alone: nobody else is about to come, so do not wait.
        """
        pair = digest_pair
        if pair is None or len(data) < _WORTH_MEETING:
            return hashlib.sha256(data).digest()
        mine = _Piece(memoryview(data))
        with self._lock:
            other = self._waiting
            if other is not None and len(other.data) == len(mine.data):
                self._waiting = None
            elif other is not None or alone:
                other = mine
            else:
                self._waiting = mine
        if other is mine or (other is None and not self._met(mine)):
            return hashlib.sha256(data).digest()
        if other is not None:
            other.digest, mine.digest = pair(other.data, mine.data)
            other.done.release()
        return mine.digest

    def _met(self, mine: _Piece) -> bool:
        """Waits for a second thread, and until it has hashed both; False if none comes."""
        if mine.done.acquire(timeout=self._patience):
            return True
        with self._lock:
            if self._waiting is mine:
                self._waiting = None
                return False
        return mine.done.acquire()
