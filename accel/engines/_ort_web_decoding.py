"""Decoding in a page: the key-value cache stays there, only token ids and logits travel.

WebNN compiles every shape anew, so that its cache does not grow: it has room for all tokens from the start, filled from
the right, and the mask says which columns hold one.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from accel.core.browser.control import BrowserLost
from accel.core.decoding import PAST, PRESENT, CacheDecoding, empty_past
from accel.core.errors import InputError
from accel.core.padding import rounded
from accel.core.types import GraphSpec, TensorSpec

if TYPE_CHECKING:
    from accel.core.contracts import Array, Tensors
    from accel.engines._ort_web_session import OrtWebSession

_NUMBERS = itertools.count()


class WebDecoding(CacheDecoding):
    """A cache of tensors that the page keeps, by key. When the browser is lost, all tokens so far are fed again, once.

    Args:
        session: the session that the graph belongs to.
    """

    def __init__(self, session: OrtWebSession, graph: GraphSpec, feeds: Tensors) -> None:
        super().__init__(graph, feeds)
        self._session = session
        self._fed: list[tuple[Array, Array]] = []
        self._lost = False
        self._begin()

    def _begin(self) -> None:
        """An empty cache under new keys."""
        number = next(_NUMBERS)
        names = [*(t.name for t in self.past_specs), *self.constants]
        self._keys = {name: f"{number}.{name}" for name in names}
        self._mask, self.length = None, 0
        weakref.finalize(self, self._session.dropped.extend, list(self._keys.values()))

    def step(self, input_ids: Array, attention_mask: Array | None = None) -> Array:
        """See `Decoding.step`.

        Raises:
            UnavailableError: the browser was lost twice.
        """
        import numpy as np

        self._fed.append((input_ids, np.ones_like(input_ids) if attention_mask is None else attention_mask))
        try:
            return super().step(input_ids, attention_mask)
        except BrowserLost as first:
            if self._lost:
                raise self._session.useless(first, first) from first
            self._lost = True
            self._session.lose()
            self._begin()
            ids, masks = (np.concatenate(part, axis=1) for part in zip(*self._fed, strict=True))
            try:
                return super().step(ids, masks)
            except BrowserLost as second:
                raise self._session.useless(first, second) from second

    def call(self, feeds: Tensors) -> Array:
        """See `CacheDecoding.call`."""
        keep = {PRESENT + t.name.removeprefix(PAST): self._keys[t.name] for t in self.past_specs}
        if self.length == 0:
            past = empty_past(self.past_specs, feeds["input_ids"].shape[0])
            hold = {name: self._keys[name] for name in self.constants}
            found = self._session.execute(self.graph.name, {**feeds, **past}, hold=hold, keep=keep)
        else:
            changing = {name: array for name, array in feeds.items() if name not in self.constants}
            found = self._session.execute(self.graph.name, changing, refs=self._keys, keep=keep)
        return found["logits"]


class FixedWebDecoding(WebDecoding):
    """A cache of fixed size, for what compiles every shape anew. The graph has to take an attention mask.

    Args:
        room: tokens that the cache holds.
    """

    def __init__(self, session: OrtWebSession, graph: GraphSpec, feeds: Tensors, room: int) -> None:
        self._room = rounded(room)
        super().__init__(session, graph, feeds)

    def _begin(self) -> None:
        super()._begin()
        self._columns: Array | None = None

    def call(self, feeds: Tensors) -> Array:
        """See `CacheDecoding.call`.

        Raises:
            InputError: there are more tokens than the cache has room for.
        """
        import numpy as np

        batch, new = feeds["input_ids"].shape
        wide = new if new == 1 else rounded(new)

        def on_the_right(array: Array) -> Array:
            return np.pad(array, [(0, 0), (wide - new, 0)])

        past = fixed_past(self.past_specs, batch, self._room)
        first = self._columns is None
        columns = np.zeros((batch, self._room), np.int64) if self._columns is None else self._columns
        mask = np.concatenate([columns, on_the_right(feeds["attention_mask"][:, -new:])], axis=1)
        if mask[:, : -self._room].any():
            raise InputError(
                f"the text has more tokens than the {self._room} that the cache on WebNN was made for",
                "a lower --max-new-tokens, or a shorter input",
            )
        changing: Tensors = {name: mask if name == "attention_mask" else on_the_right(a) for name, a in feeds.items()}
        found = self._session.execute(
            self.graph.name,
            {**changing, **past} if first else changing,
            refs={} if first else self._keys,
            keep={PRESENT + t.name.removeprefix(PAST): self._keys[t.name] for t in self.past_specs},
            last=self._room,
            shapes={name: array.shape for name, array in past.items()},
        )
        self._columns = mask[:, -self._room :]
        return found["logits"]


def fixed(graph: GraphSpec) -> bool:
    """Whether a graph with a cache can have one of fixed size: what is empty in it has to be masked."""
    names = {t.name for t in graph.inputs if not t.name.startswith(PAST)}
    return "attention_mask" in names and names <= {"input_ids", "attention_mask", "position_ids"}


def fixed_past(specs: Sequence[TensorSpec], batch: int, room: int) -> Tensors:
    """The cache before the first token, with room for some."""
    import numpy as np

    return {
        t.name: np.zeros([batch if a == "batch" else a if isinstance(a, int) else room for a in t.axes], t.dtype)
        for t in specs
    }
