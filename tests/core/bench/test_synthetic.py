"""Inputs that are made up have exactly the shape that was asked for, and are the same every time."""

from __future__ import annotations

import subprocess
import sys
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.bench import synthetic
from accel.core.errors import InputError
from accel.core.types import GraphSpec, Item, Options, Recipe, TensorSpec


@dataclass
class Encoded:
    length: int


def words(text: str) -> int:
    """A tokenizer of whole words with two special tokens."""
    return len(text.replace("[MASK]", " [MASK] ").split()) + 2


def pieces(text: str) -> int:
    """One that cuts words into pieces of three letters."""
    return sum(-(-len(word) // 3) for word in text.split()) + 1


def pairs(text: str) -> int:
    """One that has no odd numbers of tokens."""
    return 2 * len(text.split())


class Family:
    """As much of a family as made-up inputs need, around a tokenizer."""

    def __init__(self, example: Item, task: str = "text", length_of: Callable[[str], int] = words) -> None:
        tensor = TensorSpec("x", "float32", ("batch", "length"))
        self.recipe = Recipe("text-encoder", task, {"model": GraphSpec("model", (tensor,), ())}, {})
        self._example, self._length_of = example, length_of

    def example_items(self) -> list[Item]:
        return [self._example]

    def preprocess_inputs(self, inputs: Sequence[Item], options: Options) -> list[Any]:
        return [Encoded(self._length_of(item.text or item.texts[0])) for item in inputs]


def made(family: Family, batch: int, length: int | None) -> list[Item]:
    return synthetic.items(family, batch, length, Options())  # type: ignore[arg-type]


@pytest.mark.parametrize("length_of", [words, pieces])
@pytest.mark.parametrize("length", [3, 4, 17, 128, 511])
def test_texts_have_exactly_the_tokens_asked_for(length_of: Callable[[str], int], length: int) -> None:
    items = made(Family(Item(text="hello"), length_of=length_of), 4, length)
    assert [length_of(item.text or "") for item in items] == [length] * 4
    assert [item.index for item in items] == [0, 1, 2, 3]
    # each of a batch says something else, and the same next time
    assert length_of is pieces or length < 17 or len({item.text for item in items}) == 4
    assert made(Family(Item(text="hello"), length_of=length_of), 4, length) == items


def test_a_masked_text_has_its_mask() -> None:
    items = made(Family(Item(text="a [MASK]"), "fill-mask"), 2, 12)
    assert all(item.text is not None and item.text.count("[MASK]") == 1 for item in items)
    assert [words(item.text or "") for item in items] == [12, 12]


def test_candidate_texts_keep_their_number() -> None:
    items = made(Family(Item(image="i.png", texts=("a", "b", "c"))), 2, 9)
    assert [len(item.texts) for item in items] == [3, 3] and items[0].image == "i.png"
    assert words(items[1].texts[2]) == 9


def test_what_cannot_be_made_is_said() -> None:
    with pytest.raises(InputError, match="shortest one has 3") as caught:
        made(Family(Item(text="x")), 1, 2)
    assert "--seq 3" in caught.value.hint
    with pytest.raises(InputError, match="exactly 7 tokens"):
        made(Family(Item(text="x"), length_of=pairs), 1, 7)
    with pytest.raises(InputError, match="no length to choose"):
        made(Family(Item(image="i.png")), 1, 7)


def test_sounds_have_exactly_the_samples_asked_for() -> None:
    items = made(Family(Item(audio="example.wav")), 2, 12_345)
    sounds = []
    for item in items:
        path = Path(item.audio or "")
        with wave.open(str(path)) as sound:
            assert (sound.getnframes(), sound.getframerate(), sound.getnchannels()) == (12_345, 16_000, 1)
            sounds.append(np.frombuffer(sound.readframes(12_345), "<i2"))
        path.unlink()
    # loud enough to be sound, and not twice the same
    assert all(values.std() > 1000 for values in sounds) and not np.array_equal(*sounds)


def test_without_a_length_the_example_is_repeated() -> None:
    assert [item.text for item in made(Family(Item(text="hello")), 3, None)] == ["hello"] * 3


def test_tensors_of_a_bare_graph() -> None:
    family = Family(Item(text="synthetic", tensors={}))
    kinds = (("x", "float32"), ("half", "float16"), ("input_ids", "int64"), ("attention_mask", "int64"))
    inputs = tuple(TensorSpec(name, kind, ("batch", 3, "length")) for name, kind in kinds)
    family.recipe = Recipe("cnn", "tensors", {"model": GraphSpec("model", inputs, ())}, {})
    (item,) = made(family, 2, 5)
    assert item.tensors is not None
    assert {name: (t.shape, str(t.dtype)) for name, t in item.tensors.items()} == {
        name: ((2, 3, 5), kind) for name, kind in kinds
    }
    assert item.tensors["x"].std() > 0.1 and abs(item.tensors["x"].mean()) < 0.5
    assert (item.tensors["input_ids"] == 0).all() and (item.tensors["attention_mask"] == 1).all()
    (again,) = made(family, 2, 5)
    assert again.tensors is not None and np.array_equal(again.tensors["x"], item.tensors["x"])
    (small,) = made(family, 2, None)
    assert small.tensors is not None and small.tensors["x"].shape == (2, 3, 2)


def test_others_random_numbers_are_left_alone() -> None:
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    made(Family(Item(text="hello")), 2, 16)
    assert np.array_equal(np.random.random(3), expected)


def test_making_inputs_loads_no_framework() -> None:
    """What is in the measured process counts as its memory."""
    code = """
import sys
from accel.core.bench import synthetic
synthetic._waves(2, 10)
synthetic._texts(lambda text: len(text.split()), 2, 10, "")
loaded = {"torch", "transformers", "onnxruntime"} & set(sys.modules)
assert not loaded, loaded
"""
    root = str(Path(__file__).parents[3])
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=root)
