"""Records the times of a fresh process's first runs, as the real traces that the detection of warm-ups is judged by.

    python tests/data/warmup/record.py --onnxruntime-web FOLDER --model FILE.onnx [NAME...]

Every trace is of a process of its own: it loads, then runs one after the other, the first inference included, and
writes down how long each took. What is recorded goes to `traces.json.gz` beside this file; a trace that is recorded
again takes the place of the old one, and its mark in `marks.toml` has to be made again.

--model is the ONNX export of all-minilm that accel makes (`export/model/model.onnx` below its folder in `prepared`),
--onnxruntime-web a folder with npm's package of that name, both needed by some traces only.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STORED = HERE / "traces.json.gz"


def timed(run: Callable[[], Any], runs: int, seconds: float) -> list[int]:
    """Nanoseconds of each run, until there are so many or so much time has passed since the first one ended."""
    samples: list[int] = []
    end = math.inf
    while len(samples) < runs and time.perf_counter() < end:
        started = time.perf_counter_ns()
        run()
        samples.append(time.perf_counter_ns() - started)
        end = min(end, time.perf_counter() + seconds)
    return samples


def tiny(width: int, layers: int) -> str:
    """A small network as an ONNX file."""
    sys.path.insert(0, str(HERE.parents[2]))
    from tests.core.bench import parts

    return str(parts.onnx_model(Path(tempfile.mkdtemp()) / "tiny.onnx", width=width, layers=layers))


def feeds(names: list[str], length: int) -> dict[str, Any]:
    """Token ids, mask and types of one text for all-minilm."""
    import numpy as np

    filled = {name: np.ones((1, length), np.int64) for name in names}
    return {name: values * (1000 if "ids" in name and "type" not in name else 1) for name, values in filled.items()}


def onnxruntime(model: str, shape: int, threads: int) -> Callable[[], Any]:
    """ONNX Runtime: all-minilm with `shape` tokens, or a tiny network of that width."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model or tiny(shape, 8), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    given = feeds(names, shape) if model else {names[0]: np.ones((1, shape), np.float32)}
    return lambda: session.run(None, given)


def openvino(model: str, shape: int, threads: int) -> Callable[[], Any]:
    """OpenVINO on the CPU; the same models."""
    import numpy as np
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(model or tiny(shape, 8), "CPU", {"INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.inputs]
    given = feeds(names, shape) if model else {names[0]: np.ones((1, shape), np.float32)}
    return lambda: request.infer(given)


def compiled(model: str, shape: int, threads: int) -> Callable[[], Any]:
    """torch.compile: a small BERT with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    module = torch.compile(BertModel(config).eval())
    ids = torch.ones((1, shape), dtype=torch.int64)

    def run() -> Any:
        with torch.inference_mode():
            return module(input_ids=ids)

    return run


def eager(model: str, shape: int, threads: int) -> Callable[[], Any]:
    """torch without its compiler: the same BERT."""
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(threads)
    config = BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    module = BertModel(config).eval()
    ids = torch.ones((1, shape), dtype=torch.int64)

    def run() -> Any:
        with torch.inference_mode():
            return module(input_ids=ids)

    return run


WASM = """
const [folder, model, shape, runs, seconds] = process.argv.slice(2);
const ort = await import(`file://${folder}/dist/ort.wasm.min.mjs`);
ort.env.wasm.numThreads = 1;
const { readFileSync } = await import("node:fs");
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const n = Number(shape), feeds = {};
for (const name of session.inputNames) {
  feeds[name] = session.inputNames.length === 1
    ? new ort.Tensor("float32", new Float32Array(n).fill(1), [1, n])
    : new ort.Tensor("int64", new BigInt64Array(n).fill(name === "input_ids" ? 1000n : 1n), [1, n]);
}
const samples = [], end = performance.now() + 1000 * Number(seconds);
while (samples.length < Number(runs) && performance.now() < end) {
  const started = process.hrtime.bigint();
  await session.run(feeds);
  samples.push(Number(process.hrtime.bigint() - started));
}
console.log(JSON.stringify(samples));
"""


def wasm(folder: str, model: str, shape: int, runs: int, seconds: float) -> list[int]:
    """ONNX Runtime's WebAssembly build under node: V8 compiles it twice, quickly and then well."""
    script = Path(tempfile.mkdtemp()) / "wasm.mjs"
    script.write_text(WASM)
    arguments = ["node", str(script), folder, model or tiny(shape, 8), str(shape), str(runs), str(seconds)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


#: name: (what runs it, whether it is all-minilm, tokens or width, threads, runs, seconds)
TRACES: dict[str, tuple[str, bool, int, int, int, float]] = {
    **{f"torch.compile, {n} tokens, {t} threads": ("compiled", False, n, t, 400, 6.0) for n, t in
       ((16, 1), (32, 2), (64, 1), (128, 1), (128, 2))},
    **{f"torch, {n} tokens": ("eager", False, n, 1, 400, 6.0) for n in (16, 128)},
    **{f"openvino, all-minilm, {n} tokens, {t} threads": ("openvino", True, n, t, 400, 6.0) for n, t in
       ((8, 1), (16, 2), (32, 1), (128, 1), (128, 2))},
    **{f"openvino, width {n}": ("openvino", False, n, 1, 1000, 3.0) for n in (64, 256, 1024)},
    **{f"onnxruntime, all-minilm, {n} tokens": ("onnxruntime", True, n, 1, 400, 5.0) for n in (8, 32, 128)},
    **{f"onnxruntime, width {n}": ("onnxruntime", False, n, 1, 1000, 3.0) for n in (64, 256, 1024)},
    **{f"wasm, all-minilm, {n} tokens": ("wasm", True, n, 1, 300, 8.0) for n in (8, 16, 32, 64)},
    **{f"wasm, width {n}": ("wasm", False, n, 1, 8000, 4.0) for n in (64, 256, 512)},
}  # fmt: skip


def record(name: str, model: str, web: str) -> list[int]:
    """One trace, in a process of its own."""
    kind, large, shape, threads, runs, seconds = TRACES[name]
    if kind == "wasm":
        return wasm(web, model if large else "", shape, runs, seconds)
    arguments = [kind, model if large else "", str(shape), str(threads), str(runs), str(seconds)]
    done = subprocess.run([sys.executable, __file__, "--one", *arguments], check=True, capture_output=True, text=True)
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Records all traces, or those that are named."""
    if sys.argv[1:2] == ["--one"]:
        kind, model, shape, threads, runs, seconds = sys.argv[2:]
        makers = {"onnxruntime": onnxruntime, "openvino": openvino, "compiled": compiled, "eager": eager}
        print(json.dumps(timed(makers[kind](model, int(shape), int(threads)), int(runs), float(seconds))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--onnxruntime-web", required=True)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    import onnx

    whole = Path(tempfile.mkdtemp()) / "model.onnx"  # with its weights in the file itself, as the browser's build likes
    onnx.save(onnx.load(given.model), str(whole))
    stored: dict[str, list[int]] = json.loads(gzip.decompress(STORED.read_bytes())) if STORED.exists() else {}
    for name in given.names or TRACES:
        stored[name] = record(name, str(whole), str(Path(given.onnxruntime_web).resolve()))
        print(f"{name}: {len(stored[name])} runs, the first {stored[name][0] / 1e6:.3g} ms", flush=True)
        STORED.write_bytes(gzip.compress(json.dumps(stored, separators=(",", ":")).encode(), mtime=0))


if __name__ == "__main__":
    main()
