"""A small real ONNX model, and engines of a third party that go wrong in every way, as an installed package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

#: what an engine called `evil-<word>` does in each run before it answers
DEEDS = {
    "crash": "import ctypes; ctypes.string_at(0)",
    "hang": "threading.Event().wait()",
    "memory": "hoard = [bytearray(1 << 26)]\nwhile True: hoard.append(bytearray(1 << 26))",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    # every open file, among them the pipe that answers go through
    "garbage": "import os\nfor fd in range(3, 40):\n    try: os.write(fd, b'garbage\\n')\n    except OSError: pass",
    "print": "import os, sys; print('noise ' * 1000); os.write(1, b'noise\\n' * 1000)",
    # a child that leaves the process group and outlives its parent, then the parent dies with the pipe still open
    "fork": "import os\nif os.fork() == 0:\n    os.setsid(); threading.Event().wait()\nos._exit(7)",
    "exit": "import sys; sys.exit(0)",
    "raise": "raise RuntimeError('the engine is not amused')",
    "nan": "outputs = {k: v * float('nan') for k, v in outputs.items()}",
    "random": "import numpy as np; outputs = {k: v + np.random.random() * 1e-6 for k, v in outputs.items()}",
    "wrong": "outputs = {k: -v for k, v in outputs.items()}",
    "plain": "pass",
}


def slower(share: float) -> str:
    """A deed that makes a run longer by this share of it: a spin, since a sleep overshoots."""
    return f"end = time.perf_counter() + {share} * took\nwhile time.perf_counter() < end: pass"


ENGINE = '''
"""An engine for the tests: ONNX Runtime, and then a deed."""
import threading
import time
from pathlib import Path

from accel.core.contracts import EnginePlugin, Session
from accel.core.types import Plan


class EvilSession(Session):
    def __init__(self, path, threads):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 1
        self.inner = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [o.name for o in self.inner.get_outputs()]
        self.runs = 0

    def run(self, graph, feeds):
        started = time.perf_counter()
        outputs = dict(zip(self.names, self.inner.run(self.names, feeds)))
        took = time.perf_counter() - started
        self.runs += 1
        if self.runs > {after}:
{deed}
        return outputs


class Evil(EnginePlugin):
    name = "{name}"
    platforms = ("cpu",)

    def missing(self):
        return None

    def version(self):
        return "1"

    def plans(self, device, recipe, precisions):
        return [Plan(device, "cpu", self.name, "fp32")] if "fp32" in precisions else []

    def prepare(self, source, plan, folder):
        import onnx

        # with its weights in the file itself, wherever they were
        onnx.save(onnx.load(str(source.onnx("model"))), str(Path(folder) / "model.onnx"))

    def load(self, folder, recipe, plan, source=None, *, single=False):
        return EvilSession(Path(folder) / "model.onnx", plan.threads)


PLUGIN = Evil
'''


def install(folder: Path, after: int = 0, deeds: dict[str, str] = DEEDS) -> Path:
    """Writes the package of evil engines into `folder`, which has to be on the path of imports.

    Args:
        after: runs that go well before the deed.
        deeds: instead of all of them.
    """
    package = folder / "evil_engines"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    entries = ["[accel.engines]"]
    for word, deed in deeds.items():
        indented = "\n".join(f"            {line}" for line in deed.splitlines())
        text = ENGINE.replace("{name}", f"evil-{word}").replace("{after}", str(after)).replace("{deed}", indented)
        (package / f"{word}_.py").write_text(text)
        entries.append(f"evil-{word} = evil_engines.{word}_:PLUGIN")
    about = folder / "evil_engines-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: evil-engines\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(entries) + "\n")
    return folder


def onnx_model(path: Path, width: int = 256, layers: int = 4) -> Path:
    """A small network of matrix products with random weights: `x` [batch, width] to `y`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, weights = [], []
    name = "x"
    for layer in range(layers):
        matrix = (random.standard_normal((width, width)) / width**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{layer}"], [f"m{layer}"]))
        name = "y" if layer == layers - 1 else f"t{layer}"
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [name]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path
