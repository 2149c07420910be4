"""Blocks to be had, and what became of asking for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from accel.core.content.cid import Cid

#: takes a block's bytes, which are good during the call only; called once per block, from several threads
Sink = Callable[[bytes | memoryview], None]


@dataclass(eq=False)
class Want:
    """A block to be had.

    Attributes:
        sink: called with its bytes once they are checked.
        size: bytes it should have, None if unknown.
        tried: names of sources that cannot give it, or have been asked and are late.
        done: it was had.
    """

    cid: Cid
    sink: Sink
    size: int | None = None
    tried: set[str] = field(default_factory=set)
    done: bool = False


@dataclass
class Served:
    """What one source gave."""

    name: str
    level: str
    blocks: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Dropped:
    """A source that was let go, and why."""

    name: str
    reason: str
