"""Workloads and devices that are made up, so that nothing has to be traced."""

from __future__ import annotations

from accel.core.compatibility.supply import Supply
from accel.core.compatibility.targets import Target
from accel.core.performance.machines import Machine
from accel.core.performance.operators import Operator, OperatorGraph, Tensor
from accel.core.types import Device, Model

MIB = 1 << 20
MODEL = Model(
    "small", "local", None, (), "transformers", {"model_type": "bert"}, "text-encoder", "fill-mask", "random", "0" * 64
)


def graph(batch: int = 1, length: int | None = 128, new_tokens: int = 32, *, cache: bool = False) -> OperatorGraph:
    """One product of matrices; memory grows with batch and length."""
    size = batch * (length or 1)
    weight = Tensor((4096, 4096), 4, parameter=True)
    op = Operator("matmul", "mm", "model", (Tensor((size, 4096)), weight), (Tensor((size, 4096)),))
    return OperatorGraph(
        model="small",
        digest="0" * 64,
        family="text-decoder" if cache else "text-encoder",
        task="text-generation" if cache else "fill-mask",
        batch=batch,
        length=length,
        operators=(op,),
        weights_bytes=64 * MIB,
        peak_bytes={"model": size * MIB // 16},
        calls={"model": 1},
        cache_bytes=size * new_tokens * 1024 if cache else 0,
        new_tokens=new_tokens if cache else 0,
    )


def target(
    platform: str = "cpu",
    free: int | None = 8 << 30,
    *,
    present: bool = True,
    engines: tuple[str, ...] = ("onnxruntime", "torch"),
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16", "int8"),
    driver: str | None = None,
    features: tuple[str, ...] = (),
) -> Target:
    """A device with this much free."""
    name = f"{platform}:0" if platform != "openvino" else "openvino:CPU"
    gflops = dict.fromkeys(("fp32", "fp16", "bf16", "int8"), 500.0)
    machine = Machine(name, "made up", platform, gflops, 50.0, "catalogue", present, engines, free)
    device = None
    if present:
        fast = {"fast": ["fp32"], "possible": list(precisions)}
        device = Device(
            name, platform, "made up", "nobody", free, free, precisions=fast, driver=driver, features=features
        )
    where = "free on this machine" if platform in ("cpu", "openvino") and present else "free"
    return Target(name, "made up", platform, engines, Supply(free, free, where), machine, device)
