"""Which of the files in a folder or repository make up the model, and how they are read.

A repository often holds the same weights five times (safetensors, pickles, TensorFlow, Flax, ONNX, half precision). A
run needs one of them, and the digest of the model covers exactly what the run needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from accel.core.errors import InputError

#: endings of small files beside the weights: configuration, tokenizer, chat template
SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".codes", ".vocab")
#: how the names of files with such an ending start that no run reads
UNUSED = (
    "readme.", "license.", "licence.", "notice.", "requirements.", "use_policy.", "trainer_state.", "training_args.",
    "data_config.", "quantize_config.", "ort_config.", "all_results.", "eval_results.", "train_results.",
)  # fmt: skip
#: a module of a sentence-transformers model: `1_Pooling/config.json`, `2_Dense/model.safetensors`
MODULE = re.compile(r"\d+_[A-Za-z]\w*")
#: names of weights in the two layouts; a name with a variant (`model.fp16.safetensors`) does not match
WEIGHTS = re.compile(r"(model|pytorch_model|diffusion_pytorch_model)(-\d+-of-(\d+))?\.(safetensors|bin)")
FOREIGN = {".h5": "TensorFlow", ".msgpack": "Flax", ".ot": "Rust", ".ckpt": "a training checkpoint"}


class Selection(NamedTuple):
    """The files of a model.

    Attributes:
        layout: `transformers`, `diffusers`, `onnx` or `gguf`.
        files: everything that a run reads, weights included, sorted.
        weights: the weights among them; empty if there are none.
        reason: why there are no weights, for the error message.
    """

    layout: str
    files: tuple[str, ...]
    weights: tuple[str, ...]
    reason: str = ""

    @property
    def without_weights(self) -> tuple[str, ...]:
        """Configuration and tokenizer alone."""
        return tuple(name for name in self.files if name not in self.weights)


def select(names: Iterable[str], where: str, *, code: bool = False, only: str | None = None) -> Selection:
    """Chooses the files of a model among those of a folder or repository.

    Args:
        names: paths relative to it, with `/`.
        where: what to call it in an error message.
        code: also take the Python files at its root (only for a model whose own code the user trusts).
        only: the ONNX or GGUF file to take, where there are several.

    Raises:
        InputError: it holds no model, several between which the user has to choose, or a part of one.
    """
    names = sorted(set(names))
    root = [name for name in names if "/" not in name]
    if "model_index.json" in root:
        return _diffusers(names, where)
    small = [name for name in root if _is_small(name)]
    if code:
        small += [name for name in root if name.endswith(".py")]
    if only is not None:
        if only not in names:
            raise InputError(f"{where} holds no {only}", _list_of([n for n in names if n.endswith((".gguf", ".onnx"))]))
        if only.endswith(".gguf"):
            return _made("gguf", [], [only])
        return _made("onnx", small, _onnx([only], names, where))
    weights = _weights(root, where)
    if "config.json" in root and weights:
        modules = _modules(names, where)
        return _made("transformers", [*small, *modules], weights)
    onnx = [name for name in names if name.endswith(".onnx") and name.count("/") <= 1]
    if onnx:
        return _made("onnx", small, _onnx(onnx, names, where))
    gguf = [name for name in root if name.endswith(".gguf")]
    if gguf:
        return _made("gguf", small, [_only(gguf, where, "GGUF")])
    if "config.json" in root:
        modules = [name for name in _modules(names, where) if name.endswith(SMALL)]
        return Selection("transformers", tuple(sorted({*small, *modules})), (), _why_none(names))
    if "adapter_config.json" in root:
        raise InputError(f"{where} holds an adapter, not a model", "merge it into its base model, and name the result")
    raise InputError(
        f"{where} holds no model: there is no config.json, model_index.json, .onnx or .gguf",
        "name a folder in the Hugging Face layout, or a model file",
    )


def _made(layout: str, small: list[str], weights: list[str]) -> Selection:
    return Selection(layout, tuple(sorted({*small, *weights})), tuple(weights))


def _is_small(name: str) -> bool:
    return name.endswith(SMALL) and not name.endswith(".index.json") and not name.lower().startswith(UNUSED)


def _weights(names: list[str], where: str) -> list[str]:
    """Weights among the files of one folder: safetensors before pickles, one file before many; with the index."""
    for ending in ("safetensors", "bin"):
        found = [(name, match) for name in names if (match := WEIGHTS.fullmatch(_base(name))) and match[4] == ending]
        whole = [name for name, match in found if not match[2]]
        if whole:
            return whole[:1]
        for stem in sorted({match[1] for _, match in found}):
            shards = [name for name, match in found if match[1] == stem]
            counts = {int(match[3]) for _, match in found if match[1] == stem}
            if counts != {len(shards)}:
                expected = max(counts)
                raise InputError(
                    f"{where} holds {len(shards)} of the {expected} parts of its weights ({shards[0]}, ...)",
                    "get the missing parts",
                )
            index = [name for name in names if _base(name) == f"{stem}.{ending}.index.json"]
            if not index:
                raise InputError(
                    f"{where} has weights in {len(shards)} parts but no {stem}.{ending}.index.json",
                    "get the index file",
                )
            return [*index, *shards]
    return []


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _modules(names: list[str], where: str) -> list[str]:
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, rest = name.partition("/")
        if rest and "/" not in rest and MODULE.fullmatch(folder):
            folders.setdefault(folder, []).append(name)
    return [
        name
        for inside in folders.values()
        for name in [*(n for n in inside if _is_small(_base(n))), *_weights(inside, where)]
    ]


def _diffusers(names: list[str], where: str) -> Selection:
    small, weights = ["model_index.json"], []
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, rest = name.partition("/")
        if rest and "/" not in rest and folder not in ("onnx", "openvino"):
            folders.setdefault(folder, []).append(name)
    for inside in folders.values():
        small += [name for name in inside if _is_small(_base(name))]
        weights += _weights(inside, where)
    if weights:
        return _made("diffusers", small, weights)
    return Selection("diffusers", tuple(sorted(small)), (), _why_none(names))


def _onnx(onnx: list[str], names: list[str], where: str) -> list[str]:
    standard = [name for name in onnx if _base(name) == "model.onnx"]
    chosen = standard[0] if standard else _only(onnx, where, "ONNX")
    return [chosen, *(name for name in names if name.startswith((f"{chosen}_data", f"{chosen}.data")))]


def _only(found: list[str], where: str, kind: str) -> str:
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"{where} holds {len(found)} {kind} models: {_list_of(found)}", f"name one of them: {where}/{found[0]}"
    )


def _list_of(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _why_none(names: list[str]) -> str:
    for name in names:
        for ending, kind in FOREIGN.items():
            if name.endswith(ending):
                return f"its weights are for {kind} only ({name})"
    return "there are no weights beside its configuration"
