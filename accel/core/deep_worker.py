"""The far end of `accel.core.deep`: multiplies matrices and copies memory on one device, in a process of its own.

Takes a JSON object as its argument and gives one JSON object on standard output; see `accel.core.deep.measure`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

#: a call that takes this long (seconds) is worth trying a larger matrix only while the rate still grows
LONG_ENOUGH = 0.02
#: no call is begun that is expected to take longer (seconds)
TOO_LONG = 1.0
WARM_UP = 2
REPETITIONS = 30
#: seconds that the repetitions of one size may take together
PATIENCE = 1.0
#: element sizes in bytes
SIZES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
#: largest error of one element, in units of the sum of the products' magnitudes: the rounding of the result's type
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2, "int8": 0.0}


#: once this process is gone nobody waits for the figures
_PARENT = os.getppid()


class NotMeasured(Exception):
    """Why something has no figure."""


def best_time(call: Callable[[], None]) -> float:
    """Seconds of the fastest of several calls, after a warm-up."""
    for _ in range(WARM_UP):
        call()
    best, began = float("inf"), time.perf_counter()
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now - began > PATIENCE or os.getppid() != _PARENT:
            break
    return best


def grow(make: Callable[[int], Callable[[], None]], sizes: list[int]) -> tuple[float, int]:
    """GFLOP/s of square matrix products, the best over growing sizes, and the size that gave it.

    Args:
        make: prepares a product of that size, checks its result, and returns the call to be timed.
    """
    rate, at = 0.0, 0
    for size in sizes:
        try:
            seconds = best_time(make(size))
        except MemoryError:
            break
        here, before = 2 * size**3 / seconds / 1e9, rate
        if here > rate:
            rate, at = here, size
        # the next size has eight times the work
        if 8 * seconds > TOO_LONG or (seconds > LONG_ENOUGH and here < 1.05 * before):
            break
    if not at:
        raise NotMeasured("too little free memory for the smallest product")
    return rate, at


class TorchBench:
    """torch on a CPU, CUDA, ROCm or Metal device."""

    def __init__(self, device: str, threads: int) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(max(1, threads))
        self.device = torch.device(device)
        self.version = f"torch {torch.__version__}"
        self.dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            self.torch.mps.synchronize()

    def product(self, precision: str, size: int) -> Callable[[], None]:
        """A checked product of two random matrices; int8 multiplies into int32."""
        torch, dtype = self.torch, self.dtypes[precision]
        if precision == "int8":
            if self.device.type == "mps":
                raise NotMeasured("torch has no int8 product on Metal")
            a, b = (torch.randint(-128, 128, (size, size), dtype=dtype, device=self.device) for _ in range(2))
            multiply: Callable[[], Any] = lambda: torch._int_mm(a, b)  # noqa: E731 - torch's only int8 product
        else:
            a, b = ((torch.rand(size, size, device=self.device) - 0.5).to(dtype) for _ in range(2))
            multiply = lambda: a @ b  # noqa: E731
        try:
            result = multiply()
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                raise MemoryError from error
            raise NotMeasured(f"torch: {str(error).splitlines()[0][:160]}") from error
        rows = list(range(0, size, max(1, size // 8)))[:8]
        part = a[rows].cpu().double()
        whole = b[:, rows].cpu().double()
        error_bound = TOLERANCE[precision] * (part.abs() @ whole.abs())
        if not bool(((result[rows][:, rows].cpu().double() - part @ whole).abs() <= error_bound).all()):
            raise NotMeasured("the result of the product was wrong")

        def call() -> None:
            multiply()
            self.wait()

        return call

    def copy(self, room: int) -> float:
        """GB/s of a copy within the device's memory, bytes read and written both counted (as STREAM does)."""
        size = _buffer(room, 1 << 30 if self.device.type == "cuda" else 256 << 20)
        source = self.torch.ones(size, dtype=self.torch.uint8, device=self.device)
        target = self.torch.empty_like(source)

        def call() -> None:
            target.copy_(source)
            self.wait()

        return 2 * size / best_time(call) / 1e9

    def to_device(self, room: int) -> float | None:
        """GB/s from pinned memory of the host to the device; None where the device has no memory of its own."""
        if self.device.type != "cuda":
            return None
        size = _buffer(room, 256 << 20)
        source = self.torch.ones(size, dtype=self.torch.uint8).pin_memory()
        target = self.torch.empty(size, dtype=self.torch.uint8, device=self.device)

        def call() -> None:
            target.copy_(source, non_blocking=True)
            self.wait()

        return size / best_time(call) / 1e9


class OpenVinoBench:
    """OpenVINO on one of its devices. What it really computed in is read back from the compiled graph."""

    HINTS: ClassVar[dict[str, str]] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
    RUNTIME: ClassVar[dict[str, tuple[str, ...]]] = {
        "fp32": ("f32",),
        "fp16": ("f16",),
        "bf16": ("bf16",),
        "int8": ("i8", "u8"),
    }

    def __init__(self, device: str, threads: int) -> None:
        import openvino

        self.openvino = openvino
        self.device, self.threads = device, threads
        self.core = openvino.Core()
        self.version = f"OpenVINO {openvino.__version__.partition('-')[0]}"

    def product(self, precision: str, size: int) -> Callable[[], None]:
        """A checked product of a random matrix with a constant one, as in a layer of a network."""
        import numpy as np

        from openvino import opset13 as op  # isort: skip

        rng = np.random.default_rng(size)
        a = (rng.integers(-128, 128, (size, size)) / 128).astype(np.float32)
        weights = rng.integers(-127, 128, (size, size)).astype(np.int8)
        entry = op.parameter([size, size], np.float32)
        if precision == "int8":
            low, high = np.float32(-1), np.float32(127 / 128)
            left = op.fake_quantize(entry, low, high, low, high, 256)
            right = op.multiply(op.convert(op.constant(weights), "f32"), np.float32(1 / 128))
        else:
            left, right = entry, op.constant((weights / 128).astype(np.float32))
        model = self.openvino.Model([op.result(op.matmul(left, right, False, True))], [entry])
        settings = {"INFERENCE_PRECISION_HINT": self.HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if self.device == "CPU" and self.threads:
            settings["INFERENCE_NUM_THREADS"] = str(self.threads)
        try:
            compiled = self.core.compile_model(model, self.device, settings)
            request = compiled.create_infer_request()
            request.set_input_tensor(self.openvino.Tensor(a))
            request.infer()
        except RuntimeError as error:
            raise NotMeasured(f"OpenVINO: {str(error).strip().splitlines()[-1][:160]}") from error
        self._check_precision(compiled, precision)
        rows = list(range(0, size, max(1, size // 8)))[:8]
        part, whole = a[rows].astype(np.float64), weights[rows].astype(np.float64).T / 128
        result = request.get_output_tensor().data[rows][:, rows].astype(np.float64)
        # the products of int8 are exact, their sum comes back as fp32
        bound = max(TOLERANCE[precision], 1e-5) * (np.abs(part) @ np.abs(whole))
        if not bool((np.abs(result - part @ whole) <= bound).all()):
            raise NotMeasured("the result of the product was wrong")
        return lambda: request.infer() and None

    def _check_precision(self, compiled: Any, precision: str) -> None:
        for node in compiled.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            if facts["layerType"].astype(str) in ("FullyConnected", "MatMul", "Gemm", "fully_connected", "gemm"):
                used = facts["runtimePrecision"].astype(str)
                if used not in self.RUNTIME[precision]:
                    raise NotMeasured(f"OpenVINO computed in {used} when asked for {precision}")
                return

    def copy(self, room: int) -> float:
        """Never: OpenVINO has no plain copy."""
        raise NotMeasured("OpenVINO has no plain copy; memory is as fast as under cpu, cuda or rocm")

    def to_device(self, room: int) -> float | None:
        """Never, for the same reason."""
        return None


def _buffer(room: int, wanted: int) -> int:
    size = min(wanted, room // 8)
    if size < 16 << 20:
        raise NotMeasured("too little free memory for a copy that means something")
    return size


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """All figures of one device, as `accel.core.deep.measure` returns them, but for the time."""
    kind = OpenVinoBench if request["platform"] == "openvino" else TorchBench
    bench: OpenVinoBench | TorchBench = kind(request["device"], request["threads"])
    answer: dict[str, Any] = {"gflops": {}, "matrix": {}, "copy_gb_per_s": None, "to_device_gb_per_s": None}
    answer |= {"not_measured": {}, "library": bench.version, "threads": request["threads"]}
    room = request["room_bytes"]
    largest = 16384 if request["device"].startswith("cuda") else 4096
    for precision in request["precisions"]:
        sizes = [n for n in (256, 512, 1024, 2048, 4096, 8192, 16384) if n <= largest]
        sizes = [n for n in sizes if n * n * (2 * SIZES[precision] + 4) < room // 4]

        def make(size: int, precision: str = precision) -> Callable[[], None]:
            return bench.product(precision, size)

        try:
            rate, size = grow(make, sizes)
            answer["gflops"][precision], answer["matrix"][precision] = round(rate, 1), size
        except NotMeasured as error:
            answer["not_measured"][precision] = str(error)
    try:
        answer["copy_gb_per_s"] = round(bench.copy(room), 1)
        to_device = bench.to_device(room)
        answer["to_device_gb_per_s"] = None if to_device is None else round(to_device, 1)
    except NotMeasured as error:
        answer["not_measured"]["copy"] = str(error)
    except (MemoryError, RuntimeError) as error:
        answer["not_measured"]["copy"] = str(error).strip().splitlines()[0][:160] or "out of memory"
    return answer


def main() -> None:
    """Measures what the first argument asks for. Libraries that print go to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    answer = measure(json.loads(sys.argv[1]))
    os.write(out, json.dumps(answer).encode())


if __name__ == "__main__":
    main()
