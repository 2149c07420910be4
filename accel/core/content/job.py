"""One piece of work on content: the open store, a lease on it, and a fetcher for what it lacks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from accel.core import locks
from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid

if TYPE_CHECKING:
    from accel.core.content.fetching import Fetcher
    from accel.core.content.leases import Lease
    from accel.core.content.settings import Settings
    from accel.core.content.walk import Content

#: told of bytes that are had
Advance = Callable[[float], None]
#: told of the bytes of the content once they are known
Begin = Callable[[int], None]


class Job:
    """One piece of work on content: the store, a lease, and a fetcher that finishes what it lacks.

    Args:
        durable: see `Store.writer`.
    """

    def __init__(self, settings: Settings, advance: Advance | None = None, *, durable: bool = True) -> None:
        self.settings = settings
        self.advance = advance
        self._stack = contextlib.ExitStack()
        try:
            self.store = self._stack.enter_context(Store())
            self.writer = self._stack.enter_context(self.store.writer(durable=durable))
            self.lease: Lease = self.writer.lease
        except BaseException:
            self._stack.close()
            raise

    @functools.cached_property
    def fetcher(self) -> Fetcher:
        """Gets what is not here; made, and its modules loaded, when it is first needed."""
        from accel.core.content.fetching import Fetcher

        fetcher = Fetcher(self.store, self.lease, self.writer, self.settings, self.advance)
        self._stack.callback(fetcher.close)
        return fetcher

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def hold(self, name: str) -> None:
        """Keeps other processes from the same work until this one ends."""
        self._stack.enter_context(locks.holding(self.store.root / "locks" / name))

    def look(self, cid: Cid, only: Sequence[str] = (), max_size: int | None = None) -> Content:
        """See `Fetcher.look`. Two processes that want the same content do not get it twice: the second one waits."""
        self.hold(str(cid))
        return self.fetcher.look(cid, only, max_size)


def tidy(settings: Settings) -> None:
    """Evicts what the bound of the store does not allow."""
    if settings.cache_bytes is not None:
        with Store() as store:
            if store.index.held_bytes() > settings.cache_bytes:
                from accel.core.content.collect import keep_within

                keep_within(store, settings.cache_bytes)
