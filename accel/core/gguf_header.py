"""Reads the header of a GGUF file: metadata and the place of every tensor, without the gguf package.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.errors import InputError

#: struct codes of the scalar value types; 8 is a string and 9 an array
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
#: (elements, bytes) of one block, by tensor type
# fmt: off
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}
# fmt: on
#: longest array that `read` returns; of a longer one (the vocabulary) it gives the length
KEPT_ARRAY = 64
#: where a transformers configuration keeps a value of the metadata
CONFIG_KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True)
class Header:
    """Metadata of a GGUF file; long arrays are replaced by their length. `tensors` counts them."""

    metadata: dict[str, Any]
    tensors: int

    def config(self) -> dict[str, Any]:
        """The values in the words of a transformers `config.json`."""
        kind = str(self.metadata.get("general.architecture", ""))
        config: dict[str, Any] = {"model_type": kind}
        for theirs, ours in CONFIG_KEYS.items():
            value = self.metadata.get(f"{kind}.{theirs}")
            if value is not None:
                config[ours] = value
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if "vocab_size" not in config and isinstance(tokens, int):
            config["vocab_size"] = tokens
        return config


def read(path: Path) -> Header:
    """Reads and checks the header.

    Raises:
        InputError: not a GGUF file, damaged, or shorter than its tensors.
    """
    size = path.stat().st_size
    if size < 24:
        raise InputError(f"{path} is not a GGUF file: it has {size} bytes", "get the file again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(path, data).header()
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise InputError(f"the header of {path} is damaged or cut short", "get the file again") from error


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def header(self) -> Header:
        if self.data[:4] != b"GGUF":
            raise InputError(f"{self.path} is not a GGUF file", "name a .gguf file")
        self.at = 4
        version = self.take("I")
        if version not in (2, 3):
            raise InputError(
                f"{self.path} is GGUF version {version}, not 2 or 3", "convert it with a current llama.cpp"
            )
        tensors, pairs = self.take("Q"), self.take("Q")
        metadata = {}
        for _ in range(self.within(pairs)):
            key = self.string()
            metadata[key] = self.value(self.take("I"))
        end = 0
        for _ in range(self.within(tensors)):
            end = max(end, self.tensor())
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise InputError(f"{self.path} has the alignment {alignment!r}", "get the file again")
        needed = math.ceil(self.at / alignment) * alignment + end if tensors else self.at
        if needed > len(self.data):
            raise InputError(
                f"{self.path} is cut short: it has {len(self.data)} bytes and its tensors need {needed}",
                "get the file again",
            )
        return Header(metadata, tensors)

    def take(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def within(self, count: int) -> int:
        """A count of things of at least one byte each, which the rest of the file has to hold."""
        if count > len(self.data) - self.at:
            raise InputError(f"the header of {self.path} is damaged: it claims {count} entries", "get the file again")
        return count

    def string(self) -> str:
        length = self.within(self.take("Q"))
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.take(SCALARS[kind])
        if kind == 8:
            return self.string()
        if kind != 9:
            raise InputError(f"the header of {self.path} is damaged: value type {kind}", "get the file again")
        inner, count = self.take("I"), self.take("Q")
        self.within(count)
        if inner == 9:
            raise InputError(f"the header of {self.path} is damaged: an array of arrays", "get the file again")
        if count <= KEPT_ARRAY:
            return [self.value(inner) for _ in range(count)]
        if inner in SCALARS:
            self.at += self.within(count * struct.calcsize(f"<{SCALARS[inner]}"))
        else:
            for _ in range(count):
                self.value(inner)
        return count

    def tensor(self) -> int:
        """Reads one tensor's entry and returns where its data ends, relative to the first tensor's."""
        name = self.string()
        dimensions = self.take("I")
        if dimensions > 8:
            raise InputError(
                f"{self.path} is damaged: tensor {name!r} has {dimensions} dimensions", "get the file again"
            )
        elements = math.prod(self.take("Q") for _ in range(dimensions))
        kind, offset = self.take("I"), self.take("Q")
        per_block, size = BLOCKS.get(kind, (1, 0))
        return int(offset + math.ceil(elements / per_block) * size)
