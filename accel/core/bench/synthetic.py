"""Inputs made to measure: texts of exactly so many tokens, sounds of so many samples, tensors of a shape.

The numbers are drawn by optimum's generators of dummy inputs, the same for the same shape. Those of a text stand for
common words, so that the family's own tokenizer is measured on what it would meet; its length in tokens is what counts,
and is checked with that tokenizer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from accel.core.errors import AccelError, InputError
from accel.core.types import Item, Options, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import Array, ModelPlugin

WORDS = "time house water day work part place people year hand world life light night name book city door head side"
#: what fill-mask needs in its text, in the spelling that every model of the family understands
MASK = " [MASK]"
RATE = 16000


def items(family: ModelPlugin, batch: int, length: int | None, options: Options) -> list[Item]:
    """A batch of inputs.

    Args:
        family: of the model, made from its recipe.
        length: tokens of each text, samples of each sound, or size of the dynamic axes of a bare ONNX model; None for
            the task's own example.

    Raises:
        InputError: no input of this length can be made for the model.
    """
    assert family.recipe is not None
    examples = family.example_items()
    first = examples[0]
    if first.tensors is not None:
        return [Item(0, text=first.text, tensors=_tensors(family.recipe, batch, length))]
    if length is None:
        return [dataclasses.replace(examples[i % len(examples)], index=i) for i in range(batch)]
    if first.audio is not None:
        return [
            dataclasses.replace(first, index=i, audio=str(_sound(row))) for i, row in enumerate(_waves(batch, length))
        ]
    if first.text is None and not first.texts:
        raise InputError(f"inputs of {family.recipe.task} have no length to choose", "leave --seq out")
    tail = MASK if family.recipe.task == "fill-mask" else ""
    length_of = _measure(family, first, options)
    texts = _texts(length_of, batch, length, tail)
    if first.text is not None:
        return [dataclasses.replace(first, index=i, text=text) for i, text in enumerate(texts)]
    return [dataclasses.replace(first, index=i, texts=(text,) * len(first.texts)) for i, text in enumerate(texts)]


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Has numpy's own source of random numbers, which optimum draws from, begin at the same place every time."""
    import numpy as np

    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)


def _measure(family: ModelPlugin, example: Item, options: Options) -> Callable[[str], int]:
    def length(text: str) -> int:
        field = {"text": text} if example.text is not None else {"texts": (text,) * len(example.texts)}
        encoded = family.preprocess_inputs([dataclasses.replace(example, **field)], options)[0]
        if isinstance(encoded, AccelError):
            raise encoded
        return int(encoded.length)

    return length


def _texts(length_of: Callable[[str], int], batch: int, wanted: int, tail: str) -> list[str]:
    """Texts of exactly `wanted` tokens each."""
    from optimum.utils.input_generators import DummyTextInputGenerator

    words = [w for w in WORDS.split() if length_of(f"{w} {w}{tail}") - length_of(f"{w}{tail}") == 1] or ["a"]
    vocabulary = SimpleNamespace(vocab_size=len(words))
    with _seeded():
        drawn = DummyTextInputGenerator("text", vocabulary, batch_size=batch, sequence_length=wanted).generate(
            "input_ids", framework="np"
        )
    return [_text(length_of, [words[i] for i in row], wanted, tail) for row in drawn.tolist()]


def _text(length_of: Callable[[str], int], words: Sequence[str], wanted: int, tail: str) -> str:
    """The beginning of the words that has exactly `wanted` tokens, with filling where no such beginning is."""
    least = length_of(words[0] + tail)
    if wanted < least:
        raise InputError(
            f"a text of {wanted} tokens cannot be made: the shortest one has {least} with the special tokens",
            f"--seq {least} or more",
        )

    def of(count: int) -> str:
        return " ".join(words[:count]) + tail

    count = wanted - least + 1
    found = length_of(of(count))
    if found == wanted:
        return of(count)
    # a tokenizer that splits words into pieces: words until it is too long, then letters until it fits
    low, high = 1, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length_of(of(middle)) <= wanted else (low, middle - 1)
    text = of(low)
    for extra in range(64):
        padded = text.removesuffix(tail) + " a" * (extra // 2) + "a" * (extra % 2) + tail
        if length_of(padded) == wanted:
            return padded
    raise InputError(f"no text of exactly {wanted} tokens was found for this tokenizer", "try a --seq beside it")


def _waves(batch: int, samples: int) -> Array:
    """Sounds (batch, samples) between -1 and 1."""
    from optimum.utils.input_generators import DummyAudioInputGenerator

    with _seeded():
        made = DummyAudioInputGenerator("audio", None, batch_size=batch, audio_sequence_length=samples)
        waves: Array = made.generate("input_values", framework="np")
    return waves


def _sound(values: Array) -> Path:
    """A 16 kHz WAV file. It lies in the folder for temporary files."""
    with tempfile.NamedTemporaryFile(prefix="accel-bench-", suffix=".wav", delete=False) as file:
        path = Path(file.name)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes((values * 32767).astype("<i2").tobytes())
    return path


def _tensors(recipe: Recipe, batch: int, length: int | None) -> dict[str, Any]:
    """Floats are drawn; of whole numbers nobody knows what they mean, so they are 1 in a mask and else 0."""
    import numpy as np
    from optimum.utils.input_generators import DummyInputGenerator

    made: dict[str, Any] = {}
    with _seeded():
        for spec in recipe.graphs["model"].inputs:
            shape, kind = list(_shape(spec.axes, batch, length)), np.dtype(spec.dtype)
            if np.issubdtype(kind, np.floating):
                drawn = DummyInputGenerator.random_float_tensor(shape, min_value=-1, max_value=1, framework="np")
            else:
                value = 1 if "mask" in spec.name else 0
                drawn = DummyInputGenerator.constant_tensor(shape, value=value, framework="np")
            made[spec.name] = drawn.astype(kind)
    return made


def _shape(axes: Sequence[int | str], batch: int, length: int | None) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else batch if i == 0 else length or 2 for i, axis in enumerate(axes))
