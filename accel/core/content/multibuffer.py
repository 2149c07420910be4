"""SHA-256 of several pieces of memory, two at a time where the processor can.

The second one is nearly free: see `sha256_pair.c`, which is built at installation where there is a C compiler. Without
it, or on a processor without SHA instructions, hashlib does the same work one piece after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

#: below this size a call costs more than the second lane saves
_WORTH_PAIRING = 4096

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
