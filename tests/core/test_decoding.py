"""Bookkeeping of decoding and the choice of tokens, with a small model that can be followed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel.core.contracts import Session
from accel.core.decoding import ArrayDecoding, Choice, NotANumber, choice_from, empty_past, generate, last_position
from accel.core.types import GraphSpec, TensorSpec

VOCABULARY = 10
ROWS = ("batch", "length")
GRAPH = GraphSpec(
    "model",
    (
        TensorSpec("input_ids", "int64", ROWS),
        TensorSpec("attention_mask", "int64", ("batch", "past + length")),
        TensorSpec("position_ids", "int64", ROWS),
        TensorSpec("past_key_values.0.key", "float32", ("batch", 1, "past", 1)),
        TensorSpec("past_key_values.0.value", "float32", ("batch", 1, "past", 1)),
    ),
    (
        TensorSpec("logits", "float32", ("batch", VOCABULARY)),
        TensorSpec("present.0.key", "float32", ("batch", 1, "past + length", 1)),
        TensorSpec("present.0.value", "float32", ("batch", 1, "past + length", 1)),
    ),
    cache=True,
)


class Counter(Session):
    """A real graph in numpy: the next token is the sum of all tokens seen (the cache), unless padding, mod 10."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.broken_row: int | None = None

    def run(self, graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
        assert graph == "model" and set(feeds) == {t.name for t in GRAPH.inputs}
        self.calls.append(feeds)
        new = feeds["input_ids"].astype(np.float32)[:, None, :, None]
        keys = np.concatenate([feeds["past_key_values.0.key"], new], axis=2)
        assert keys.shape[2] == feeds["attention_mask"].shape[1]
        total = (keys[:, 0, :, 0] * feeds["attention_mask"]).sum(axis=1).astype(int) % VOCABULARY
        logits = np.zeros((len(keys), VOCABULARY), np.float32)
        logits[np.arange(len(keys)), total] = 5.0
        if self.broken_row is not None and len(self.calls) > 1:
            logits[self.broken_row] = np.nan
        return {"logits": logits, "present.0.key": keys, "present.0.value": keys}


def _padded(*prompts: list[int]) -> tuple[Any, Any]:
    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _generate(session: Counter, prompts: list[list[int]], **options: Any) -> list[Any]:
    ids, mask = _padded(*prompts)
    decoding = session.decode(GRAPH, {}, 64)
    settings = {"max_new_tokens": [4] * len(prompts), "stop": [], **options}
    return generate(decoding, ids, mask, **settings)


def test_greedy_follows_the_cache() -> None:
    # 1+2=3, 1+2+3=6, 12%10=2, 14%10=4
    session = Counter()
    assert _generate(session, [[1, 2]])[0].tokens == [3, 6, 2, 4]
    assert [c["input_ids"].shape[1] for c in session.calls] == [2, 1, 1, 1], "one token a step after the prompt"
    assert [c["position_ids"].tolist() for c in session.calls] == [[[0, 1]], [[2]], [[3]], [[4]]]
    assert all(c["attention_mask"].all() for c in session.calls)


def test_a_batch_gives_what_each_prompt_gives_alone() -> None:
    prompts = [[1, 2], [5], [3, 3, 3, 2]]
    session = Counter()
    together = [g.tokens for g in _generate(session, prompts)]
    assert together == [_generate(Counter(), [p])[0].tokens for p in prompts]
    assert session.calls[0]["position_ids"].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 2, 3]]
    assert session.calls[1]["position_ids"].tolist() == [[2], [1], [4]]


def test_stop_tokens_and_limits_end_rows_one_by_one() -> None:
    session = Counter()
    first, second = _generate(session, [[1, 2], [5]], max_new_tokens=[6, 2], stop=[2])
    assert first.tokens == [3, 6] and first.ended
    assert second.tokens == [5, 0] and not second.ended
    assert len(session.calls) == 3, "no step after the last row has ended"
    assert session.calls[2]["input_ids"].tolist() == [[6], [0]]
    assert _generate(Counter(), [[1]], max_new_tokens=[0])[0].tokens == []


def test_tokens_are_told_as_they_come() -> None:
    told: list[tuple[int, int]] = []
    _generate(Counter(), [[1, 2], [5]], max_new_tokens=[2, 1], on_token=lambda row, token: told.append((row, token)))
    assert told == [(0, 3), (1, 5), (0, 6)]


def test_a_row_that_is_not_a_number_ends_alone() -> None:
    session = Counter()
    session.broken_row = 1
    good, bad = _generate(session, [[1, 2], [5]])
    assert good.error is None and good.tokens == [3, 6, 2, 4]
    assert isinstance(bad.error, NotANumber) and bad.tokens == [5]


def _next(
    logits: list[float], choice: Choice, row: int = 0, prompt: tuple[int, ...] = (0,), count: int = 1
) -> list[int]:
    class Fixed(Session):
        def run(self, graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
            past = np.concatenate([feeds["past_key_values.0.key"], feeds["input_ids"][:, None, :, None]], axis=2)
            return {"logits": np.array([logits], np.float32), "present.0.key": past, "present.0.value": past}

    decoding = ArrayDecoding(Fixed(), GRAPH, {})
    found = generate(decoding, np.array([prompt]), None, max_new_tokens=[count], stop=[], choice=choice, rows=[row])
    if found[0].error:
        raise found[0].error
    return found[0].tokens


def test_sampling_is_repeatable_and_follows_the_probabilities() -> None:
    logits = np.log([0.1, 0.6, 0.3]).tolist()
    choice = Choice(temperature=1.0, seed=7)
    tokens = _next(logits, choice, count=2000)
    assert tokens == _next(logits, choice, count=2000)
    assert tokens != _next(logits, Choice(temperature=1.0, seed=8), count=2000)
    assert tokens != _next(logits, choice, row=1, count=2000)
    shares = np.bincount(tokens, minlength=3) / 2000
    assert np.abs(shares - [0.1, 0.6, 0.3]).max() < 0.04
    cold = np.bincount(_next(logits, Choice(temperature=0.25, seed=7), count=500), minlength=3) / 500
    assert cold[1] > 0.9, "a low temperature sharpens"


def test_sampling_draws_from_the_likeliest_tokens_only() -> None:
    logits = [0.0] * 60
    logits[:50] = [1.0] * 50
    assert set(_next(logits, Choice(temperature=100.0), count=3000)) == set(range(50))


def test_repetition_penalty_and_suppressed_tokens() -> None:
    assert _next([2.0, 1.5, -1.0], Choice(repetition_penalty=2.0), prompt=(0,)) == [1]
    assert _next([-1.0, -1.5, -9.0], Choice(repetition_penalty=2.0), prompt=(0,)) == [1], (
        "negative logits are multiplied"
    )
    assert _next([3.0, 2.0, 1.0], Choice(suppress=(0,)), prompt=(2,), count=2) == [1, 1]
    assert _next([3.0, 2.0, 1.0], Choice(suppress_first=(0,)), prompt=(2,), count=2) == [1, 0]
    assert choice_from({}, 0.0, 3) == Choice(seed=3)
    assert choice_from({"repetition_penalty": 1.1, "suppress_tokens": [1]}, 0.5, 0) == Choice(0.5, 0, 1.1, (1,))


def test_repetition_penalty_equals_transformers() -> None:
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = np.random.default_rng(0).normal(size=40).astype(np.float32) * 3
    seen = (4, 7, 7, 30, int(logits.argmax()))
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), torch.from_numpy(logits[None].copy()))
    assert _next(logits.tolist(), Choice(repetition_penalty=1.3), prompt=seen) == [int(expected.argmax())]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_never_a_token(bad: float, temperature: float) -> None:
    with pytest.raises(NotANumber):
        _next([0.0, bad, 1.0], Choice(temperature=temperature))


def test_shapes_of_empty_caches_and_logits() -> None:
    past = empty_past([t for t in GRAPH.inputs if t.name.startswith("past")], 3)
    assert {name: array.shape for name, array in past.items()} == {
        "past_key_values.0.key": (3, 1, 0, 1),
        "past_key_values.0.value": (3, 1, 0, 1),
    }
    wide = np.arange(12, dtype=np.float16).reshape(1, 3, 4)
    assert last_position(wide).dtype == np.float32
    assert last_position(wide).tolist() == [[8, 9, 10, 11]]
