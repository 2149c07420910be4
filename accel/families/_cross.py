"""Graphs of decoders that attend to an encoder's output: its keys and values are computed once, not at every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accel.core.contracts import TorchGraph
from accel.core.types import GraphSpec, TensorSpec

#: sizes of the tracing example: all different, so that no two axes are taken for the same one
BATCH, LENGTH, PAST, SOURCE = 2, 3, 5, 7
TOTAL = "past + length"


def causal_mask(past: int, length: int, like: Any) -> Any:
    """(1, 1, length, past + length): 0 where a token may look, the lowest number where it may not."""
    import torch

    rows = torch.arange(length).unsqueeze(1) + past
    columns = torch.arange(past + length).unsqueeze(0)
    lowest = torch.finfo(like.dtype).min
    mask = torch.where(columns <= rows, torch.zeros((), dtype=like.dtype), torch.full((), lowest, dtype=like.dtype))
    return mask.unsqueeze(0).unsqueeze(0)


def caches(crossed: Sequence[Any], past: Sequence[Any]) -> Any:
    """transformers' cache of a decoder whose cross-attention is already filled.

    Args:
        crossed, past: keys and values in turn, layer by layer, (batch, heads, length, head size).
    """
    from transformers import DynamicCache, EncoderDecoderCache

    own = DynamicCache([(past[i], past[i + 1]) for i in range(0, len(past), 2)])
    cross = DynamicCache([(crossed[i], crossed[i + 1]) for i in range(0, len(crossed), 2)])
    cache = EncoderDecoderCache(own, cross)
    cache.is_updated = dict.fromkeys(range(len(past) // 2), True)
    return cache


def state_names(layers: int) -> list[str]:
    """`0.key`, `0.value`, `1.key`, ..."""
    return [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def cross_specs(layers: int, heads: int, size: int, source: int | str) -> tuple[TensorSpec, ...]:
    """Specs of the encoder's keys and values, `cross.N.key|value`.

    Args:
        source: positions of the encoder's output, or the name of their axis.
    """
    return tuple(TensorSpec(f"cross.{name}", "float32", ("batch", heads, source, size)) for name in state_names(layers))


def decoder_graph(
    model: Any, call: Callable[..., Any], *, layers: int, heads: int, size: int, source: int | str, vocabulary: int
) -> TorchGraph:
    """A graph named "decoder" with a key-value cache.

    Args:
        model: the module that `call` uses.
        call: from (model, input_ids, mask, position_ids, cache, crossed) to hidden states or logits (batch, length,
            vocabulary).
        source: positions of the encoder's output, or the name of their axis.

    Returns:
        a graph from `input_ids`, `cross.N.key|value` and `past_key_values.N.key|value` to `logits` of the last position
        (batch, vocabulary) and `present.N.key|value`.
    """
    import torch

    states = state_names(layers)

    class Decoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, *rest: Any) -> tuple[Any, ...]:
            crossed, past = rest[: 2 * layers], rest[2 * layers :]
            before, length = past[0].shape[2], input_ids.shape[1]
            positions = (torch.arange(length) + before).unsqueeze(0).expand(input_ids.shape[0], -1)
            cache = caches(crossed, past)
            mask = causal_mask(before, length, past[0])
            logits = call(self.model, input_ids, mask, positions, cache, crossed)
            own = cache.self_attention_cache.layers
            return (logits[:, -1], *(tensor for layer in own for tensor in (layer.keys, layer.values)))

    inputs = (
        TensorSpec("input_ids", "int64", ("batch", "length")),
        *cross_specs(layers, heads, size, source),
        *(TensorSpec(f"past_key_values.{name}", "float32", ("batch", heads, "past", size)) for name in states),
    )
    outputs = (
        TensorSpec("logits", "float32", ("batch", vocabulary)),
        *(TensorSpec(f"present.{name}", "float32", ("batch", heads, TOTAL, size)) for name in states),
    )
    sizes = {"batch": BATCH, "length": LENGTH, "past": PAST, source: SOURCE}
    random = torch.Generator().manual_seed(0)
    example: dict[str, Any] = {"input_ids": (torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) * 7 + 3) % vocabulary}
    for spec in inputs[1:]:
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes]
        example[spec.name] = torch.randn(shape, generator=random)
    return TorchGraph(GraphSpec("decoder", inputs, outputs, cache=True), Decoder().eval(), example)
