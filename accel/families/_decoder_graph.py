"""The torch side of text decoders: one graph with a key-value cache for the prompt and for every token after it."""

from __future__ import annotations

import inspect
from typing import Any

from accel.core.contracts import TorchGraph
from accel.core.errors import IncompatibleError
from accel.core.types import GraphSpec, TensorSpec

#: sizes of the tracing example: all different, so that no two axes are taken for the same one
BATCH, LENGTH, PAST = 2, 3, 5
TOTAL = "past + length"


def decoder_graph(model: Any, name: str, vocabulary: int) -> TorchGraph:
    """Wraps a causal language model of transformers.

    Args:
        model: an `AutoModelForCausalLM`.
        name: the model's name, for errors.
        vocabulary: size of its input embeddings.

    Returns:
        A graph from `input_ids` (batch, length), `attention_mask` (batch, past + length), `position_ids` (batch,
        length) where the model takes them, and `past_key_values.N.key|value` (batch, heads, past, head size) to
        `logits` of the last position (batch, vocabulary) and `present.N.key|value` with the new tokens appended.

    Raises:
        IncompatibleError: the model keeps another state than keys and values.
    """
    import torch
    from transformers import DynamicCache

    takes = inspect.signature(model.forward).parameters
    positions = "position_ids" in takes
    options: dict[str, Any] = {"use_cache": True, "return_dict": True}
    if "logits_to_keep" in takes:
        options["logits_to_keep"] = 1

    class WithCache(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, *rest: Any) -> tuple[Any, ...]:
            more = {"position_ids": rest[0]} if positions else {}
            past = rest[1:] if positions else rest
            cache = DynamicCache([(past[i], past[i + 1]) for i in range(0, len(past), 2)])
            output = self.model(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, **more, **options
            )
            present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
            return (output.logits[:, -1], *present)

    shapes = _cache_shapes(model, name, options)
    states = [f"{layer}.{part}" for layer in range(len(shapes)) for part in ("key", "value")]
    sizes = [size for pair in shapes for size in pair]
    ids = (torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) * 7 + 3) % vocabulary
    mask = torch.ones((BATCH, PAST + LENGTH), dtype=torch.int64)
    mask[0, 1] = 0  # not the first one, since a token that sees nothing may become anything
    example = {"input_ids": ids, "attention_mask": mask}
    inputs = [
        TensorSpec("input_ids", "int64", ("batch", "length")),
        TensorSpec("attention_mask", "int64", ("batch", TOTAL)),
    ]
    if positions:
        inputs.append(TensorSpec("position_ids", "int64", ("batch", "length")))
        example["position_ids"] = (mask.cumsum(dim=1) - 1)[:, -LENGTH:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for state, (heads, size) in zip(states, sizes, strict=True):
            inputs.append(TensorSpec(f"past_key_values.{state}", "float32", ("batch", heads, "past", size)))
            example[inputs[-1].name] = torch.randn(BATCH, heads, PAST, size)
    module = WithCache().eval()
    with torch.no_grad():
        width = int(module(*example.values())[0].shape[-1])
    outputs = [TensorSpec("logits", "float32", ("batch", width))]
    outputs += [
        TensorSpec(f"present.{state}", "float32", ("batch", heads, TOTAL, size))
        for state, (heads, size) in zip(states, sizes, strict=True)
    ]
    return TorchGraph(GraphSpec("model", tuple(inputs), tuple(outputs), cache=True), module, example)


def _cache_shapes(model: Any, name: str, options: dict[str, Any]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(heads, head size) of the keys and of the values of every layer, from one real step."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    ids = torch.arange(LENGTH).unsqueeze(0)
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **options)
    layers = getattr(cache, "layers", [])
    good = getattr(output, "past_key_values", None) is cache and layers
    for layer in layers:
        for part in ("keys", "values"):
            tensor = getattr(layer, part, None)
            good = good and tensor is not None and tensor.dim() == 4 and tensor.shape[2] == LENGTH
    if not good:
        raise IncompatibleError(
            f"{name} keeps another state between tokens than keys and values, which accel cannot decode with",
            "choose a model with plain attention",
        )
    return [((a.shape[1], a.shape[3]), (b.shape[1], b.shape[3])) for a, b in ((x.keys, x.values) for x in layers)]
