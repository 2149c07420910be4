"""Reads what an ONNX file says of itself (inputs, outputs, metadata, files beside it) without the onnx package.

An ONNX file is one protocol-buffers message. This walks it field by field and jumps over weights, so that a file of
gigabytes costs milliseconds. Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from accel.core.errors import InputError
from accel.core.types import TensorSpec

#: names of `TensorProto.DataType`
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip


@dataclass
class Header:
    """What an ONNX file declares.

    Attributes:
        inputs, outputs: of the graph, weights excluded. An axis without a size or a name is called `axis_N`.
        external: names of the files that hold weights, relative to the ONNX file.
        metadata: the model's own key-value pairs.
        opsets: version by domain; the domain of the standard operators is "".
    """

    inputs: list[TensorSpec] = field(default_factory=list)
    outputs: list[TensorSpec] = field(default_factory=list)
    external: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)


def read(path: Path) -> Header:
    """Reads the header.

    Raises:
        InputError: not an ONNX file, damaged or cut short.
    """
    try:
        if path.stat().st_size == 0:
            raise _Damaged
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _model(data)
    except _Damaged as error:
        raise InputError(f"{path} is not an ONNX file, or damaged, or cut short", "get the file again") from error
    if not header.outputs:
        raise InputError(f"{path} is not an ONNX file: it declares no outputs", "name a model file")
    return header


class _Damaged(Exception):
    pass


#: one field of a message: number, its value if it is an integer, and where its bytes lie if it has some
Part = tuple[int, int, int, int]


def _parts(data: mmap.mmap, start: int, end: int) -> Iterator[Part]:
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        value = first = last = 0
        if wire == 0:
            value, at = _varint(data, at, end)
        elif wire == 2:
            length, first = _varint(data, at, end)
            at = last = first + length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise _Damaged
        if at > end or number == 0:
            raise _Damaged
        yield number, value, first, last


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Damaged


def _text(data: mmap.mmap, first: int, last: int) -> str:
    try:
        return data[first:last].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Damaged from error


def _model(data: mmap.mmap) -> Header:
    header = Header()
    for number, _, first, last in _parts(data, 0, len(data)):
        if number == 7:
            _graph(data, first, last, header)
        elif number == 8:
            domain, version = "", 0
            for inner, value, a, b in _parts(data, first, last):
                domain, version = (_text(data, a, b), version) if inner == 1 else (domain, value)
            header.opsets[domain] = version
        elif number == 14:
            key, text = _pair(data, first, last)
            header.metadata[key] = text
    return header


def _pair(data: mmap.mmap, first: int, last: int) -> tuple[str, str]:
    found = {number: _text(data, a, b) for number, _, a, b in _parts(data, first, last)}
    return found.get(1, ""), found.get(2, "")


def _graph(data: mmap.mmap, first: int, last: int, header: Header) -> None:
    weights: set[str] = set()
    for number, _, a, b in _parts(data, first, last):
        if number == 5:
            for inner, _, x, y in _parts(data, a, b):
                if inner == 8:
                    weights.add(_text(data, x, y))
                elif inner == 13:
                    key, text = _pair(data, x, y)
                    if key == "location":
                        header.external.add(text)
        elif number in (11, 12):
            (header.inputs if number == 11 else header.outputs).append(_tensor(data, a, b))
    header.inputs = [spec for spec in header.inputs if spec.name not in weights]


def _tensor(data: mmap.mmap, first: int, last: int) -> TensorSpec:
    name, dtype, axes = "", "unknown", []
    for number, _, a, b in _parts(data, first, last):
        if number == 1:
            name = _text(data, a, b)
        elif number == 2:
            for kind, _, c, d in _parts(data, a, b):
                if kind != 1:
                    continue
                for inner, value, e, f in _parts(data, c, d):
                    if inner == 1:
                        dtype = DTYPES.get(value, "unknown")
                    elif inner == 2:
                        axes = [_axis(data, g, h) for shape, _, g, h in _parts(data, e, f) if shape == 1]
    named = tuple(f"axis_{place}" if axis == "" else axis for place, axis in enumerate(axes))
    return TensorSpec(name, dtype, named)


def _axis(data: mmap.mmap, first: int, last: int) -> int | str:
    for number, value, a, b in _parts(data, first, last):
        if number == 1 and value > 0:
            return value
        if number == 2:
            return _text(data, a, b)
    return ""
