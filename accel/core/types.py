"""The words of the project as types: device, model, tensor, graph, recipe, plan, answer.

Everything here is plain data that travels as JSON. Nothing here imports a library that is slow to load.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

PLATFORMS = ("cpu", "cuda", "mps", "rocm", "openvino", "webgpu", "webnn", "qualcomm")
FAMILIES = ("text-encoder", "text-decoder", "cnn", "diffusion", "audio", "vision", "multimodal")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

Weights = Literal["pretrained", "random"]
PlanSource = Literal["measured", "trial", "predicted", "priority", "requested"]


@dataclass(frozen=True)
class Device:
    """One concrete unit of a platform on this machine.

    Attributes:
        id: `cpu:0`, `cuda:1`, `openvino:GPU.0`, `webgpu:chromium`.
        memory_total_bytes, memory_free_bytes: what this process may use; None where the platform does not tell.
        cores, threads: physical cores and hardware threads this process may use (affinity and cgroup limits applied).
        features: instruction sets or capabilities, lower case: `avx2`, `avx512_vnni`, `amx_bf16`, `sm_90`.
        precisions: `{"fast": [...], "possible": [...]}`, from `PRECISIONS`.
        driver: driver or library version that serves it.
        engines: engines installed here that could execute on it.
        measured: only with `--deep`: GFLOP/s per precision and GB/s.
    """

    id: str
    platform: str
    name: str
    vendor: str
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    cores: int | None = None
    threads: int | None = None
    features: tuple[str, ...] = ()
    precisions: dict[str, list[str]] = field(default_factory=lambda: {"fast": [], "possible": []})
    driver: str | None = None
    engines: tuple[str, ...] = ()
    measured: dict[str, Any] | None = None


@dataclass(frozen=True)
class PlatformReport:
    """A platform's answer to `detect`: present with devices, or absent with a reason and a fix."""

    name: str
    present: bool
    reason: str
    fix: str = ""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True)
class Model:
    """A resolved model: what was asked for, where its files are and what it is.

    Attributes:
        name: what the user typed, without the revision.
        source: `local`, `package`, `hub`, `ipfs` or `catalogue` (configuration only, random weights).
        folder: the folder that holds its files, or None for `--weights random` without files.
        files: paths relative to `folder` that make up the model.
        layout: how the files are read: `transformers`, `diffusers`, `onnx`, `gguf`, or `python` (a factory that the
            catalogue names).
        config: `config.json` as read (for diffusers `model_index.json`).
        digest: sha256 (hex) over the files' names and contents, or over the configuration for random weights.
        entry: the catalogue entry it came from, if any.
    """

    name: str
    source: str
    folder: Path | None
    files: tuple[str, ...]
    layout: str
    config: dict[str, Any]
    family: str
    task: str
    weights: Weights
    digest: str
    revision: str | None = None
    entry: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a graph. `axes` holds an int for a fixed axis and a name for a dynamic one."""

    name: str
    dtype: str
    axes: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One executable graph of a model (a diffusion model has several).

    `cache` says that inputs `past_key_values.N.key|value` come back as outputs `present.N.key|value`
    (shape batch, heads, length, head size).
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cache: bool = False


@dataclass(frozen=True)
class Recipe:
    """What a family needs to run a model without its framework: graphs, settings and asset files.

    Attributes:
        graphs: by name, in the order they run.
        settings: JSON values of the family (pooling, labels, image size, special tokens...).
        assets: file names inside the recipe's `assets` folder (tokenizer.json, mel filters...).
        notes: what a user has to know about the result ("byte-level tokenizer in place of ...").
    """

    family: str
    task: str
    graphs: dict[str, GraphSpec]
    settings: dict[str, Any]
    assets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """Reads what `as_json` wrote."""

        def tensors(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(t["name"], t["dtype"], tuple(t["axes"])) for t in items)

        graphs = {
            name: GraphSpec(g["name"], tensors(g["inputs"]), tensors(g["outputs"]), g["cache"])
            for name, g in data["graphs"].items()
        }
        return cls(data["family"], data["task"], graphs, data["settings"], tuple(data["assets"]), tuple(data["notes"]))


@dataclass(frozen=True)
class Plan:
    """How to execute a workload, and why.

    Attributes:
        precision: the effective precision of the arithmetic; `variant` names how it is reached
            (`weights`, `dynamic`, `calibrated` for int8; `gqa` for a decoder graph with grouped-query attention).
    """

    device: str
    platform: str
    engine: str
    precision: str
    batch: int = 1
    threads: int = 0
    variant: str = ""
    source: PlanSource = "priority"
    reason: str = ""
    candidates: tuple[dict[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """A file-system-safe name of what has to be prepared for this plan (batch and threads do not matter)."""
        return "-".join(p for p in (self.engine, self.device.replace(":", "."), self.precision, self.variant) if p)


@dataclass(frozen=True)
class Item:
    """One input of a run: exactly what the user gave, before any preprocessing.

    Attributes:
        index: position in the input, from 0.
        text, image, audio: text, path of an image or path of a sound, as the task needs them.
        texts: candidate texts (zero-shot image classification).
        tensors: ready tensors by graph input name (bare ONNX models).
    """

    index: int = 0
    text: str | None = None
    image: str | None = None
    audio: str | None = None
    texts: tuple[str, ...] = ()
    tensors: dict[str, np.ndarray[Any, Any]] | None = None


@dataclass(frozen=True)
class Options:
    """What the user asked of the model, apart from where it runs.

    `max_new_tokens` None means the family's default; `temperature` 0 is greedy.
    `truncate` cuts an overlong input instead of refusing it.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    chat: bool = False
    truncate: bool = False
    top_k: int = 5
    threshold: float = 0.5
    steps: int | None = None
    output_dir: Path | None = None
