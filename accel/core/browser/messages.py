"""Messages between accel and its page: a JSON object with tensors behind it, as one block of bytes.

    4 bytes  length of the JSON text, little endian
    n bytes  JSON text in UTF-8, padded with spaces so that what follows begins at a multiple of eight
    ...      the tensors' bytes (little endian, C order), each padded to a multiple of eight

The JSON object's `tensors` lists `{"name", "dtype", "shape"}` in the order of the bytes.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accel.core.contracts import Tensors

_LENGTH = struct.Struct("<I")


def pack(head: Mapping[str, Any], tensors: Tensors | None = None) -> bytes:
    """A message as bytes."""
    import numpy as np

    parts: list[Any] = []
    listed = []
    for name, value in (tensors or {}).items():
        array = np.ascontiguousarray(value)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        # ascontiguousarray makes a scalar one-dimensional
        listed.append({"name": name, "dtype": str(array.dtype), "shape": list(np.shape(value))})
        parts += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % 8)]
    text = json.dumps({**head, "tensors": listed}).encode()
    text += b" " * (-(len(text) + _LENGTH.size) % 8)
    return b"".join([_LENGTH.pack(len(text)), text, *parts])


def unpack(message: bytes) -> tuple[dict[str, Any], Tensors]:
    """The JSON object and the tensors of a message, which are writable copies.

    Raises:
        ValueError: the bytes are no such message.
    """
    import numpy as np

    if len(message) < _LENGTH.size:
        raise ValueError("too short")
    (size,) = _LENGTH.unpack_from(message)
    at = _LENGTH.size + size
    head = json.loads(message[_LENGTH.size : at])
    if not isinstance(head, dict):
        raise ValueError("no object")
    tensors: Tensors = {}
    for entry in head.pop("tensors", []):
        dtype = np.dtype(entry["dtype"])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        if count < 0 or at + count * dtype.itemsize > len(message):
            raise ValueError(f"the tensor {entry['name']} is cut off")
        tensors[entry["name"]] = np.frombuffer(message, dtype, count, at).reshape(entry["shape"]).copy()
        at += count * dtype.itemsize
        at += -at % 8
    return head, tensors
