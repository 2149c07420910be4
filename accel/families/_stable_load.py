"""The torch side of diffusers models: loading their parts and wrapping them as graphs. Cold path only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accel.core import schedulers
from accel.core.contracts import LoadedModel, TorchGraph
from accel.core.errors import AccelError, IncompatibleError, InputError, UnavailableError
from accel.core.types import GraphSpec, Model, Recipe, TensorSpec
from accel.families._shared import module_from
from accel.families._stable import FROM_NOTHING, FROM_TEXT, GUIDANCE, LCM_GUIDANCE, LCM_STEPS, STEPS

BATCH = 2


def load_pipeline(family: str, model: Model, assets: Path) -> LoadedModel:
    """A text encoder, a denoiser and a decoder of latents.

    Raises:
        UnavailableError: diffusers is not installed. InputError: damaged files. IncompatibleError: another pipeline.
    """
    from accel.core.tokenization import freeze, freeze_substitute
    from accel.core.torch_models import load, load_tokenizer

    folder = _folder(model)
    encoder_config = _read(folder / "text_encoder" / "config.json")
    part = dataclasses.replace(
        model, folder=folder / "text_encoder", config=encoder_config, layout="transformers", entry={}
    )
    encoder = load(part, "CLIPTextModel").module
    unet = _part(model, "unet", "UNet2DConditionModel")
    vae = _part(model, "vae", "AutoencoderKL")
    if unet.config.get("addition_embed_type") or unet.config.get("class_embed_type"):
        raise IncompatibleError(
            f"{model.name} has a denoiser with further conditions, which is not supported",
            "use Stable Diffusion 1 or 2",
        )
    own = encoder.config
    length = int(own.max_position_embeddings)
    tokenizer = load_tokenizer(dataclasses.replace(part, folder=folder / "tokenizer"))
    ids = {"pad": own.pad_token_id, "bos": own.bos_token_id, "eos": own.eos_token_id}
    frozen = (
        freeze(tokenizer, assets, max_length=length)
        if tokenizer is not None
        else freeze_substitute(assets, int(own.vocab_size), ids, kind="encoder", max_length=length)
    )
    scheduler, remarks = _scheduler(folder)
    condition = unet.config.get("time_cond_proj_dim")
    graphs = {
        "text_encoder": _text_graph(encoder, length),
        "unet": _unet_graph(unet, (length, int(own.hidden_size)), condition),
        "vae_decoder": _decoder_graph(vae, unet),
    }
    side = int(graphs["vae_decoder"].spec.outputs[0].axes[2]), int(graphs["vae_decoder"].spec.outputs[0].axes[3])
    distilled = scheduler["_class_name"] == "LCMScheduler"
    settings: dict[str, Any] = {
        "tokenizer": frozen.settings,
        "scheduler": scheduler,
        "shape": [int(a) for a in graphs["unet"].spec.inputs[0].axes[1:]],
        "image": list(side),
        "length": length,
        "steps": int(model.entry.get("steps") or (LCM_STEPS if distilled else STEPS[FROM_TEXT])),
        "guidance": float(model.entry.get("guidance") or (LCM_GUIDANCE if condition else 1 if distilled else GUIDANCE)),
        "guidance_input": int(condition or 0),
    }
    if _named(model, "safety_checker"):
        remarks = (*remarks, "the model's safety checker is not run")
    specs = {name: graph.spec for name, graph in graphs.items()}
    notes = (*frozen.notes, *remarks)
    return LoadedModel(graphs, Recipe(family, FROM_TEXT, specs, settings, ("tokenizer.json",), notes), unet)


def load_unconditional(family: str, model: Model) -> LoadedModel:
    """A denoiser of pixels. Errors as in `load_pipeline`."""
    unet = _part(model, "unet", "UNet2DModel")
    scheduler, remarks = _scheduler(_folder(model))
    if unet.config.get("class_embed_type") or unet.config.get("num_class_embeds"):
        raise IncompatibleError(f"{model.name} wants a class of image, which is not supported", "choose another model")
    graph = _unet_graph(unet, None, None)
    settings: dict[str, Any] = {
        "scheduler": scheduler,
        "shape": [int(a) for a in graph.spec.inputs[0].axes[1:]],
        "steps": int(
            model.entry.get("steps") or (50 if scheduler["_class_name"] != "DDPMScheduler" else STEPS[FROM_NOTHING])
        ),
    }
    return LoadedModel({"unet": graph}, Recipe(family, FROM_NOTHING, {"unet": graph.spec}, settings, (), remarks), unet)


def _folder(model: Model) -> Path:
    if model.folder is None:
        raise UnavailableError(f"{model.name} has no files", "name a folder in the layout of diffusers")
    return model.folder


def _named(model: Model, part: str) -> bool:
    """Whether the pipeline has this part."""
    value = model.config.get(part)
    return isinstance(value, list) and any(v is not None for v in value)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnavailableError(f"{path} is missing", "get the whole model again") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", "get the model's files again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a JSON object", "get the model's files again")
    return data


def _part(model: Model, name: str, kind: str) -> Any:
    """One part of the pipeline as a module (fp32, eval, without gradients)."""
    import torch

    from accel.core.torch_models import RANDOM_SEED, quiet

    try:
        import diffusers
    except ImportError as error:
        raise UnavailableError(
            f"{model.name} is a model of diffusers, which is not installed", "pip install 'ipfs-accel[diffusion]'"
        ) from error
    folder = _folder(model) / name
    config = _read(folder / "config.json")
    found = config.get("_class_name", kind)
    if found != kind:
        raise IncompatibleError(
            f"{model.name} has a {found} as its {name}, and only {kind} is supported", "try another model"
        )
    try:
        with quiet():
            if model.weights == "random":
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(RANDOM_SEED)
                    module = getattr(diffusers, kind).from_config(config)
            else:
                module = getattr(diffusers, kind).from_pretrained(
                    str(folder), local_files_only=True, torch_dtype=torch.float32
                )
    except AccelError:
        raise
    except Exception as error:  # safetensors, torch and diffusers raise unrelated exceptions on damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"the {name} of {model.name} in {folder} cannot be read: {reason}",
            "download the model again, and check its size and checksum",
        ) from error
    module.eval().requires_grad_(False)
    return module


def _scheduler(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Complete settings of the model's scheduler, or of DDIM where it has one that is not implemented, and notes."""
    import diffusers

    given = _read(folder / "scheduler" / "scheduler_config.json")
    name = str(given.get("_class_name"))
    notes: tuple[str, ...] = ()
    if not schedulers.known(name) or (name == "PNDMScheduler" and not given.get("skip_prk_steps")):
        notes = (f"DDIM in place of the model's own scheduler, {name}, which is not implemented",)
        name = "DDIMScheduler"
    complete = dict(getattr(diffusers, name).from_config(given).config)
    settings = json.loads(json.dumps(complete, default=str))
    settings = {k: v for k, v in settings.items() if not k.startswith("_")} | {"_class_name": name}
    schedulers.make(settings, 2)
    return settings, notes


def _graph(
    name: str,
    module: Any,
    call: Callable[..., Any],
    inputs: tuple[TensorSpec, ...],
    output: str,
    example: dict[str, Any],
) -> TorchGraph:
    """A graph with one output whose shape is found by running it."""
    import torch

    with torch.no_grad():
        shape = call(module, *example.values())[0].shape
    spec = GraphSpec(name, inputs, (TensorSpec(output, "float32", ("batch", *map(int, shape[1:]))),))
    return TorchGraph(spec, module_from(module, call), example)


def _text_graph(encoder: Any, length: int) -> TorchGraph:
    import torch

    ids = (torch.arange(BATCH * length).reshape(BATCH, length) * 7 + 3) % int(encoder.config.vocab_size)
    inputs = (TensorSpec("input_ids", "int64", ("batch", length)),)
    return _graph(
        "text_encoder",
        encoder,
        lambda m, tokens: (m(input_ids=tokens).last_hidden_state,),
        inputs,
        "hidden_states",
        {"input_ids": ids},
    )


def _sides(unet: Any) -> tuple[int, int]:
    size = unet.config.sample_size
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _unet_graph(unet: Any, text: tuple[int, int] | None, condition: int | None) -> TorchGraph:
    import torch

    random = torch.Generator().manual_seed(0)
    height, width = _sides(unet)
    channels = int(unet.config.in_channels)
    example: dict[str, Any] = {
        "sample": torch.randn((BATCH, channels, height, width), generator=random),
        "timestep": torch.tensor([500.0, 3.0]),
    }
    inputs = [
        TensorSpec("sample", "float32", ("batch", channels, height, width)),
        TensorSpec("timestep", "float32", ("batch",)),
    ]
    if text is not None:
        inputs.append(TensorSpec("encoder_hidden_states", "float32", ("batch", *text)))
        example["encoder_hidden_states"] = torch.randn((BATCH, *text), generator=random)
    if condition:
        inputs.append(TensorSpec("timestep_cond", "float32", ("batch", condition)))
        example["timestep_cond"] = torch.randn((BATCH, condition), generator=random)

    def call(m: Any, sample: Any, timestep: Any, *more: Any) -> tuple[Any, ...]:
        options: dict[str, Any] = {"return_dict": False}
        if text is not None:
            options["encoder_hidden_states"] = more[0]
        if condition:
            options["timestep_cond"] = more[1]
        return (m(sample, timestep, **options)[0],)

    return _graph("unet", unet, call, tuple(inputs), "out_sample", example)


def _decoder_graph(vae: Any, unet: Any) -> TorchGraph:
    import torch

    height, width = _sides(unet)
    channels, scale = int(vae.config.latent_channels), float(vae.config.scaling_factor)
    shift = float(vae.config.get("shift_factor") or 0.0)
    latents = torch.randn((BATCH, channels, height, width), generator=torch.Generator().manual_seed(0))

    def call(m: Any, sample: Any) -> tuple[Any, ...]:
        return (m.decode(sample / scale + shift, return_dict=False)[0],)

    inputs = (TensorSpec("latent_sample", "float32", ("batch", channels, height, width)),)
    return _graph("vae_decoder", vae, call, inputs, "sample", {"latent_sample": latents})
