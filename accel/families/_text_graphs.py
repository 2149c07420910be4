"""The torch side of text encoders: what is exported, how long an input may be, and how many operations it takes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from accel.core.contracts import TorchGraph
from accel.core.types import GraphSpec, TensorSpec

#: sizes of the tracing example: all different, so that no two axes are taken for the same one
BATCH, LENGTH, MASKS = 2, 11, 3


def encoder_graph(model: Any, task: str, pooling: Any, *, pad_id: int, type_ids: bool) -> TorchGraph:
    """Wraps a transformers text encoder for a task.

    Args:
        model: with a head for the task, or without one for `feature-extraction`.
        pooling: for `feature-extraction`: a module from (hidden, mask) to the embedding.
        pad_id: token that pads the example.
        type_ids: feed `token_type_ids`.

    Returns:
        A graph from `input_ids`, `attention_mask` [, `token_type_ids`] (and `mask_positions` for `fill-mask`) to
        `sentence_embedding` (batch, size) or `logits`: (batch, masks, vocabulary) for `fill-mask`, (batch, labels), or
        (batch, length, labels) for `token-classification`.
    """
    import torch

    quiet_options = {"return_dict": True}
    if "use_cache" in inspect.signature(model.forward).parameters:
        quiet_options["use_cache"] = False
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if type_ids else [])]

    def call(inner: Any, tensors: tuple[Any, ...]) -> Any:
        return inner(**dict(zip(names, tensors, strict=True)), **quiet_options)

    class Embedding(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.pooling = pooling

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return (self.pooling(call(self.model, tensors).last_hidden_state, tensors[1]),)

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return (call(self.model, tensors).logits,)

    class MaskedLogits(torch.nn.Module):  # type: ignore[misc]
        """Applies the vocabulary's matrix to the masks alone: for all tokens it costs as much as several layers."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.gather = _Gather()
            head = model.get_output_embeddings()
            self.early = isinstance(head, torch.nn.Linear)
            if self.early:
                head.register_forward_pre_hook(self.gather)

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            self.gather.positions = tensors[-1]
            logits = call(self.model, tensors[:-1]).logits
            return (logits if self.early else self.gather(None, (logits,))[0],)

    rows = ("batch", "length")
    inputs = [TensorSpec(name, "int64", rows) for name in names]
    example = _example(model, names, pad_id)
    if task == "feature-extraction":
        size = _size_of(Embedding(), example)
        output = TensorSpec("sentence_embedding", "float32", ("batch", size))
        module: Any = Embedding()
    elif task == "fill-mask":
        inputs.append(TensorSpec("mask_positions", "int64", ("batch", "masks")))
        example["mask_positions"] = torch.tensor([[1, 4, 2], [3, 6, 5]])
        module = MaskedLogits()
        output = TensorSpec("logits", "float32", ("batch", "masks", _size_of(module, example)))
    else:
        module = Logits()
        token_axes = rows if task == "token-classification" else ("batch",)
        output = TensorSpec("logits", "float32", (*token_axes, _size_of(module, example)))
    return TorchGraph(GraphSpec("model", tuple(inputs), (output,)), module.eval(), example)


def _example(model: Any, names: list[str], pad_id: int) -> dict[str, Any]:
    import torch

    vocabulary = model.get_input_embeddings().num_embeddings
    ids = (torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) * 7 + 3) % vocabulary
    ids = torch.where(ids == pad_id, (pad_id + 1) % vocabulary, ids)
    mask = torch.ones_like(ids)
    ids[0, -3:], mask[0, -3:] = pad_id, 0
    tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: tensors[name] for name in names}


def _size_of(module: Any, example: dict[str, Any]) -> int:
    import torch

    with torch.no_grad():
        return int(module(*example.values())[0].shape[-1])


class _Gather:
    """A hook that lets through the wanted positions only. An object, so that copies of a model get their own."""

    def __init__(self) -> None:
        self.positions: Any = None

    def __call__(self, _: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tensor = inputs[0]
        return (tensor.gather(1, self.positions.unsqueeze(-1).expand(-1, -1, tensor.shape[-1])), *inputs[1:])


def pads(graph: TorchGraph) -> bool:
    """Whether padding leaves an answer as it is; not so where a model mixes tokens regardless of the mask."""
    import torch

    length = int(graph.example["attention_mask"][0].sum())
    alone = [tensor[:1] if name == "mask_positions" else tensor[:1, :length] for name, tensor in graph.example.items()]
    with torch.no_grad():
        padded = graph.module(*graph.example.values())[0][0]
        single = graph.module(*alone)[0][0]
    if graph.spec.outputs[0].axes[1] == "length":
        padded = padded[:length]
    return bool((padded - single).abs().max() <= 1e-4 * max(1.0, float(single.abs().max())))


def capacity(model: Any) -> int | None:
    """The most tokens that a model has positions for, or None where nothing bounds them."""
    import torch

    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            # models after RoBERTa count positions from behind the padding index
            offset = 0 if part.padding_idx is None else part.padding_idx + 1
            return int(part.num_embeddings - offset)
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def operations(graph: TorchGraph) -> list[float]:
    """Floating-point operations for one row as coefficients (c2, c1, c0) of its length, counted on the module.

    Matrix products are counted as torch's `FlopCounterMode` does (a multiplication and an addition are two). The
    count of any encoder is a polynomial of degree two, so three lengths determine it.
    """
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    lengths = (4, 8, 12)
    counts = []
    with _eager_attention(graph.module), torch.no_grad():
        for length in lengths:
            row = {}
            for name, tensor in graph.example.items():
                columns = torch.arange(1 if name == "mask_positions" else length) % (LENGTH - 3)
                row[name] = tensor[:1].index_select(1, columns)
            counter = FlopCounterMode(display=False)
            with counter:
                graph.module(*row.values())
            counts.append(float(counter.get_total_flops()))
    return [float(round(c, 3)) for c in np.polyfit(lengths, counts, 2)]


@contextlib.contextmanager
def _eager_attention(module: Any) -> Iterator[None]:
    """The counter does not see fused attention, so the model computes it openly for the while."""
    model = getattr(module, "model", None)
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if model is None or before in (None, "eager") or not hasattr(model, "set_attn_implementation"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
