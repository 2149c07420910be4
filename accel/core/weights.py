"""Checks the files of weights before anything loads them: whole, well-formed, and not code in disguise.

Only headers are read, so this takes milliseconds whatever the size of the model. It belongs to the cold path.
"""

from __future__ import annotations

import json
import math
import pickletools
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeGuard

from accel.core import gguf_header, onnx_header
from accel.core.errors import InputError
from accel.core.types import Model

#: longest header that the safetensors library accepts
MAX_HEADER = 100_000_000
#: bits of an element, by the names of safetensors 0.8
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
#: packages whose names a pickle of tensors refers to, and the built-in types that it may name besides
SAFE_PACKAGES = frozenset(("torch", "collections", "numpy", "_codecs"))
SAFE_BUILTINS = frozenset(
    (
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "set",
        "slice",
        "str",
        "tuple",
    )
)
AGAIN = "get the model's files again, and compare their checksums"


def check_weights(model: Model) -> tuple[str, ...]:
    """Checks every file of weights of a resolved model.

    Returns:
        Notes for the user: which files are pickles, from which only tensors may be read (`weights_only=True`).

    Raises:
        InputError: a file is damaged, cut short, not what its name says, or a pickle that calls other code than that
            of tensors; the message names the file and the numbers.
    """
    if model.folder is None or model.weights == "random":
        return ()
    notes = []
    for name in model.files:
        path = model.folder / name
        if name.endswith(".safetensors"):
            check_safetensors(path)
        elif name.endswith((".bin", ".pth", ".pt")):
            check_pickle(path)
            notes.append(f"{name} is a pickle: only tensors are read from it")
        elif name.endswith(".gguf"):
            gguf_header.read(path)
        elif name.endswith(".onnx"):
            check_onnx(path)
        elif name.endswith((".safetensors.index.json", ".bin.index.json")):
            check_index(path)
    return tuple(notes)


def check_safetensors(path: Path) -> None:
    """Checks header, types, shapes and extents of a safetensors file against its size.

    Format: https://github.com/huggingface/safetensors#format
    """
    size = _size(path)
    with open(path, "rb") as file:
        start = file.read(512)
        length = int.from_bytes(start[:8], "little")
        if size < 8 or start[8:9] != b"{":
            raise _not_safetensors(path, start, size)
        if length > MAX_HEADER or 8 + length > size:
            raise InputError(
                f"{path} is cut short or damaged: its header should be {length} bytes long, and the file has {size}",
                AGAIN,
            )
        file.seek(8)
        header = _header(path, file.read(length))
    extents = sorted(_extent(path, name, entry) for name, entry in header.items() if name != "__metadata__")
    data, at = size - 8 - length, 0
    for first, last, name in extents:
        if first != at:
            kind = "overlaps the one before it" if first < at else "leaves a hole before it"
            raise InputError(f"{path} is damaged: tensor {name!r} {kind} (at byte {first} instead of {at})", AGAIN)
        at = last
    if at != data:
        state = f"cut short by {at - data}" if at > data else f"too long by {data - at}"
        raise InputError(f"{path} is {state} bytes: its tensors need {at} bytes and it has {data}", AGAIN)


def _header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the header of {path} is damaged: {error}", AGAIN) from error
    if not isinstance(header, dict):
        raise InputError(f"the header of {path} is not a JSON object", AGAIN)
    return header


def _extent(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """First and last byte of a tensor's data, after checking that they agree with its type and shape."""
    values = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = values.get("dtype"), values.get("shape"), values.get("data_offsets")
    if not (_counts(shape) and _counts(offsets) and len(offsets) == 2):
        raise InputError(f"the header of {path} is damaged at tensor {name!r}: no valid shape or offsets", AGAIN)
    if dtype not in BITS:
        raise InputError(f"{path} has the unknown type {dtype!r} at tensor {name!r}", "convert it to a known type")
    first, last = offsets
    needed = math.prod(shape) * BITS[dtype]
    if needed % 8 or last - first != needed // 8:
        raise InputError(
            f"{path} is damaged: tensor {name!r} of shape {shape} and type {dtype} has {last - first} bytes", AGAIN
        )
    return first, last, name


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _not_safetensors(path: Path, start: bytes, size: int) -> InputError:
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        return InputError(
            f"{path} is a pickle and not the safetensors file that its name says; a pickle can run any code",
            "get the safetensors file, or, if you trust it, rename it to pytorch_model.bin: only tensors are read then",
        )
    return _foreign(path, start) or InputError(f"{path} is not a safetensors file ({size} bytes)", AGAIN)


def _foreign(path: Path, start: bytes) -> InputError | None:
    """The error for a file that stands in the place of weights after a download went wrong."""
    if start.startswith(b"version https://git-lfs"):
        return InputError(f"{path} is a Git LFS pointer and not the weights themselves", "run: git lfs pull")
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return InputError(f"{path} is a web page and not weights", AGAIN)
    return None


def check_pickle(path: Path) -> None:
    """Checks that a PyTorch file is whole and names nothing but tensors.

    The names are read without executing anything. This gives a clear message early; what keeps code from running is
    that the file is only ever loaded with `weights_only=True`.
    """
    size = _size(path)
    with open(path, "rb") as file:
        start = file.read(512)
        if start.startswith(b"PK\x03\x04"):
            try:
                with zipfile.ZipFile(file) as archive:
                    for member in archive.namelist():
                        if member.endswith("data.pkl"):
                            _check_names(path, archive.open(member), 1)
            except zipfile.BadZipFile as error:
                raise InputError(f"{path} is cut short or damaged ({size} bytes)", AGAIN) from error
        elif start[:1] == b"\x80":
            file.seek(0)
            # before the tensors, the older format holds: magic number, version, system, the object, its keys
            _check_names(path, file, 5)
        else:
            raise _foreign(path, start) or InputError(f"{path} is not a PyTorch file ({size} bytes)", AGAIN)


def _check_names(path: Path, file: IO[bytes], pickles: int) -> None:
    try:
        for _ in range(pickles):
            pushed: list[str | None] = []
            memo: dict[int, str | None] = {}
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    _check_name(path, *str(argument).split(" ", 1))
                elif opcode.name == "STACK_GLOBAL":
                    _check_name(path, *(text or "an unknown name" for text in pushed[-2:]))
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = pushed[-1]
                elif opcode.name in ("BINPUT", "LONG_BINPUT") and isinstance(argument, int):
                    memo[argument] = pushed[-1]
                elif opcode.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
                    pushed.append(memo.get(argument))
                else:
                    pushed.append(argument if isinstance(argument, str) else None)
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(f"{path} is cut short or damaged: {error}", AGAIN) from error


def _check_name(path: Path, package: str, name: str) -> None:
    if package in ("builtins", "__builtin__"):
        safe = name in SAFE_BUILTINS
    else:
        safe = package.partition(".")[0] in SAFE_PACKAGES
    if not safe:
        raise InputError(
            f"{path} would call {package}.{name} when loaded, which no file of weights needs",
            "do not load this file; get the model as safetensors",
        )


def check_index(path: Path) -> None:
    """Checks that every part that an index of sharded weights names is there and lies beside it."""
    try:
        parts = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not an index of weights", AGAIN) from error
    outside = [part for part in parts if not isinstance(part, str) or "/" in part or "\\" in part]
    if outside:
        raise InputError(f"{path} names a file outside its folder: {outside[0]}", "do not use this model")
    absent = [part for part in parts if not (path.parent / part).is_file()]
    if absent:
        raise InputError(f"{len(absent)} of the {len(parts)} parts that {path} names are missing: {absent[0]}", AGAIN)


def check_onnx(path: Path) -> None:
    """Checks that an ONNX file is whole and that the files of weights it names lie beside it."""
    for name in sorted(onnx_header.read(path).external):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{path} names a file of weights outside its folder: {name}", "do not use this model")
        if not (path.parent / name).is_file():
            raise InputError(f"{name} is missing, which holds weights of {path}", "put it beside the model")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", AGAIN) from error
