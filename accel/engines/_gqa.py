"""Decoder graphs with grouped-query attention, written by the model builder of onnxruntime-genai.

The builder fuses each layer's attention, rotary positions and cache into one operator of ONNX Runtime
(`com.microsoft.GroupQueryAttention`), which appends to a cache of fixed size in place. Plain ONNX Runtime executes it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accel.core.contracts import Session, Source
from accel.core.decoding import PAST, ArrayDecoding
from accel.core.errors import IncompatibleError, UnavailableError
from accel.core.types import Recipe

#: architectures that the builder writes for the CPU and that were compared with transformers
ARCHITECTURES = {
    "Gemma2ForCausalLM", "GemmaForCausalLM", "GraniteForCausalLM", "LlamaForCausalLM", "MistralForCausalLM",
    "PhiForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
}  # fmt: skip
#: those of them for which the builder keeps a sliding window as transformers does
WINDOWED = {"Gemma2ForCausalLM"}
#: head sizes that the operator takes are multiples of it
HEAD_SIZE = 16
#: largest difference of fp32 logits from the torch module, relative to the largest logit
TOLERANCE = 1e-3
#: seconds after which a build counts as stuck
TIME_LIMIT = 1800.0


def missing(recipe: Recipe) -> str | None:
    """Why this model cannot have such a graph here, or None. Imports nothing."""
    architecture = recipe.settings.get("architecture")
    if recipe.family != "text-decoder" or architecture not in ARCHITECTURES:
        return f"the model builder of onnxruntime-genai does not know {architecture}"
    size = next(t.axes[3] for t in recipe.graphs["model"].inputs if t.name.startswith(PAST))
    if int(size) % HEAD_SIZE:
        return f"grouped-query attention wants a head size that is a multiple of {HEAD_SIZE}, this model has {size}"
    window, positions = recipe.settings.get("window"), recipe.settings.get("positions")
    if window and architecture not in WINDOWED and (positions is None or window < positions):
        return f"the model builder of onnxruntime-genai ignores the sliding window of {architecture}"
    if find_spec("onnxruntime_genai") is None:
        return "onnxruntime-genai is not installed: pip install 'ipfs-accel[decoder]'"
    return None


def build(source: Source, precision: str, folder: Path) -> Path:
    """Writes the graph of a decoder into an empty folder and returns its `model.onnx`.

    The model as it was loaded is saved to a temporary checkpoint first, so that GGUF files and random weights go the
    same way as others. Nothing is fetched: the builder runs offline in a process of its own.

    Raises:
        UnavailableError: onnxruntime-genai is not installed. IncompatibleError: the builder refuses the model.
    """
    reason = missing(source.recipe)
    if reason:
        raise UnavailableError(reason, "pip install 'ipfs-accel[decoder]'")
    checkpoint, cache, target = folder / "checkpoint", folder / "cache", folder / "built"
    for part in (checkpoint, cache, target):
        part.mkdir()
    _save(source.torch().module, checkpoint)
    command = [
        sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "model", "-i", str(checkpoint),
        "-o", str(target), "-c", str(cache), "-p", precision, "-e", "cpu",
        "--extra_options", "prune_lm_head=true", "hf_token=false", "windowed_kv_cache=false",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise IncompatibleError(
            f"the model builder took longer than {TIME_LIMIT:.0f} s", "use another variant"
        ) from error
    if done.returncode != 0 or not (target / "model.onnx").is_file():
        lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        said = lines[-1][:300] if lines else f"exit status {done.returncode}"
        raise IncompatibleError(f"the model builder of onnxruntime-genai failed: {said}", "use the plain graph")
    return target / "model.onnx"


def check(session: Session, source: Source) -> None:
    """Compares fp32 logits of a prompt and of two steps after it with the torch module.

    Raises:
        IncompatibleError: they differ by more than `TOLERANCE`.
    """
    import numpy as np

    graph = source.torch().graphs["model"]
    vocabulary = int(source.recipe.settings["vocabulary"])
    ids = (np.arange(14).reshape(2, 7) * 11 + 5) % vocabulary
    mask = np.ones_like(ids)
    mask[0, :3] = 0
    reference = ArrayDecoding(_Module(graph), graph.spec, {})
    mine = session.decode(graph.spec, {}, 12)
    for tokens, given in ((ids, mask), (ids[:, :1], None), (ids[:, 1:2], None)):
        want, got = reference.step(tokens, given), mine.step(tokens, given)
        scale = max(1.0, float(np.abs(want).max()))
        worst = float(np.abs(want - got).max()) if want.shape == got.shape else float("inf")
        if not worst <= TOLERANCE * scale:
            raise IncompatibleError(
                f"the graph with grouped-query attention differs from the model by {worst:.2g}", "use the plain graph"
            )


class _Module(Session):
    """The torch module of a graph as a session."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def run(self, graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
        import torch

        with torch.no_grad():
            outputs = self._graph.module(*(torch.from_numpy(feeds[t.name]) for t in self._graph.spec.inputs))
        return {t.name: value.numpy() for t, value in zip(self._graph.spec.outputs, outputs, strict=True)}


def _save(module: Any, folder: Path) -> None:
    """A checkpoint of the loaded model, with a tokenizer file that the builder wants to see but does not use."""
    from safetensors.torch import save_model
    from tokenizers import Tokenizer, models

    config = module.config.to_dict()
    config.pop("quantization_config", None)
    config["architectures"] = [type(module).__name__]
    # the builder insists on end tokens, which only its own runtime looks at
    config["eos_token_id"] = config.get("eos_token_id") or 0
    try:
        (folder / "config.json").write_text(json.dumps(config))
        save_model(module, str(folder / "model.safetensors"), metadata={"format": "pt"})
    except (TypeError, ValueError, RuntimeError) as error:
        raise IncompatibleError(
            f"the model cannot be saved for the model builder: {error}", "use the plain graph"
        ) from error
    Tokenizer(models.WordLevel({"?": 0}, unk_token="?")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
