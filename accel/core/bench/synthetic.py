"""Inputs made to measure: texts of exactly so many tokens, sounds of so many samples, tensors of a shape.

What a text says does not change how long a dense model takes, so a text is common words in a row; its length in tokens
is what counts, and is checked with the model's own tokenizer.
"""

from __future__ import annotations

import dataclasses
import tempfile
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.errors import AccelError, InputError
from accel.core.types import Item, Options, Recipe

if TYPE_CHECKING:
    from accel.core.contracts import ModelPlugin

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
    if length is not None:
        if first.audio is not None:
            first = dataclasses.replace(first, audio=str(_sound(length)))
        elif first.text is not None:
            mask = MASK if family.recipe.task == "fill-mask" else ""
            first = dataclasses.replace(first, text=_text(_measure(family, first, options), length, mask))
        elif first.texts:
            texts = _text(_measure(family, first, options), length, "")
            first = dataclasses.replace(first, texts=(texts,) * len(first.texts))
        else:
            raise InputError(f"inputs of {family.recipe.task} have no length to choose", "leave --seq out")
        examples = [first]
    return [dataclasses.replace(examples[i % len(examples)], index=i) for i in range(batch)]


def _measure(family: ModelPlugin, example: Item, options: Options) -> Callable[[str], int]:
    def length(text: str) -> int:
        field = {"text": text} if example.text is not None else {"texts": (text,) * len(example.texts)}
        encoded = family.preprocess_inputs([dataclasses.replace(example, **field)], options)[0]
        if isinstance(encoded, AccelError):
            raise encoded
        return int(encoded.length)

    return length


def _text(length_of: Callable[[str], int], wanted: int, tail: str) -> str:
    """A text of exactly `wanted` tokens."""
    words = [w for w in WORDS.split() if length_of(f"{w} {w}{tail}") - length_of(f"{w}{tail}") == 1] or ["a"]
    least = length_of(words[0] + tail)
    if wanted < least:
        raise InputError(
            f"a text of {wanted} tokens cannot be made: the shortest one has {least} with the special tokens",
            f"--seq {least} or more",
        )

    def of(count: int) -> str:
        return " ".join(words[i % len(words)] for i in range(count)) + tail

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


def _sound(samples: int) -> Path:
    """A 16 kHz WAV file of quiet noise, the same every time. It lies in the folder for temporary files."""
    import numpy as np

    noise = np.random.default_rng(samples).normal(0.0, 1000.0, samples).astype("<i2")
    with tempfile.NamedTemporaryFile(prefix="accel-bench-", suffix=".wav", delete=False) as file:
        path = Path(file.name)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(noise.tobytes())
    return path


def _tensors(recipe: Recipe, batch: int, length: int | None) -> dict[str, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for spec in recipe.graphs["model"].inputs:
        shape = _shape(spec.axes, batch, length)
        kind = np.dtype(spec.dtype)
        floats = np.issubdtype(kind, np.floating)
        made[spec.name] = random.standard_normal(shape).astype(kind) if floats else np.zeros(shape, kind)
    return made


def _shape(axes: Sequence[int | str], batch: int, length: int | None) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else batch if i == 0 else length or 2 for i, axis in enumerate(axes))
