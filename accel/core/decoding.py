"""Decoding token by token with a key-value cache: bookkeeping, the generic cache in numpy, and the choice of tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accel.core.contracts import Decoding, Session
from accel.core.errors import AccelError, IncompatibleError
from accel.core.types import GraphSpec, TensorSpec

if TYPE_CHECKING:
    from accel.core.contracts import Array, Tensors

PAST = "past_key_values."
PRESENT = "present."
#: with a temperature, tokens are drawn from this many likeliest ones (the default of transformers' generate)
SAMPLED_FROM = 50


class NotANumber(IncompatibleError):
    """The model's output is not a number: its weights are damaged, or the arithmetic overflowed."""

    kind = "not_a_number"

    def __init__(self, what: str = "the model's output") -> None:
        super().__init__(
            f"{what} is not a number (NaN or infinite)",
            "check the model's weights, or run it with --precision fp32 and another --engine",
        )


class CacheDecoding(Decoding):
    """What every decoding has to keep besides the cache: the mask of all tokens so far and their positions.

    Subclasses keep the cache and implement `call`.

    Args:
        graph: spec of a graph with `cache`. `attention_mask` (batch, past + length) and `position_ids`
            (batch, length) are fed if it takes them.
        feeds: constant inputs of every step.
    """

    def __init__(self, graph: GraphSpec, feeds: Tensors) -> None:
        self.graph = graph
        self.constants = feeds
        names = {tensor.name for tensor in graph.inputs}
        self.past_specs: tuple[TensorSpec, ...] = tuple(t for t in graph.inputs if t.name.startswith(PAST))
        self._takes_mask = "attention_mask" in names
        self._takes_positions = "position_ids" in names
        self._mask: Array | None = None
        self._padded = False
        self.length = 0

    def step(self, input_ids: Array, attention_mask: Array | None = None) -> Array:
        """See `Decoding.step`."""
        import numpy as np

        feeds = {**self.constants, "input_ids": np.ascontiguousarray(input_ids, np.int64)}
        batch, new = input_ids.shape
        mask = np.ones((batch, new), np.int64) if attention_mask is None else attention_mask.astype(np.int64)
        if self._mask is None:
            self._padded = attention_mask is not None and not attention_mask.all()
            self._mask = mask
        else:
            self._mask = np.concatenate([self._mask, mask], axis=1)
        if self._takes_mask:
            feeds["attention_mask"] = self._mask
        if self._takes_positions:
            if self._padded:
                positions = np.maximum(self._mask.cumsum(axis=1)[:, -new:] - 1, 0)
            else:
                positions = np.broadcast_to(np.arange(self.length, self.length + new), (batch, new))
            feeds["position_ids"] = np.array(positions, np.int64)
        logits = self.call(feeds)
        self.length += new
        return last_position(logits)

    @abstractmethod
    def call(self, feeds: Tensors) -> Array:
        """Executes the graph with the cache and these feeds, keeps the new cache, and returns the `logits` output."""


class ArrayDecoding(CacheDecoding):
    """A cache of numpy arrays, for any session."""

    def __init__(self, session: Session, graph: GraphSpec, feeds: Tensors) -> None:
        super().__init__(graph, feeds)
        self._session = session
        self._past: Tensors | None = None

    def call(self, feeds: Tensors) -> Array:
        """See `CacheDecoding.call`."""
        if self._past is None:
            self._past = empty_past(self.past_specs, feeds["input_ids"].shape[0])
        outputs = self._session.run(self.graph.name, {**feeds, **self._past})
        self._past = {t.name: outputs[PRESENT + t.name.removeprefix(PAST)] for t in self.past_specs}
        return outputs["logits"]


def empty_past(specs: Sequence[TensorSpec], batch: int) -> Tensors:
    """The cache before the first token: arrays whose axis of past tokens has size 0."""
    import numpy as np

    past = {}
    for tensor in specs:
        shape = [batch if axis == "batch" else axis if isinstance(axis, int) else 0 for axis in tensor.axes]
        past[tensor.name] = np.zeros(shape, tensor.dtype)
    return past


def last_position(logits: Array) -> Array:
    """Logits (batch, vocabulary) as fp32, from those or from (batch, length, vocabulary)."""
    import numpy as np

    if logits.ndim == 3:
        logits = logits[:, -1]
    return logits if logits.dtype == np.float32 else logits.astype(np.float32)


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen from logits.

    Attributes:
        temperature: 0 takes the likeliest token. Otherwise one of the `SAMPLED_FROM` likeliest is drawn with
            probability softmax(logits / temperature), by adding Gumbel noise of numpy's PCG64 seeded with
            (seed, row number); the same seed and logits give the same tokens, whatever else is in the batch.
        repetition_penalty: logits of tokens seen so far are divided (positive) or multiplied (negative) by it, as in
            CTRL (Keskar et al. 2019); 1 changes nothing.
        suppress, suppress_first: tokens never chosen, and tokens not chosen first.
    """

    temperature: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    suppress: tuple[int, ...] = ()
    suppress_first: tuple[int, ...] = ()


@dataclass
class Generated:
    """One row's new tokens.

    Attributes:
        ended: it ended by itself, with a stop token, which is not among the tokens.
        error: its logits were not finite, so that it could not go on.
    """

    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    error: AccelError | None = None


def generate(
    decoding: Decoding,
    input_ids: Array,
    attention_mask: Array | None,
    *,
    max_new_tokens: Sequence[int],
    stop: Sequence[int],
    choice: Choice = Choice(),
    rows: Sequence[int] = (),
    pad_id: int = 0,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Generates tokens after a prompt until each row meets a stop token or its own limit.

    Args:
        decoding: fresh, without tokens in its cache.
        input_ids, attention_mask: the prompts (batch, n), padded on the left.
        max_new_tokens: the most tokens for each row.
        stop: tokens that end a text.
        rows: numbers that seed the rows' random generators; 0, 1, ... by default.
        pad_id: fed for rows that have ended while others go on.
        on_token: called with the row and each new token as soon as it is chosen.
    """
    import numpy as np

    batch = input_ids.shape[0]
    results = [Generated() for _ in range(batch)]
    choosers = [_Chooser(choice, row) for row in (rows or range(batch))]
    for row, chooser in enumerate(choosers):
        mask = slice(None) if attention_mask is None else attention_mask[row].astype(bool)
        chooser.see(input_ids[row][mask])
    stops = frozenset(stop)
    active = [row for row in range(batch) if max_new_tokens[row] > 0]
    feed, mask = input_ids, attention_mask
    while active:
        logits = decoding.step(feed, mask)
        feed, mask = np.full((batch, 1), pad_id, np.int64), None
        for row in list(active):
            try:
                token = choosers[row].choose(logits[row])
            except NotANumber as error:
                results[row].error = error
                active.remove(row)
                continue
            if token in stops:
                results[row].ended = True
                active.remove(row)
                continue
            results[row].tokens.append(token)
            feed[row, 0] = token
            if on_token is not None:
                on_token(row, token)
            if len(results[row].tokens) >= max_new_tokens[row]:
                active.remove(row)
    return results


class _Chooser:
    """Chooses one row's tokens."""

    def __init__(self, choice: Choice, row: int) -> None:
        import numpy as np

        self._choice = choice
        self._random = np.random.default_rng([choice.seed, row]) if choice.temperature > 0 else None
        self._seen: set[int] = set()
        self._first = True
        self._plain = choice.repetition_penalty == 1.0 and not choice.suppress and not choice.suppress_first

    def see(self, tokens: Array) -> None:
        """Counts tokens of the prompt as seen."""
        if self._choice.repetition_penalty != 1.0:
            self._seen.update(int(t) for t in tokens)

    def choose(self, logits: Array) -> int:
        import numpy as np

        if not self._plain:
            logits = self._adjusted(logits)
        self._first = False
        token = self._draw(logits) if self._random is not None else int(np.argmax(logits))
        if not np.isfinite(logits[token]):
            raise NotANumber("the next token's probability")
        if self._choice.repetition_penalty != 1.0:
            self._seen.add(token)
        return token

    def _adjusted(self, logits: Array) -> Array:
        import numpy as np

        logits = logits.copy()
        if self._seen and self._choice.repetition_penalty != 1.0:
            seen = np.fromiter(self._seen, np.int64)
            values = logits[seen]
            penalty = self._choice.repetition_penalty
            logits[seen] = np.where(values < 0, values * penalty, values / penalty)
        banned = (*self._choice.suppress, *(self._choice.suppress_first if self._first else ()))
        logits[[token for token in banned if 0 <= token < len(logits)]] = -np.inf
        return logits

    def _draw(self, logits: Array) -> int:
        import numpy as np

        assert self._random is not None
        if np.isnan(logits).any():
            raise NotANumber("the next token's probability")
        count = min(SAMPLED_FROM, len(logits))
        best = np.argpartition(logits, -count)[-count:]
        best = best[np.lexsort((best, -logits[best]))]
        noise = self._random.gumbel(size=count)
        return int(best[np.argmax(logits[best].astype(np.float64) / self._choice.temperature + noise)])


def choice_from(settings: Mapping[str, Any], temperature: float, seed: int) -> Choice:
    """The choice that a model's frozen generation settings and the user's options make together."""
    return Choice(
        temperature=temperature,
        seed=seed,
        repetition_penalty=float(settings.get("repetition_penalty") or 1.0),
        suppress=tuple(settings.get("suppress_tokens") or ()),
        suppress_first=tuple(settings.get("begin_suppress_tokens") or ()),
    )
