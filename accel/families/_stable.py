"""Latent and pixel diffusion in the layout of diffusers: text to image, and images out of nothing.

diffusers loads the weights on the cold path; later runs loop over the scheduler's steps in numpy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core import schedulers
from accel.core.contracts import LoadedModel, Session
from accel.core.errors import AccelError, InputError
from accel.core.images import save_png
from accel.core.tokenization import Tokenizer
from accel.core.types import Item, Model, Options
from accel.families._parts import Part
from accel.families._shared import encode_each, finite

if TYPE_CHECKING:
    from accel.core.contracts import Array

FROM_TEXT, FROM_NOTHING = "text-to-image", "unconditional-image-generation"
PROMPT = "a photograph of a cat sitting on a wooden table"
#: the defaults of diffusers' pipelines
STEPS, GUIDANCE = {FROM_TEXT: 50, FROM_NOTHING: 1000}, 7.5
LCM_STEPS, LCM_GUIDANCE = 4, 8.5


@dataclass(frozen=True)
class Wish:
    """An image to make. `length` counts pixels.

    Attributes:
        ids: the prompt's tokens, padded to the model's length; None where there is no prompt.
        index: seeds this image's noise, together with the user's seed.
    """

    index: int
    name: str
    length: int
    ids: tuple[int, ...] | None = None


class Sampler(Part):
    """The sampling loop, which all of the family's diffusers models share."""

    task: str

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, (channels, height, width)."""
        return tuple(self.settings["shape"])

    def steps(self, options: Options) -> int:
        """How many steps to take: the user's wish, or the model's own number."""
        return options.steps or int(self.settings["steps"])

    def sample(
        self, batch: Sequence[Wish], options: Options, predict: Callable[[Array, Array], Array], steps: int
    ) -> Array:
        """Runs the scheduler from noise to samples (batch, channels, height, width).

        Args:
            predict: the model's output for scaled samples and their time steps (batch,).
        """
        import numpy as np

        run = schedulers.make(self.settings["scheduler"], steps)
        random = [np.random.default_rng([options.seed, wish.index]) for wish in batch]

        def noise() -> Array:
            return np.stack([r.standard_normal(self.shape) for r in random]).astype(np.float32)

        sample: Array = (noise() * run.sigma).astype(np.float32)
        for index, time in enumerate(run.timesteps):
            seen = run.scaled(sample, index).astype(np.float32)
            output = predict(seen, np.full(len(batch), time, np.float32))
            sample = run.step(output, index, sample, noise).astype(np.float32)
        return sample

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        """Saves each image (channels, height, width), -1 to 1, as a PNG that was not there before."""
        import numpy as np

        results = []
        for row, wish in zip(outputs, batch, strict=True):
            pixels = (np.clip(finite(row) / 2 + 0.5, 0.0, 1.0) * 255).round().astype(np.uint8).transpose(1, 2, 0)
            if pixels.shape[2] == 1:
                pixels = pixels[:, :, 0]
            path = save_png(pixels, options.output_dir or Path(), f"{wish.name}-{options.seed}")
            results.append(
                {
                    "image": str(path),
                    "width": pixels.shape[1],
                    "height": pixels.shape[0],
                    "seed": options.seed,
                    "steps": self.steps(options),
                }
            )
        return results


class StableDiffusion(Sampler):
    """Rombach et al. 2022, https://arxiv.org/abs/2112.10752: text encoder, denoiser of latents, and their decoder."""

    name = "stable-diffusion"
    task = FROM_TEXT

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.families._stable_load import load_pipeline

        return load_pipeline(family, model, assets)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer, read on first use."""
        assert self.assets is not None
        return Tokenizer(self.assets, self.settings["tokenizer"])

    def example_items(self) -> list[Item]:
        return [Item(text=PROMPT)]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        schedulers.make(self.settings["scheduler"], self.steps(options))
        return encode_each(items, lambda item: self._wish(item, options))

    def _wish(self, item: Item, options: Options) -> Wish:
        if item.text is None:
            raise InputError(f"input {item.index + 1} has no text to paint", "give --input TEXT")
        stem = "-".join(re.findall(r"\w+", item.text.lower(), re.ASCII)[:6])[:48] or "image"
        height, width = self.settings["image"]
        return Wish(item.index, stem, height * width, self._padded(item.text, options.truncate))

    def _padded(self, text: str, truncate: bool) -> tuple[int, ...]:
        length = int(self.settings["length"])
        (found,) = self.tokenizer.encode([text], truncate=truncate, max_length=length)
        if isinstance(found, AccelError):
            raise found
        return (*found.ids, *[self.tokenizer.pad_id] * (length - found.length))

    @property
    def guided(self) -> bool:
        """Whether each step looks at the image with and without the prompt (classifier-free guidance)."""
        return self.settings["guidance"] > 1 and not self.settings["guidance_input"]

    def execute(
        self, session: Session, batch: Sequence[Wish], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        latents = self.sample(batch, options, self._predictor(session, batch), self.steps(options))
        return list(session.run("vae_decoder", {"latent_sample": latents})["sample"])

    def _predictor(self, session: Session, batch: Sequence[Wish]) -> Callable[[Array, Array], Array]:
        import numpy as np

        ids = np.array([wish.ids for wish in batch], np.int64)
        text = session.run("text_encoder", {"input_ids": ids})["hidden_states"]
        if self.guided:
            empty = np.array([self._padded("", True)], np.int64)
            nothing = session.run("text_encoder", {"input_ids": empty})["hidden_states"]
            text = np.concatenate([np.repeat(nothing, len(batch), axis=0), text])
        more: dict[str, Array] = {}
        if self.settings["guidance_input"]:
            embedding = guidance_embedding(self.settings["guidance"] - 1, int(self.settings["guidance_input"]))
            more["timestep_cond"] = np.repeat(embedding[None], len(batch), axis=0)

        def predict(sample: Array, times: Array) -> Array:
            if not self.guided:
                feeds = {"sample": sample, "timestep": times, "encoder_hidden_states": text, **more}
                return session.run("unet", feeds)["out_sample"]
            feeds = {
                "sample": np.concatenate([sample, sample]),
                "timestep": np.concatenate([times, times]),
                "encoder_hidden_states": text,
            }
            without, with_text = np.split(session.run("unet", feeds)["out_sample"], 2)
            return np.asarray(without + np.float32(self.settings["guidance"]) * (with_text - without))

        return predict

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        """The images of two steps."""
        import numpy as np

        latents = self.sample(batch, Options(), self._predictor(session, batch), 2)
        rows = session.run("vae_decoder", {"latent_sample": latents})["sample"]
        return np.reshape(rows, (len(batch), -1))


def guidance_embedding(weight: float, size: int) -> Array:
    """Sinusoidal embedding of the guidance scale, as latent consistency models are told it.

    https://github.com/google-research/vdm/blob/dc27b98a554f65cdc654b800da5aa1846545d41b/model_vdm.py#L298
    """
    import numpy as np

    half = size // 2
    frequencies = np.exp(np.arange(half) * -(np.log(10000.0) / (half - 1)))
    angles = weight * 1000.0 * frequencies
    embedding = np.concatenate([np.sin(angles), np.cos(angles)])
    return np.pad(embedding, (0, size - 2 * half)).astype(np.float32)


class Unconditional(Sampler):
    """Denoising diffusion of pixels, without any condition (Ho et al. 2020)."""

    name = "unconditional"
    task = FROM_NOTHING

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.families._stable_load import load_unconditional

        return load_unconditional(family, model)

    def example_items(self) -> list[Item]:
        return [Item()]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        schedulers.make(self.settings["scheduler"], self.steps(options))
        return [Wish(item.index, "image", self.shape[1] * self.shape[2]) for item in items]

    def execute(
        self, session: Session, batch: Sequence[Wish], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        return list(self.sample(batch, options, self._predictor(session), self.steps(options)))

    @staticmethod
    def _predictor(session: Session) -> Callable[[Array, Array], Array]:
        return lambda sample, times: session.run("unet", {"sample": sample, "timestep": times})["out_sample"]

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        """The images of two steps."""
        import numpy as np

        return np.reshape(self.sample(batch, Options(), self._predictor(session), 2), (len(batch), -1))
