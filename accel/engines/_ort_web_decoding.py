"""Decoding in a page: the key-value cache stays there, only token ids and logits travel."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING

from accel.core.browser.control import BrowserLost
from accel.core.decoding import PAST, PRESENT, CacheDecoding, empty_past
from accel.core.types import GraphSpec

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
