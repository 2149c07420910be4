"""Texts that a decoder writes about an image or a sound, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from accel.core.contracts import Decoding
from accel.core.decoding import Generated, choice_from, generate
from accel.core.tokenization import Tokenizer
from accel.core.types import Options

if TYPE_CHECKING:
    from accel.core.contracts import Array


def write(
    tokenizer: Tokenizer,
    decoding: Decoding,
    input_ids: Array,
    attention_mask: Array | None,
    most: Sequence[int],
    settings: dict[str, Any],
    options: Options,
    emit: Callable[[str], None] | None = None,
) -> list[Generated]:
    """Generates one text a row.

    Args:
        input_ids, attention_mask: what the texts go on from, (batch, n), padded on the left.
        most: the most new tokens of each row.
        settings: `stop`, tokens that end a text, and `generation`, the model's generation settings.
        emit: takes the text of a single row as it is written.
    """
    stream = tokenizer.stream() if emit is not None and len(input_ids) == 1 else None

    def show(_: int, token: int) -> None:
        if stream is not None and emit is not None and (piece := stream.push(token)):
            emit(piece)

    written = generate(
        decoding,
        input_ids,
        attention_mask,
        max_new_tokens=most,
        stop=settings["stop"],
        choice=choice_from(settings["generation"], options.temperature, options.seed),
        pad_id=settings["stop"][0],
        on_token=show if stream is not None else None,
    )
    if stream is not None and emit is not None and (rest := stream.finish()):
        emit(rest)
    return written


def text_answer(tokenizer: Tokenizer, generated: Generated) -> dict[str, Any]:
    """`text`, `new_tokens` and `finish` (`stop` or `length`).

    Raises:
        NotANumber: the model's output was no number.
    """
    if generated.error is not None:
        raise generated.error
    return {
        "text": tokenizer.decode(generated.tokens).strip(),
        "new_tokens": len(generated.tokens),
        "finish": "stop" if generated.ended else "length",
    }


def stops(*values: Any) -> list[int]:
    """Stop tokens from configuration values, each an id, a list of ids or None."""
    found: list[int] = []
    for value in values:
        found += value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return list(dict.fromkeys(int(token) for token in found))
