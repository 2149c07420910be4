"""Operators of a model that an engine lacks, asked from the engine itself.

ONNX Runtime is asked for the kernels that it registers, OpenVINO by `query_model`; for WebNN there is the table of its
execution provider (`accel/data/webnn_operators.json`). What they are asked about is the ONNX export. Where none is
there yet it is made with random weights, of a decoder with equal layers with two of them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core import memory, prepared
from accel.core.compatibility.requirements import Requirement, fact
from accel.core.digest import of_values
from accel.core.errors import IncompatibleError
from accel.core.performance import graphs
from accel.core.registry import engine as engine_named
from accel.core.types import Model, Plan

WEBNN = Path(__file__).resolve().parent.parent.parent / "data" / "webnn_operators.json"
#: layers of the decoder that stands for a deeper one
LAYERS = 2
#: engines that can be asked
ASKED = ("onnxruntime", "openvino", "ort-web")

#: (domain, operator, version of its set) and how many nodes are of it
Operators = Counter[tuple[str, str, int]]


@dataclass(frozen=True)
class Coverage:
    """What an engine said.

    Attributes:
        nodes: of all graphs. lacking: nodes by operator that the engine has no code for.
        source: who said it, in words.
    """

    nodes: int
    lacking: dict[str, int]
    source: str

    def requirement(self, engine: str, platform: str) -> Requirement:
        """What it means for a run: a browser does in WebAssembly what WebNN lacks; other engines refuse the model."""
        if not self.lacking:
            return fact("operators", True, f"{self.source} has all {self.nodes} nodes")
        names = ", ".join(f"{name} ({count})" for name, count in sorted(self.lacking.items(), key=lambda kv: -kv[1]))
        if engine == "ort-web":
            return fact("operators", True, f"{platform} leaves to WebAssembly what {self.source} lacks: {names}")
        return fact("operators", False, f"{self.source} lacks {names}")


def ask(model: Model, engine: str, device: str, *, export: bool, show: Callable[[str], None]) -> Coverage | None:
    """What the engine says about a model's operators; None where it cannot be asked.

    Args:
        device: `cpu:0`, `openvino:CPU`, `webnn:...`.
        export: make the export where there is none; takes seconds to minutes.

    Raises:
        IncompatibleError, UnavailableError, ...: the model cannot be exported.
    """
    platform, _, unit = device.partition(":")
    if engine not in ASKED or (engine == "ort-web" and platform != "webnn") or engine_named(engine).missing():
        return None
    # version 1 of what is kept
    key = f"1|{graphs.identity_of(model)}|{model.task}|{engine}|{device}|{engine_named(engine).version()}"
    kept = memory.recall("operators", key)
    if kept is not None:
        return Coverage(**kept)
    files = exported(model)
    if not files and not export:
        return None
    stand_in = None
    if not files:
        show(f"exporting {model.name} to ask about its operators")
        stand_in, files = _export(model)
    try:
        found = _asked(files, engine, platform, unit)
    finally:
        if stand_in is not None:
            prepared.clear([prepared.model_key(stand_in)])
    memory.keep("operators", key, dataclasses.asdict(found))
    return found


def exported(model: Model) -> list[Path]:
    """The ONNX files of a model that are here already."""
    if model.layout == "onnx" and model.folder is not None:
        return [model.folder / name for name in model.files if name.endswith(".onnx")]
    return sorted((prepared.model_folder(model) / "export").glob("*.onnx"))


def _export(model: Model) -> tuple[Model | None, list[Path]]:
    from accel.core.worker import Worker, to_json

    random = dataclasses.replace(model, weights="random")
    depth = graphs.layers_of(random)
    stand_in = random
    if depth is not None and depth > LAYERS:
        shallow = graphs.shallow(random, LAYERS)
        stand_in = dataclasses.replace(shallow, digest=of_values(model.digest, "layers", LAYERS))
    with Worker(stand_in) as worker:
        worker.call("build")
        worker.call("prepare", plan=to_json(Plan("cpu:0", "cpu", "onnxruntime", "fp32")))
    return (None if stand_in is random else stand_in), exported(stand_in)


def _asked(files: list[Path], engine: str, platform: str, unit: str) -> Coverage:
    counted: Operators = Counter()
    for path in files:
        counted += of_file(path)
    nodes = sum(counted.values())
    if engine == "openvino":
        lacking, nodes = _openvino(files, unit or "CPU")
        return Coverage(nodes, lacking, f"OpenVINO's {unit or 'CPU'} (query_model)")
    if engine == "ort-web":
        source = f"the WebNN execution provider ({webnn()['as_of']})"
        return Coverage(nodes, lacking_in_webnn(counted), source)
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(platform, "CPUExecutionProvider")
    return Coverage(nodes, lacking_in_onnxruntime(counted, provider), f"onnxruntime's {provider}")


def of_file(path: Path) -> Operators:
    """Operators of an ONNX file, those of inner graphs and of its own functions too; its weights are not read."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    own = {(function.domain or "ai.onnx", function.name) for function in model.functions}

    def walk(nodes: Any) -> Iterator[tuple[str, str]]:
        for node in nodes:
            yield node.domain or "ai.onnx", node.op_type
            for attribute in node.attribute:
                for inner in [attribute.g, *attribute.graphs]:
                    yield from walk(inner.node)

    found = [*walk(model.graph.node), *(one for function in model.functions for one in walk(function.node))]
    return Counter((domain, name, versions.get(domain, 1)) for domain, name in found if (domain, name) not in own)


def lacking_in_onnxruntime(counted: Operators, provider: str = "CPUExecutionProvider") -> dict[str, int]:
    """Operators without a kernel, neither of the provider nor of the CPU that it falls back to.

    An operator that is defined by others (a function) needs no kernel of its own.
    """
    from onnx import defs
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    kernels: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for kernel in get_all_opkernel_def():
        if kernel.provider in (provider, "CPUExecutionProvider"):
            kernels.setdefault((kernel.domain or "ai.onnx", kernel.op_name), []).append(tuple(kernel.version_range))
    lacking: dict[str, int] = {}
    for (domain, name, version), count in counted.items():
        plain = "" if domain == "ai.onnx" else domain
        try:
            schema = defs.get_schema(name, version, plain)
            since, function = schema.since_version, schema.has_function or schema.has_context_dependent_function
        except defs.SchemaError:
            since, function = version, False
        # a kernel's range holds the versions of definitions that it implements
        has = any(low <= since <= high for low, high in kernels.get((domain, name), ()))
        if not has and not function:
            lacking[name] = lacking.get(name, 0) + count
    return lacking


def _openvino(files: list[Path], unit: str) -> tuple[dict[str, int], int]:
    try:
        import openvino
    except ImportError as error:
        raise IncompatibleError(
            f"openvino cannot be imported: {error}", "pip install 'ipfs-accel[openvino]'"
        ) from error
    core, lacking, nodes = openvino.Core(), Counter[str](), 0
    for path in files:
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            # its reader names operators that it cannot translate
            raise IncompatibleError(
                f"OpenVINO cannot read the graph: {str(error).strip()[:300]}", "--engine"
            ) from error
        supported = core.query_model(model, unit)
        for op in model.get_ops():
            nodes += 1
            if op.get_friendly_name() not in supported:
                lacking[op.get_type_name()] += 1
    return dict(lacking), nodes


@functools.cache
def webnn() -> dict[str, Any]:
    """The table of WebNN's operators: `operators` (name to first version of the operator set), `source`, `as_of`."""
    data: dict[str, Any] = json.loads(WEBNN.read_text(encoding="utf-8"))
    return data


def lacking_in_webnn(counted: Operators) -> dict[str, int]:
    """Operators that the WebNN execution provider does not have."""
    known = webnn()["operators"]
    lacking: dict[str, int] = {}
    for (domain, name, version), count in counted.items():
        if name != "Constant" and (domain != "ai.onnx" or name not in known or version < known[name]):
            lacking[name] = lacking.get(name, 0) + count
    return lacking
