"""Writes down the operators that a torch module executes on tensors without data.

Runs under torch's `FakeTensorMode`: shapes are real, numbers are not, so a model of any size costs its operators' shape
arithmetic alone. Where a model asks for a number (whether a mask has padding), it is told what an input without padding
would say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from accel.core.performance.operators import FUSED, Operator, Tensor

# fmt: off
_KINDS = {
    "matmul": "grouped_mm_fallback addmm mm bmm baddbmm mv addmv dot linear matmul",
    "convolution": "convolution _convolution conv2d conv1d mkldnn_convolution",
    "recurrent": "lstm gru rnn_tanh rnn_relu mkldnn_rnn_layer",
    "normalisation": "native_layer_norm native_batch_norm native_group_norm _native_batch_norm_legit_no_training "
                     "_fused_rms_norm rms_norm batch_norm",
    "softmax": "_softmax _log_softmax _safe_softmax softmax log_softmax",
    "activation": "gelu relu relu_ silu silu_ sigmoid sigmoid_ tanh tanh_ hardtanh hardtanh_ hardswish hardswish_ "
                  "hardsigmoid leaky_relu leaky_relu_ elu softplus mish erf clamp clamp_ clamp_min glu exp log sin cos",
    "elementwise": "add add_ sub sub_ mul mul_ div div_ pow rsqrt sqrt neg where masked_fill masked_fill_ addcmul abs "
                   "minimum maximum reciprocal rsub bitwise_not bitwise_and bitwise_or logical_not logical_and eq ne "
                   "le lt ge gt scalar_tensor floor_divide remainder",
    "reduction": "mean sum amax amin max min argmax any all var var_mean cumsum norm linalg_vector_norm logsumexp prod",
    "pooling": "max_pool2d_with_indices max_pool2d avg_pool2d avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d "
               "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bicubic2d_aa",
    "gather": "embedding index_select gather index grid_sampler_2d",
    "copy": "clone copy_ cat stack _to_copy repeat constant_pad_nd roll flip fill_ zeros ones full new_zeros new_ones "
            "arange zeros_like ones_like full_like index_put index_put_ scatter tril triu im2col pixel_shuffle",
    "view": "view t transpose permute expand unsqueeze squeeze select slice split split_with_sizes unbind detach alias "
            "as_strided empty empty_like lift_fresh _unsafe_view _reshape_alias unfold diagonal detach_ empty_strided "
            "new_empty view_as real chunk lift lift_fresh_copy result_type",
}
# fmt: on
KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}


@dataclass
class Trace:
    """What one execution of a module did.

    Attributes:
        operators: in the order they ran, `phase` empty.
        peak_bytes: the most that inputs and intermediate results held at one time.
        shapes: of the outputs, with their numpy types.
    """

    operators: list[Operator] = field(default_factory=list)
    peak_bytes: int = 0
    shapes: list[tuple[tuple[int, ...], str]] = field(default_factory=list)


class Unbound(TorchDispatchMode):  # type: ignore[misc]
    """Answers what depends on numbers that nobody has: true, one, equal. Entered over a `FakeTensorMode`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "aten::_local_scalar_dense":
            try:
                return func(*args, **(kwargs or {}))
            except RuntimeError:  # of a tensor whose number is not known
                kind = args[0].dtype
                return True if kind is torch.bool else 1.0 if kind.is_floating_point else 1
        if name in ("aten::equal", "aten::allclose", "aten::is_nonzero"):
            return True
        return func(*args, **(kwargs or {}))


class Recorder(Unbound):
    """Writes down every operator and who alone takes its result, and follows how much memory is held."""

    def __init__(self, parameters: set[int]) -> None:
        super().__init__()
        self.trace = Trace()
        self._parameters = parameters
        self._live: dict[int, int] = {}
        self._held = 0
        self._maker: dict[int, int] = {}
        self._taken: dict[int, list[int]] = {}
        self._watched: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        name = func._schema.name
        if name.startswith(("aten::", "transformers::")) and name != "aten::_local_scalar_dense":
            self._note(name, args, kwargs or {}, result)
        return result

    def hold(self, tensor: Any) -> None:
        """Counts a tensor's memory until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._live or key in self._parameters:
            return
        self._live[key] = size
        self._held += size
        self.trace.peak_bytes = max(self.trace.peak_bytes, self._held)
        self._watched.append(weakref.ref(storage, functools.partial(self._freed, key)))

    def _freed(self, key: int, _: Any) -> None:
        self._held -= self._live.pop(key, 0)
        self._maker.pop(key, None)

    def _note(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        given = list(_tensors([*args, *kwargs.values()]))
        made = list(_tensors(result if isinstance(result, (tuple, list)) else [result]))
        attention = "scaled_dot_product" in name
        kind = "attention" if attention else KIND_OF.get(name.partition("::")[2], "other")
        if kind != "view":
            for tensor in made:
                self.hold(tensor)
        number = len(self.trace.operators)
        for tensor in given if kind != "view" else ():
            maker = self._maker.get(tensor.untyped_storage()._cdata)
            if maker is not None:
                self._taken.setdefault(maker, []).append(number)
        inputs, outputs, attributes = self._read(kind, name, args, given, made)
        self.trace.operators.append(Operator(kind, name, "", inputs, outputs, attributes))
        if kind != "view":
            for tensor in made:
                self._maker[tensor.untyped_storage()._cdata] = number

    def _read(
        self, kind: str, name: str, args: Any, given: list[Any], made: list[Any]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], dict[str, Any]]:
        attributes: dict[str, Any] = {}
        if kind == "view":
            return (), (), {}
        if kind == "matmul" and name in ("aten::addmm", "aten::baddbmm", "aten::addmv"):
            given = [*given[1:3], given[0]]  # the bias goes last, as in a linear layer
        elif kind == "convolution":
            attributes = {"stride": list(args[3]), "groups": int(args[8]), "transposed": bool(args[6])}
        elif kind == "attention":
            made = made[:1]  # what follows is for training
        elif kind == "recurrent":
            attributes = {"repeat": given[0].shape[0] * given[0].shape[1]}
        if kind == "normalisation" or name.startswith("aten::max_pool"):
            made = made[:1]
        return tuple(map(self._tensor, given)), tuple(map(self._tensor, made)), attributes

    def _tensor(self, tensor: Any) -> Tensor:
        parameter = tensor.untyped_storage()._cdata in self._parameters
        return Tensor(tuple(int(n) for n in tensor.shape), tensor.element_size(), parameter)

    def finish(self) -> Trace:
        """The trace, with `after` filled in."""
        operators = self.trace.operators
        alone = {takers[0]: maker for maker, takers in sorted(self._taken.items()) if len(takers) == 1}
        for number in sorted(alone):
            op, before = operators[number], operators[alone[number]]
            if op.kind in FUSED:
                # what follows something that was folded is folded into the same operator
                after = before.after if before.kind in FUSED and before.after else before.kind
                operators[number] = dataclasses.replace(op, after=after)
        return self.trace


def _tensors(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


@contextlib.contextmanager
def weightless() -> Iterator[Any]:
    """Inside, every tensor that is made has a shape and no data; yields the `FakeTensorMode`.

    `Module.to` puts converted weights in place by hand meanwhile: torch swaps tensors that are fake, and cannot swap
    those that something refers to. Initial weights are not drawn: nobody sees them, and some are drawn until they fit.
    """
    from transformers import initialization

    drawn = [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.nn.Module, "to", _to))
        for name in drawn:
            stack.enter_context(mock.patch.object(torch.nn.init, name, _undrawn))
        stack.enter_context(mock.patch.dict(initialization.TORCH_INIT_FUNCTIONS, dict.fromkeys(drawn, _undrawn)))
        stack.enter_context(_any_type_of_experts())
        stack.enter_context(mode)
        stack.enter_context(Unbound())
        yield mode


@contextlib.contextmanager
def _any_type_of_experts() -> Iterator[None]:
    """Mixtures of experts use the product that takes numbers of any type: torch's own refuses fp32 without numbers."""
    from transformers.integrations import moe

    if not hasattr(moe, "_can_use_grouped_mm"):  # not in every version
        yield
        return
    with mock.patch.object(moe, "_can_use_grouped_mm", lambda *_: False):
        yield


def _undrawn(tensor: Any, *_arguments: Any, **_options: Any) -> Any:
    return tensor


def _to(module: Any, *arguments: Any, **options: Any) -> Any:
    known: dict[int, tuple[Any, Any]] = {}  # holds the original too, so that its id stays its own

    def moved(tensor: Any) -> Any:
        if id(tensor) not in known:
            made = tensor.detach().to(*arguments, **options) if tensor.is_floating_point() else tensor
            if isinstance(tensor, torch.nn.Parameter):
                made = torch.nn.Parameter(made, requires_grad=False)
            known[id(tensor)] = (tensor, made)
        return known[id(tensor)][1]

    for part in module.modules():
        for place in (part._parameters, part._buffers):
            for name, tensor in place.items():
                if tensor is not None:
                    place[name] = moved(tensor)
    return module


def storages(modules: Any) -> dict[int, int]:
    """Size in bytes of every storage that holds weights of the modules, by its address."""
    found = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return found


def record(mode: Any, module: Any, inputs: list[Any], parameters: set[int]) -> Trace:
    """Executes a module on fake tensors and returns what it did.

    Args:
        mode: the `FakeTensorMode` that made module and inputs.
        parameters: addresses of the storages that hold weights.
    """
    with mode, _any_type_of_experts(), torch.no_grad():
        recorder = Recorder(parameters)
        with recorder:
            for tensor in inputs:
                recorder.hold(tensor)
            outputs = module(*inputs)
            made = list(_tensors(outputs if isinstance(outputs, (tuple, list)) else [outputs]))
        trace = recorder.finish()
        trace.shapes = [(tuple(map(int, t.shape)), str(t.dtype).removeprefix("torch.")) for t in made]
    return trace
