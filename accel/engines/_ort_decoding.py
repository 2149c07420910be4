"""Decoding with ONNX Runtime: the key-value cache stays inside the runtime, only ids and logits cross over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accel.core.contracts import Decoding
from accel.core.decoding import PAST, PRESENT, CacheDecoding, empty_past, last_position
from accel.core.errors import AccelError, IncompatibleError, OutOfMemoryError
from accel.core.types import GraphSpec

if TYPE_CHECKING:
    from accel.core.contracts import Array, Tensors


def explained(error: Exception, doing: str) -> AccelError:
    """An exception of ONNX Runtime as an error of ours: memory that ran out, or the runtime's own reason."""
    from accel.core.export import cause

    text = str(error)
    if "bad_alloc" in text or "allocate memory" in text or "out of memory" in text.lower():
        return OutOfMemoryError(f"memory ran out {doing} with ONNX Runtime", "use a smaller batch")
    return IncompatibleError(f"ONNX Runtime failed {doing}: {cause(error)}", "use another engine (--engine)")


def _run(session: Any, binding: Any) -> None:
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise explained(error, "decoding") from error


class OrtDecoding(CacheDecoding):
    """A cache of `OrtValue`s: what one step puts out is what the next one takes in.

    Args:
        session: an `onnxruntime.InferenceSession`.
        device: where the cache lives, as ONNX Runtime names it: `cpu` or `cuda`.
        device_id: which of several.
    """

    def __init__(self, session: Any, graph: GraphSpec, feeds: Tensors, device: str = "cpu", device_id: int = 0) -> None:
        super().__init__(graph, feeds)
        self._session = session
        self._where = (device, device_id)
        self._outputs = [PRESENT + t.name.removeprefix(PAST) for t in self.past_specs]
        self._binding = session.io_binding()
        self._bound = {name: self._value(value) for name, value in feeds.items()}
        for name, value in self._bound.items():
            self._binding.bind_ortvalue_input(name, value)

    def _value(self, array: Array) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(array, *self._where)

    def call(self, feeds: Tensors) -> Array:
        """See `CacheDecoding.call`."""
        binding = self._binding
        if self.length == 0:
            for name, empty in empty_past(self.past_specs, feeds["input_ids"].shape[0]).items():
                binding.bind_ortvalue_input(name, self._value(empty))
        for name, array in feeds.items():
            if name not in self._bound:
                binding.bind_cpu_input(name, array)
        binding.bind_output("logits", "cpu")
        for name in self._outputs:
            binding.bind_output(name, *self._where)
        _run(self._session, binding)
        values = binding.get_outputs()
        logits: Array = values[0].numpy()
        for tensor, value in zip(self.past_specs, values[1:], strict=True):
            binding.bind_ortvalue_input(tensor.name, value)
        binding.clear_binding_outputs()
        return logits


class SharedDecoding(Decoding):
    """A cache of fixed size that a graph with `GroupQueryAttention` writes into in place.

    The operator finds each row's length in the sum of its attention mask, and wants padding on the right. So a prompt
    padded on the left is moved; and since the graph gives logits of the last column only, the last token of every row
    is fed once more where rows differ in length, which changes nothing in the cache.

    Args:
        session: an `onnxruntime.InferenceSession` of a graph that `accel.engines._gqa.build` made.
        graph: the recipe's spec, which knows the sizes of the cache.
        max_length: the most tokens that the cache will hold.
    """

    def __init__(self, session: Any, graph: GraphSpec, max_length: int) -> None:
        self._session = session
        self._past = [t for t in graph.inputs if t.name.startswith(PAST)]
        self._max_length = max_length
        self._lengths: Array | None = None
        self._binding = session.io_binding()
        self._takes_positions = any(i.name == "position_ids" for i in session.get_inputs())

    def step(self, input_ids: Array, attention_mask: Array | None = None) -> Array:
        """See `Decoding.step`."""
        import numpy as np

        ids = input_ids.astype(np.int64)
        batch, new = ids.shape
        first = self._lengths is None
        if self._lengths is None:
            self._lengths = np.zeros(batch, np.int64)
            self._allocate(batch)
        elif batch > 1 and new > 1:
            raise IncompatibleError("a batch goes on by one token at a time", "feed the prompts first")
        if attention_mask is None or attention_mask.all():
            self._lengths = self._lengths + new
            return self._feed(ids)
        if not first:
            raise IncompatibleError("only the prompt can be padded", "feed the prompts first")
        self._lengths = attention_mask.sum(axis=1).astype(np.int64)
        moved = np.zeros_like(ids)
        for row, length in enumerate(self._lengths):
            moved[row, :length] = ids[row, attention_mask[row].astype(bool)]
        self._feed(moved)
        return self._feed(np.stack([moved[row, length - 1 : length] for row, length in enumerate(self._lengths)]))

    def _allocate(self, batch: int) -> None:
        import numpy as np
        import onnxruntime as ort

        for tensor in self._past:
            shape = (batch, int(tensor.axes[1]), self._max_length, int(tensor.axes[3]))
            value = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            self._binding.bind_ortvalue_input(tensor.name, value)
            self._binding.bind_ortvalue_output(PRESENT + tensor.name.removeprefix(PAST), value)

    def _feed(self, ids: Array) -> Array:
        import numpy as np

        assert self._lengths is not None
        total = int(self._lengths.max())
        if total > self._max_length:
            raise IncompatibleError(
                f"the cache was made for {self._max_length} tokens, and {total} were fed", "start with a longer cache"
            )
        mask = (np.arange(total) < self._lengths[:, None]).astype(np.int64)
        self._binding.bind_cpu_input("input_ids", ids)
        self._binding.bind_cpu_input("attention_mask", mask)
        if self._takes_positions:
            new = ids.shape[1]
            start = self._lengths[:, None] - new if new < total else np.zeros((len(ids), 1), np.int64)
            self._binding.bind_cpu_input("position_ids", start + np.arange(new))
        self._binding.bind_output("logits", "cpu")
        _run(self._session, self._binding)
        return last_position(self._binding.get_outputs()[-1].numpy())
