"""What `accel profile --calibrate` measures: small graphs of one kind of operator each, over the shapes of networks.

A graph repeats its operator with weights of its own each time, in a chain, so that weights come from where they come
from in a network: out of the cache only where a whole network's would fit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from accel.core.performance.operators import Operator, Tensor

#: the largest cache of current processors is smaller than this, so weights of a chain that long come from memory
BEYOND_CACHE = 40 << 20
#: a tensor of more than 32 MiB, which the allocator of the C library takes from the system and gives back every time
LARGE = (40_000, 768)
#: the most weights of one chain, and the most repetitions
MOST_REPEATS = 24


@dataclass(frozen=True)
class Kernel:
    """A graph to be timed.

    Attributes:
        kind: `linear`, `bmm`, `conv2d`, `conv1d`, `attention`, `layernorm`, `softmax`, `gelu`, `relu`, `add`, `copy`,
            `batchnorm`, `groupnorm`, `gather`, `view` (dispatch alone) or `call` (what executing any graph costs).
        shape: of its input. out: rows of the weights (features or channels that come out).
        size, stride, groups: of a convolution.
        repeat: operators in the chain.
    """

    kind: str
    shape: tuple[int, ...]
    out: int = 0
    size: int = 1
    stride: int = 1
    groups: int = 1
    repeat: int = 1

    def as_json(self) -> dict[str, Any]:
        """JSON object; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Kernel:
        """Reads what `as_json` wrote."""
        return cls(**{**data, "shape": tuple(data["shape"])})

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The operators of the chain."""
        here, back = self._one(self.shape, self.out), None
        if self.chained:
            back = self._one(here.outputs[0].shape, self.shape[1 if self.kind.startswith("conv") else -1])
        ops = [here if i % 2 == 0 or back is None else back for i in range(self.repeat)]
        return tuple(ops)

    @property
    def chained(self) -> bool:
        """Whether every other operator leads back to the shape of the input."""
        return self.repeat > 1 and self.kind in ("linear", "conv2d", "conv1d")

    def _one(self, shape: tuple[int, ...], out: int) -> Operator:
        source = Tensor(shape)
        if self.kind == "linear":
            result = (*shape[:-1], out)
            return _op("matmul", (source, Tensor((shape[-1], out), 4, True), Tensor((out,), 4, True)), result)
        if self.kind == "bmm":
            right = (*shape[:-2], shape[-1], self.out)
            return _op("matmul", (source, Tensor(right)), (*shape[:-1], self.out))
        if self.kind.startswith("conv"):
            flat = shape[2:]
            result = (shape[0], out, *((n + self.stride - 1) // self.stride for n in flat))
            weight = Tensor((out, shape[1] // self.groups, *[self.size] * len(flat)), 4, True)
            given = {"stride": [self.stride] * len(flat), "groups": self.groups, "transposed": False}
            return _op("convolution", (source, weight, Tensor((out,), 4, True)), result, given)
        if self.kind == "attention":
            return _op("attention", (source,) * 3, shape)
        if self.kind == "gather":
            table = Tensor((self.out, shape[-1]), 4, True)
            return _op("gather", (table, Tensor(shape[:-1], 8)), shape)
        if self.kind == "layernorm":
            last = Tensor(shape[-1:], 4, True)
            return _op("normalisation", (source, last, last), shape)
        if self.kind == "batchnorm":
            channel = Tensor(shape[1:2], 4, True)
            return _op("normalisation", (source, *[channel] * 4), shape, name="aten::native_batch_norm")
        if self.kind == "groupnorm":
            channel = Tensor(shape[1:2], 4, True)
            return _op("normalisation", (source, channel, channel), shape, name="aten::native_group_norm")
        if self.kind == "add":
            return _op("elementwise", (source, source), shape, name="aten::add")
        kind = {"gelu": "activation", "relu": "activation"}.get(self.kind, self.kind)
        return _op(kind, (source,), shape, name=f"aten::{self.kind}")

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights of the chain."""
        return sum(t.nbytes for op in self.operators for t in op.inputs if t.parameter)


def _op(
    kind: str,
    inputs: tuple[Tensor, ...],
    output: tuple[int, ...],
    attributes: dict[str, Any] | None = None,
    name: str = "",
) -> Operator:
    return Operator(kind, name or kind, "model", inputs, (Tensor(output),), attributes or {})


def _linear(rows: int, inner: int, out: int) -> Kernel:
    pairs = max(1, min(MOST_REPEATS // 2, -(-BEYOND_CACHE // (8 * inner * out))))
    flops = 4.0 * rows * inner * out
    # long chains of slow products would take the time of everything else
    pairs = max(1, min(pairs, int(2e10 / flops) or 1))
    return Kernel("linear", (rows, inner), out, repeat=2 * pairs)


def _conv(
    batch: int, channels: int, side: int, out: int, size: int, stride: int = 1, groups: int = 1, repeat: int = 4
) -> Kernel:
    return Kernel("conv2d", (batch, channels, side, side), out, size, stride, groups, repeat)


def kernels() -> list[Kernel]:
    """Everything that is measured, what tells most first."""
    found = [Kernel("call", (1, 16)), Kernel("view", (16, 16), repeat=64), Kernel("add", (16, 16), repeat=16)]
    for rows in (1024, 8, 8192, 128):
        found += [Kernel(kind, (rows, 768)) for kind in ("layernorm", "softmax", "gelu", "relu", "add", "copy")]
        found.append(Kernel("gather", (rows, 768), 30000))
    for kind in ("batchnorm", "groupnorm"):
        found += [Kernel(kind, (1, 32, side, side)) for side in (14, 56, 112, 336)]
    found.append(Kernel("relu", LARGE))
    found += [_linear(rows, 768, 3072) for rows in (1, 4, 16, 48, 128, 400, 1024)]
    found += [
        Kernel("attention", (batch, heads, length, size), repeat=2)
        for batch, heads, length, size in (
            (1, 12, 128, 64), (8, 12, 128, 64), (1, 12, 512, 64), (1, 6, 197, 64), (8, 12, 197, 64), (1, 12, 32, 64),
            (1, 8, 1024, 64), (1, 6, 1500, 64), (8, 12, 128, 32), (1, 8, 1024, 8),
        )
    ]  # fmt: skip
    found += [Kernel("bmm", (12, 128, 64), 128), Kernel("bmm", (96, 197, 64), 197), Kernel("bmm", (12, 1, 64), 144)]
    found += _convolutions(1)
    for inner, out in ((384, 1536), (768, 768), (2048, 512), (256, 256), (576, 1536)):
        found += [_linear(rows, inner, out) for rows in (1, 16, 128, 1024)]
    found += [_linear(rows, 768, 32000) for rows in (1, 4, 16)]
    found += [_linear(rows, 384, 384) for rows in (16, 128, 1024)]
    found += [_linear(64, 768, 768), _linear(256, 1024, 1024), _linear(8, 512, 2048)]
    return [*found, _linear(3200, 768, 3072), _linear(4096, 384, 1536), _linear(4096, 768, 768), *_convolutions(8)]


def _convolutions(batch: int) -> list[Kernel]:
    return [
        _conv(batch, 64, 56, 64, 3),
        _conv(batch, 64, 56, 256, 1),
        _conv(batch, 96, 56, 96, 3, groups=96),
        _conv(batch, 384, 14, 384, 3, groups=384),
        _conv(batch, 256, 14, 1024, 1),
        _conv(batch, 512, 7, 512, 3),
        _conv(batch, 24, 56, 144, 1),
        _conv(batch, 3, 224, 64, 7, 2, repeat=1),
        _conv(batch, 32, 112, 32, 3, groups=32),
        _conv(batch, 240, 14, 240, 5, groups=240),
        _conv(batch, 3, 224, 768, 16, 16, repeat=1),
        _conv(batch, 128, 28, 128, 3),
        _conv(batch, 160, 7, 960, 1),
        _conv(batch, 32, 32, 32, 3),
        _conv(batch, 320, 16, 320, 3, repeat=2),
        Kernel("conv1d", (batch, 512, 1600), 512, 3, 2, repeat=1),
    ]
