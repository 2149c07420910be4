"""Runs torch modules on a device: placement, precision, copies beside computing, and the cache of decoders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from accel.core.contracts import Decoding, OperatorTime, Session, Source, TorchGraph
from accel.core.cpu import limits
from accel.core.decoding import PAST, PRESENT, CacheDecoding, empty_past
from accel.core.errors import AccelError, IncompatibleError, OutOfMemoryError, UnavailableError
from accel.core.types import GraphSpec, Plan

if TYPE_CHECKING:
    from accel.core.contracts import Array, Tensors

#: inputs of at least this many bytes are sent to a GPU in pieces, so that one piece travels while another is computed
PIECEWISE_BYTES = 4 << 20
PIECES = 4

_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TorchSession(Session):
    """The modules of a loaded model on one device.

    Args:
        graphs: modules on the CPU in fp32; they are left as they are.
        device: as torch calls it: `cpu`, `cuda:1`, `mps`.
        wrap: applied to each module once it is in place (a compiler).

    Raises:
        OutOfMemoryError, IncompatibleError: the device is too small, or refuses the type.
    """

    def __init__(
        self,
        graphs: dict[str, TorchGraph],
        device: str,
        precision: str,
        threads: int,
        wrap: Callable[[Any], Any] = lambda module: module,
    ) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.effective_precision = precision
        self._device = torch.device(device)
        # convolutions would otherwise round their products to 10 bits (TF32) on GPUs that can, which is not fp32
        torch.backends.cudnn.allow_tf32 = False
        self._type = getattr(torch, _TYPES[precision])
        self._specs = {name: graph.spec for name, graph in graphs.items()}
        try:
            placed = _placed({n: g.module for n, g in graphs.items()}, self._device, self._type)
        except Exception as error:  # as in `call`
            raise explained(error, f"loading the model on {device}") from error
        self._modules = {name: wrap(module) for name, module in placed.items()}

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """See `Session.run`."""

        spec = self._specs[graph]
        if self._device.type == "cuda" and worth_pieces(spec, feeds):
            return self._run_in_pieces(spec, feeds)
        outputs = self.call(graph, [self.send(feeds[t.name]) for t in spec.inputs])
        return {t.name: self.fetch(o) for t, o in zip(spec.outputs, outputs, strict=True)}

    def decode(self, graph: GraphSpec, feeds: Tensors, max_length: int) -> Decoding:
        """See `Session.decode`. The cache stays on the device."""
        return _TorchDecoding(self, graph, feeds)

    def call(self, graph: str, inputs: list[Any]) -> tuple[Any, ...]:
        """Executes a graph on tensors of the device, in the order of the spec."""
        import torch

        try:
            with torch.inference_mode():
                outputs: tuple[Any, ...] = self._modules[graph](*inputs)
                return outputs
        except Exception as error:  # a module raises whatever its own code raises
            raise explained(error, f"executing the graph {graph!r}") from error

    def operator_times(self, run: Callable[[], object]) -> list[OperatorTime]:
        """See `Session.operator_times`: the time of an operator without those that it calls."""
        from torch.profiler import ProfilerActivity, profile

        if self._device.type != "cpu":
            return []
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            run()
        return [
            OperatorTime(
                event.name,
                event.self_cpu_time_total / 1e6,
                shapes=tuple(tuple(shape) for shape in event.input_shapes if isinstance(shape, list)),
            )
            for event in found.events() or ()
        ]

    def send(self, array: Array) -> Any:
        """An array as a tensor on the device, fp32 in the session's precision."""
        import torch

        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        kind = self._type if tensor.dtype is torch.float32 else tensor.dtype
        return tensor.to(self._device, kind, non_blocking=True)

    @staticmethod
    def fetch(tensor: Any) -> Array:
        """A tensor as an array, half precision as fp32."""
        import torch

        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        array: Array = tensor.cpu().numpy()
        return array

    def _run_in_pieces(self, spec: GraphSpec, feeds: Tensors) -> Tensors:
        """Splits the batch: while one piece is computed, the next one is on its way to the device.

        Copies run on a stream of their own, from pinned memory; an event per piece keeps the order.
        """
        import torch

        copying = torch.cuda.Stream(self._device)
        computing = torch.cuda.current_stream(self._device)
        results = []
        for piece in split(spec, feeds, PIECES):
            with torch.cuda.stream(copying):
                inputs = [self.send(piece[t.name]) for t in spec.inputs]
            computing.wait_event(copying.record_event())
            for tensor in inputs:
                tensor.record_stream(computing)
            results.append(self.call(spec.name, inputs))
        return join(spec, [{t.name: self.fetch(o) for t, o in zip(spec.outputs, r, strict=True)} for r in results])

    def close(self) -> None:
        """Frees the modules and the device's memory."""
        import torch

        self._modules.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class _TorchDecoding(CacheDecoding):
    """A cache of tensors on the session's device."""

    def __init__(self, session: TorchSession, graph: GraphSpec, feeds: Tensors) -> None:
        super().__init__(graph, feeds)
        self._session = session
        self._fixed = {name: session.send(array) for name, array in feeds.items()}
        self._past: dict[str, Any] = {}

    def call(self, feeds: Tensors) -> Array:
        """See `CacheDecoding.call`."""
        if not self._past:
            empty = empty_past(self.past_specs, feeds["input_ids"].shape[0])
            self._past = {name: self._session.send(array) for name, array in empty.items()}
        moving = {n: self._session.send(a) for n, a in feeds.items() if n not in self._fixed}
        known = {**self._fixed, **moving, **self._past}
        outputs = self._session.call(self.graph.name, [known[t.name] for t in self.graph.inputs])
        found = {t.name: o for t, o in zip(self.graph.outputs, outputs, strict=True)}
        self._past = {t.name: found[PRESENT + t.name.removeprefix(PAST)] for t in self.past_specs}
        return self._session.fetch(found["logits"])


def open_modules(plan: Plan, source: Source | None, wrap: Callable[[Any], Any] = lambda module: module) -> TorchSession:
    """The session of a plan for a torch engine.

    Raises:
        UnavailableError: torch finds no such device. IncompatibleError: the model is not a torch model.
    """
    import torch

    if source is None:
        raise IncompatibleError("torch needs the model itself", "run again without a kept plan")
    graphs = source.torch().graphs
    if not graphs:
        raise IncompatibleError("the model exists as ONNX only, which torch does not run", "use another engine")
    there = {
        "cuda": torch.cuda.is_available,
        "rocm": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }.get(plan.platform, lambda: True)
    if not there():
        raise UnavailableError(f"torch finds no {plan.platform} device here", f"accel detect --hw {plan.platform}")
    number = plan.device.partition(":")[2]
    device = {"cuda": f"cuda:{number or 0}", "rocm": f"cuda:{number or 0}"}.get(plan.platform, plan.platform)
    threads = plan.threads or (limits()[1] if plan.platform == "cpu" else 0)
    return TorchSession(graphs, device, plan.precision, threads, wrap)


def _placed(modules: dict[str, Any], device: Any, kind: Any) -> dict[str, Any]:
    """Copies of modules with their weights on a device and floats in a type; weights that are shared stay shared.

    The weights are converted one by one, so that no second copy of the model exists on the host.
    """
    import torch

    if device.type == "cpu" and kind is torch.float32:
        return modules
    converted: dict[int, Any] = {}
    for module in modules.values():
        for tensor in (*module.parameters(), *module.buffers()):
            if id(tensor) in converted:
                continue
            moved = tensor.detach().to(device, kind if tensor.dtype is torch.float32 else tensor.dtype)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            converted[id(tensor)] = torch.nn.Parameter(moved, requires_grad=False) if is_parameter else moved
    return {name: copy.deepcopy(module, converted).eval() for name, module in modules.items()}


def worth_pieces(spec: GraphSpec, feeds: Tensors) -> bool:
    """Whether sending takes long enough to be hidden, and every tensor can be split along the batch."""
    first = [t.axes[:1] == ("batch",) for t in (*spec.inputs, *spec.outputs)]
    size = sum(array.nbytes for array in feeds.values())
    return all(first) and not spec.cache and size >= PIECEWISE_BYTES and feeds[spec.inputs[0].name].shape[0] >= PIECES


def split(spec: GraphSpec, feeds: Tensors, count: int) -> list[Tensors]:
    """Feeds in `count` pieces of nearly equal batch."""
    import numpy as np

    parts = {t.name: np.array_split(feeds[t.name], count) for t in spec.inputs}
    return [{name: pieces[i] for name, pieces in parts.items()} for i in range(count)]


def join(spec: GraphSpec, pieces: list[Tensors]) -> Tensors:
    """The outputs of pieces as those of the whole batch."""
    import numpy as np

    return {t.name: np.concatenate([piece[t.name] for piece in pieces]) for t in spec.outputs}


def explained(error: Exception, doing: str) -> AccelError:
    """torch's error as one of accel's, with torch's own reason."""
    import torch

    from accel.core.export import cause

    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text.lower():
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemoryError(f"memory ran out {doing} with torch", "use a smaller batch")
    return IncompatibleError(f"torch failed {doing}: {cause(error)}", "use another engine or --precision fp32")
