"""Decoders for OpenVINO: the key-value cache becomes state inside the graph, where it is neither copied nor handed out.

The form that OpenVINO's own fusion of attention and cache recognises: each `past_key_values.N` input becomes a variable
whose first value is an empty tensor, read through a gather over the batch (`beam_idx`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accel.core.decoding import PAST, PRESENT, CacheDecoding
from accel.core.types import GraphSpec

if TYPE_CHECKING:
    from accel.core.contracts import Array, Tensors

#: the input that says which row of the cache each row goes on from
ORDER = "beam_idx"


def make_stateful(model: Any, spec: GraphSpec) -> None:
    """Turns the cache inputs and outputs of an `openvino.Model` into state, in place."""
    import numpy as np
    import openvino as ov
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    pasts = [t for t in spec.inputs if t.name.startswith(PAST)]
    order = opset13.parameter(ov.PartialShape([-1]), ov.Type.i32, name=ORDER)
    order.output(0).get_tensor().add_names({ORDER})
    model.add_parameters([order])
    for tensor in pasts:
        port = model.input(tensor.name)
        consumers = port.get_target_inputs()
        rows = opset13.gather(port, order, opset13.constant(np.int64(tensor.axes.index("batch"))))
        for consumer in consumers:
            consumer.replace_source_output(rows.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, {t.name: PRESENT + t.name.removeprefix(PAST) for t in pasts})
    carrier = next(t for t in spec.inputs if "batch" in t.axes and not t.name.startswith(PAST))
    shape = opset13.shape_of(model.input(carrier.name))
    batch = opset13.gather(
        shape, opset13.constant(np.array([carrier.axes.index("batch")])), opset13.constant(np.int64(0))
    )
    by_name = {t.name: t for t in pasts}
    for node in model.get_ops():
        if node.get_type_name() != "ReadValue":
            continue
        axes = by_name[past_name(node.get_attributes()["variable_id"])].axes
        sizes = [
            batch if axis == "batch" else opset13.constant(np.array([axis if isinstance(axis, int) else 0]))
            for axis in axes
        ]
        zero = opset13.constant(np.zeros((), np.float32))
        node.set_arguments([opset13.broadcast(zero, opset13.concat(sizes, 0))])
    model.validate_nodes_and_infer_types()


def past_name(variable: str) -> str:
    """The cache input that a variable stands for: OpenVINO names it by input and output together."""
    return variable.partition(PRESENT)[0]


class StateDecoding(CacheDecoding):
    """A cache that lives in an OpenVINO request."""

    def __init__(self, request: Any, inputs: list[str], logits: int, graph: GraphSpec, feeds: Tensors) -> None:
        super().__init__(graph, feeds)
        self._request, self._inputs, self._logits = request, inputs, logits

    def call(self, feeds: Tensors) -> Array:
        """See `CacheDecoding.call`."""
        import numpy as np

        feeds = {**feeds, ORDER: np.arange(feeds["input_ids"].shape[0], dtype=np.int32)}
        outputs = self._request.infer([feeds[n] for n in self._inputs], share_inputs=True, share_outputs=True)
        logits: Array = np.array(outputs[self._logits])
        return logits


def run_with_state(request: Any, inputs: list[str], outputs: list[str], spec: GraphSpec, feeds: Tensors) -> Tensors:
    """Executes a stateful graph once as if it had no state: caches in, caches out."""
    import numpy as np
    import openvino as ov

    request.reset_state()
    states = {past_name(state.name): state for state in request.query_state()}
    for name, state in states.items():
        if feeds[name].size:
            state.state = ov.Tensor(np.ascontiguousarray(feeds[name]))
    rows = next(feeds[t.name].shape[t.axes.index("batch")] for t in spec.inputs if "batch" in t.axes)
    feeds = {**feeds, ORDER: np.arange(rows, dtype=np.int32)}
    found = request.infer([feeds[n] for n in inputs], share_inputs=True, share_outputs=True)
    results = {name: np.array(found[i]) for i, name in enumerate(outputs)}
    for name, state in states.items():
        results[PRESENT + name.removeprefix(PAST)] = np.array(state.state.data)
    return {t.name: results[t.name] for t in spec.outputs}
