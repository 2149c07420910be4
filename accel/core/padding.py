"""Rounding lengths up, for engines that compile a graph for every shape they meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.core.errors import InputError
from accel.core.types import GraphSpec

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

#: padded lengths are a power of two from here on
SHORTEST = 16


def rounded(size: int) -> int:
    """The next power of two, `SHORTEST` at least."""
    return max(SHORTEST, 1 << (size - 1).bit_length())


def padded(spec: GraphSpec, feeds: Tensors) -> tuple[Tensors, dict[str, int]]:
    """Feeds with rounded lengths, and the real size of every named axis.

    Only axes of the attention mask are rounded: padding that nothing masks would change the result.

    Raises:
        InputError: an input has another number of axes than the graph takes, or inputs differ in an axis.
    """
    import numpy as np

    for t in spec.inputs:
        if feeds[t.name].ndim != len(t.axes):
            raise InputError(
                f"the input {t.name} has {feeds[t.name].ndim} axes, and the graph takes {len(t.axes)}",
                f"give it the shape {list(t.axes)}",
            )
    sizes: dict[str, int] = {}
    for t in spec.inputs:
        for axis, size in zip(t.axes, feeds[t.name].shape, strict=True):
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise InputError(
                    f"the axis {axis} is {size} long in the input {t.name} and {sizes[axis]} in another",
                    "give inputs of one length",
                )
    masked = {axis for t in spec.inputs if t.name == "attention_mask" for axis in t.axes[1:]}
    wanted = {axis: rounded(size) if axis in masked else size for axis, size in sizes.items()}
    wide = {}
    for t in spec.inputs:
        array = feeds[t.name]
        width = [
            (0, wanted[axis] - size if isinstance(axis, str) else 0)
            for axis, size in zip(t.axes, array.shape, strict=True)
        ]
        wide[t.name] = np.pad(array, width) if any(more for _, more in width) else array
    return wide, sizes


def cut(spec: GraphSpec, outputs: Tensors, sizes: dict[str, int]) -> Tensors:
    """Outputs of padded feeds with their named axes at the real sizes again."""
    return {
        t.name: outputs[t.name][
            tuple(slice(sizes.get(axis)) if isinstance(axis, str) else slice(None) for axis in t.axes)
        ]
        for t in spec.outputs
    }
