"""How a sentence-transformers folder turns token vectors into one vector: `modules.json` and what it names.

Pooling follows sentence-transformers' own modules (Reimers and Gurevych 2019, and its source for the later modes).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accel.core.errors import AccelError, IncompatibleError, InputError
from accel.core.types import Model

MEAN: dict[str, Any] = {"kind": "pooling", "modes": ["mean"]}
#: the old boolean keys of a pooling configuration, in the order in which their vectors are joined
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class SentenceSettings:
    """What a folder says about its embeddings.

    Attributes:
        steps: what is done to the token vectors, in order: `pooling`, `dense` and `normalize` steps.
        max_length: the most tokens that the model was made for, or None.
        prompt: text put before every input, maybe empty.
    """

    def __init__(self, model: Model) -> None:
        self.steps: list[dict[str, Any]] = [MEAN]
        self.max_length: int | None = None
        self.prompt = ""
        if model.folder is None or not (model.folder / "modules.json").is_file():
            return
        modules = _read(model.folder / "modules.json")
        self.steps = [step for module in modules if (step := _step(model.folder, module))]
        if not any(step["kind"] == "pooling" for step in self.steps):
            raise IncompatibleError(
                f"the modules.json of {model.name} has no pooling, so it gives no sentence embedding",
                "choose another --task for it",
            )
        for name in ("sentence_bert_config.json", "sentence_xlnet_config.json"):
            if (model.folder / name).is_file():
                self.max_length = _read(model.folder / name).get("max_seq_length")
        about = model.folder / "config_sentence_transformers.json"
        if about.is_file():
            data = _read(about)
            self.prompt = (data.get("prompts") or {}).get(data.get("default_prompt_name") or "", "")
        if self.prompt and not all(step.get("include_prompt", True) for step in self.steps):
            raise IncompatibleError(f"{model.name} leaves its prompt out of the pooling, which is not supported")


def _step(folder: Path, module: dict[str, Any]) -> dict[str, Any] | None:
    kind = str(module.get("type", "")).rpartition(".")[2]
    inside = folder / str(module.get("path", ""))
    if folder.resolve() not in (inside.resolve(), *inside.resolve().parents):
        raise InputError(f"modules.json in {folder} names a path outside of the folder: {module.get('path')}")
    if kind == "Transformer":
        return None
    if kind == "Normalize":
        return {"kind": "normalize"}
    if kind == "Pooling":
        config = _read(inside / "config.json")
        modes = config.get("pooling_mode") or [mode for key, mode in MODES.items() if config.get(key)] or ["mean"]
        modes = [modes] if isinstance(modes, str) else list(modes)
        unknown = [mode for mode in modes if mode not in MODES.values()]
        if unknown:
            raise IncompatibleError(f"the pooling {unknown[0]!r} in {inside} is not known", "update accel")
        return {"kind": "pooling", "modes": modes, "include_prompt": config.get("include_prompt", True)}
    if kind == "Dense":
        config = _read(inside / "config.json")
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        return {
            "kind": "dense",
            "folder": str(inside),
            "in": config["in_features"],
            "out": config["out_features"],
            "bias": config.get("bias", True),
            "activation": activation.rpartition(".")[2],
        }
    raise IncompatibleError(
        f"modules.json in {folder} names a module {module.get('type')!r}, which accel does not have",
        "use a model made of Transformer, Pooling, Dense and Normalize",
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", "download the model again") from error


def pooling_module(steps: list[dict[str, Any]]) -> Any:
    """A torch module from (token vectors (batch, length, hidden), mask (batch, length)) to (batch, size).

    Raises:
        InputError: weights of a dense step are missing or damaged.
    """
    import torch

    class Pooling(torch.nn.Module):  # type: ignore[misc]
        """The steps one after the other."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = torch.nn.ModuleList([_dense(step) for step in steps if step["kind"] == "dense"])

        def forward(self, hidden: Any, mask: Any) -> Any:
            dense = iter(self.dense)
            vector = hidden
            for step in steps:
                if step["kind"] == "pooling":
                    vector = torch.cat([_pooled(mode, vector, mask) for mode in step["modes"]], dim=-1)
                elif step["kind"] == "dense":
                    vector = next(dense)(vector)
                else:
                    vector = torch.nn.functional.normalize(vector, p=2.0, dim=-1)
            return vector

    return Pooling()


def _pooled(mode: str, hidden: Any, mask: Any) -> Any:
    import torch

    weights = mask.unsqueeze(-1).to(hidden.dtype)
    length = mask.shape[1]
    positions = torch.arange(length, device=mask.device).unsqueeze(0)
    if mode == "max":
        return hidden.masked_fill(weights == 0, float("-inf")).amax(dim=1)
    if mode in ("cls", "lasttoken"):
        # positions of padding are moved out of the way, so that either side may be padded
        first = torch.where(mask != 0, positions, length).amin(dim=1)
        last = torch.where(mask != 0, positions, -1).amax(dim=1)
        wanted = first if mode == "cls" else last
        picked = (positions == wanted.unsqueeze(1)).unsqueeze(-1)
        return torch.where(picked, hidden, 0.0).sum(dim=1)
    if mode == "weightedmean":
        weights = weights * (mask.cumsum(dim=1).unsqueeze(-1).to(hidden.dtype))
    total = (hidden * weights).sum(dim=1)
    count = weights.sum(dim=1).clamp(min=1e-9)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _dense(step: dict[str, Any]) -> Any:
    import torch

    activation = getattr(torch.nn, step["activation"], None)
    if activation is None or not issubclass(activation, torch.nn.Module):
        raise IncompatibleError(f"the activation {step['activation']!r} of a dense layer is not one of torch's")
    linear = torch.nn.Linear(step["in"], step["out"], bias=step["bias"])
    folder = Path(step["folder"])
    try:
        if (folder / "model.safetensors").is_file():
            from safetensors.torch import load_file

            state = load_file(str(folder / "model.safetensors"))
        else:
            state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        linear.load_state_dict({k.removeprefix("linear."): v.float() for k, v in state.items()})
    except AccelError:
        raise
    except Exception as error:  # safetensors, pickle and torch raise unrelated exceptions for damaged files
        raise InputError(f"the dense layer in {folder} cannot be read: {error}", "download the model again") from error
    return torch.nn.Sequential(linear, activation()).eval().requires_grad_(False)
