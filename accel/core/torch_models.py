"""Loads a transformers model from its files, or makes one with random weights, for the cold path of every family.

Loading is strict: damaged files, weights that are missing and architectures nobody knows are errors that say so, and
nothing is unpickled, downloaded or executed from the model's folder.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from accel.core.errors import AccelError, IncompatibleError, InputError, UnavailableError
from accel.core.types import Model

#: seed of the weights of `--weights random`, so that two processes make the same model
RANDOM_SEED = 0


class Loaded(NamedTuple):
    """A `torch.nn.Module` (fp32, eval, on the CPU, without gradients) and what the user has to know about it."""

    module: Any
    notes: tuple[str, ...]


def load(
    model: Model,
    auto_class: str,
    *,
    attention: str = "sdpa",
    unused: Sequence[str] = (),
    random_head: bool = False,
    **config_changes: Any,
) -> Loaded:
    """Loads a model with a class of transformers.

    Args:
        model: pretrained (its folder or GGUF file is read) or random (its configuration is instantiated with a fixed
            seed; the same configuration gives the same weights).
        auto_class: `AutoModel`, `AutoModelForMaskedLM`, ... or a concrete class such as `BertModel`.
        attention: `sdpa` or `eager`; a model without the fast kernel silently gets `eager`, which computes the same.
        unused: regular expressions of weights that may be missing because their output is not used.
        random_head: accept weights that the checkpoint lacks, made at random, with a note; otherwise an error.
        config_changes: attributes of the configuration to set.

    Raises:
        InputError: damaged files, or weights that the task needs are not in them.
        IncompatibleError: an architecture that this transformers does not know, or too big for the memory.
        UnavailableError: a library is missing.
    """
    import torch

    with quiet(), reading(model):
        config = read_config(model)
        for name, value in config_changes.items():
            setattr(config, name, value)
        loader = _class(auto_class)
        _check_supported(model, loader, config)
        if model.weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(RANDOM_SEED)
                module = _build(model, loader, config, attention)
            notes: tuple[str, ...] = ()
        else:
            module, info = _read(model, loader, config, attention)
            notes = _judge(model, info, unused, random_head)
    module = module.to(torch.float32).eval()
    module.requires_grad_(False)
    return Loaded(module, notes)


def read_config(model: Model) -> Any:
    """The model's `PreTrainedConfig`. Errors as in `load`."""
    import transformers

    with quiet():
        if model.weights == "random" or model.folder is None:
            values = {k: v for k, v in model.config.items() if k not in ("model_type", "transformers_version")}
            kind = model.config.get("model_type")
            if kind not in transformers.CONFIG_MAPPING:
                raise _unknown_architecture(model, kind)
            try:
                return transformers.AutoConfig.for_model(kind, **values)
            except Exception as error:  # a configuration class may raise anything on values it did not expect
                raise InputError(
                    f"the configuration of {model.name} is not valid: {_first_line(error)}", "check its values"
                ) from error
        kind = model.config.get("model_type")
        if kind is not None and kind not in transformers.CONFIG_MAPPING and not _remote_code(model):
            raise _unknown_architecture(model, kind)
        try:
            return transformers.AutoConfig.from_pretrained(model.folder, **_where(model))
        except Exception as error:  # the parsers of JSON and GGUF raise whatever they trip over
            raise _damaged(model, error) from error


def load_tokenizer(model: Model) -> Any | None:
    """The transformers tokenizer in the model's folder, or None where there are no files for one.

    Raises:
        InputError: there are files but they are damaged. UnavailableError: a library that they need is missing.
    """
    import transformers

    if model.folder is None:
        return None
    names = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
    if model.layout != "gguf" and not any((model.folder / name).is_file() for name in names):
        return None
    with quiet(), reading(model):
        try:
            return transformers.AutoTokenizer.from_pretrained(model.folder, **_where(model))
        except Exception as error:  # tokenizer files are parsed by several libraries with their own exceptions
            raise _damaged(model, error, "tokenizer of") from error


def gguf_file(model: Model) -> str | None:
    """Name of the GGUF file of a model of that layout."""
    if model.layout != "gguf":
        return None
    return next((name for name in model.files if name.endswith(".gguf")), None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' warnings, reports and progress bars off the terminal."""
    import transformers

    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


@contextlib.contextmanager
def numbers() -> Iterator[None]:
    """Inside, tensors hold numbers, also where `accel profile` builds a model whose tensors have shapes alone."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        yield


@contextlib.contextmanager
def reading(model: Model) -> Iterator[None]:
    """Lets transformers share what it reads from a GGUF file; around the loading of model and tokenizer it helps most.

    It opens the file anew for the configuration, the weights and the tokenizer, and maps names anew for every tensor,
    which together takes more than half of the time of loading.
    """
    if gguf_file(model) is None or find_spec("gguf") is None:
        yield
        return
    import gguf

    if hasattr(gguf.GGUFReader, "cache_info"):  # an outer block shares already
        yield
        return

    names = ("GGUFReader", "get_tensor_name_map")
    before = {name: getattr(gguf, name) for name in names}
    try:
        for name in names:
            setattr(gguf, name, functools.lru_cache(maxsize=1)(before[name]))
        yield
    finally:
        for name in names:
            setattr(gguf, name, before[name])


def _where(model: Model) -> dict[str, Any]:
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": _remote_code(model)}
    name = gguf_file(model)
    if name:
        if find_spec("gguf") is None:  # transformers would log an error and raise a vague one
            raise UnavailableError(
                f"{model.name} is a GGUF file, and reading one needs the package gguf", "pip install 'ipfs-accel[gguf]'"
            )
        options["gguf_file"] = name
    return options


def _remote_code(model: Model) -> bool:
    return bool(model.entry.get("trust_remote_code", False))


def _class(name: str) -> Any:
    import transformers

    found = getattr(transformers, name, None)
    if found is None:
        raise IncompatibleError(
            f"transformers {transformers.__version__} has no class {name}",
            "update transformers, or choose another task",
        )
    return found


def _check_supported(model: Model, loader: Any, config: Any) -> None:
    mapping = getattr(loader, "_model_mapping", None)
    if mapping is None or type(config) in mapping or _remote_code(model):
        return
    raise IncompatibleError(
        f"transformers has no {loader.__name__} for {config.model_type} models",
        "choose another --task for this model",
    )


def _build(model: Model, loader: Any, config: Any, attention: str) -> Any:
    make = getattr(loader, "from_config", None) or loader._from_config
    try:
        return _with_attention(lambda kind: make(config, attn_implementation=kind), attention)
    except AccelError:
        raise
    except Exception as error:  # any layer may refuse a configuration in its own way
        raise _damaged(model, error, "configuration") from error


def _read(model: Model, loader: Any, config: Any, attention: str) -> tuple[Any, dict[str, Any]]:
    import torch

    def read(kind: str) -> Any:
        return loader.from_pretrained(
            model.folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=kind,
            weights_only=True,
            output_loading_info=True,
            **_where(model),
        )

    try:
        module, info = _with_attention(read, attention)
    except AccelError:
        raise
    except Exception as error:  # safetensors, torch, gguf and the quantisers raise unrelated exceptions
        raise _damaged(model, error) from error
    return module, info


def _with_attention(make: Any, attention: str) -> Any:
    try:
        return make(attention)
    except ValueError as error:
        if attention == "eager" or "attention" not in str(error):
            raise
        return make("eager")


def _judge(model: Model, info: dict[str, Any], unused: Sequence[str], random_head: bool) -> tuple[str, ...]:
    missing = sorted(k for k in info["missing_keys"] if not any(re.search(p, k) for p in unused))
    mismatched = sorted(str(k[0] if isinstance(k, (tuple, list)) else k) for k in info.get("mismatched_keys", ()))
    if mismatched:
        raise InputError(
            f"{model.name}: {len(mismatched)} weights have another shape than its configuration says, "
            f"for example {mismatched[0]}",
            "use the config.json that came with the weights",
        )
    if info.get("error_msgs"):
        raise InputError(f"{model.name}: {info['error_msgs'][0]}", "download the model again")
    if not missing:
        return ()
    some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    if not random_head:
        raise InputError(
            f"the files of {model.name} lack {len(missing)} of the weights that the task needs ({some})",
            "choose a --task that this model was trained for, or a model that was trained for this task",
            {"missing": missing[:50]},
        )
    return (f"random head: the files lack {len(missing)} weights ({some}), so that part of the output has no meaning",)


def _damaged(model: Model, error: Exception, what: str = "model") -> AccelError:
    if isinstance(error, AccelError):
        return error
    text = _first_line(error)
    where = f" in {model.folder}" if model.folder else ""
    if isinstance(error, ImportError):
        return UnavailableError(f"loading {model.name} needs a library that is not installed: {text}", "install it")
    if isinstance(error, MemoryError) or "not enough memory" in text or "can't allocate memory" in text:
        return IncompatibleError(f"{model.name} does not fit into memory: {text}", "choose a smaller model")
    if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and "no file named" in text):
        return UnavailableError(
            f"{model.name} has no weights{where}: {text}", "name a folder with weights, or use --weights random"
        )
    if "trust_remote_code" in text:
        return IncompatibleError(
            f"{model.name} needs code of its own that comes with its files, which is not run unless you ask for it",
            "read that code, then ask with --trust-remote-code",
        )
    if what == "configuration":
        return InputError(f"no model can be made from the configuration of {model.name}: {text}", "check its values")
    return InputError(
        f"the {what} {model.name}{where} cannot be read, it may be damaged or incomplete: {text}",
        "download the model again, and check its size and checksum",
    )


def _unknown_architecture(model: Model, kind: Any) -> IncompatibleError:
    import transformers

    return IncompatibleError(
        f"{model.name} has the architecture {kind!r}, which transformers {transformers.__version__} does not know",
        "update transformers, or choose a model of a known architecture",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def package_folder(package: str, inside: str = "") -> Path | None:
    """Folder of an installed package that carries weights, found without importing it; None if not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / inside
