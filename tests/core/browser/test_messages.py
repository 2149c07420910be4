"""Tensors survive the way to a page and back, whatever their shape, and a damaged message is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel.core.browser.messages import pack, unpack


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int64).reshape(3, 4),
        np.float32(1.5),
        np.zeros((2, 0, 5), np.float32),
        np.array([True, False, True]),
        np.arange(24, dtype=np.float16).reshape(2, 3, 4)[:, ::2],
        np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        np.arange(4, dtype=">i4"),
    ],
    ids=["int64", "scalar", "empty", "bool", "strided", "column-major", "big-endian"],
)
def test_there_and_back(array: Any) -> None:
    head, tensors = unpack(pack({"op": "run", "text": "Grüße"}, {"first": array, "second": np.ones(3, np.int8)}))
    assert head == {"op": "run", "text": "Grüße"}
    assert list(tensors) == ["first", "second"]
    np.testing.assert_array_equal(tensors["first"], array)
    assert tensors["first"].shape == np.shape(array)
    tensors["first"][...] = 0  # a copy that can be written to


def test_tensors_begin_at_multiples_of_eight() -> None:
    message = pack({}, {"odd": np.ones(3, np.uint8), "wide": np.arange(2.0)})
    at = message.index(np.arange(2.0).tobytes())
    assert at % 8 == 0
    assert len(message) % 8 == 0


@pytest.mark.parametrize("cut", [0, 3, 10, -8])
def test_a_cut_message_is_refused(cut: int) -> None:
    message = pack({"op": "x"}, {"a": np.arange(4.0)})
    with pytest.raises(ValueError):
        unpack(message[:cut])


def test_a_list_is_no_message() -> None:
    with pytest.raises(ValueError, match="no object"):
        unpack(b"\x02\x00\x00\x00[]")
