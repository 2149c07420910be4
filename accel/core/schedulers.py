"""Schedulers of diffusion models in numpy: which noise levels are visited, and how a sample gets from one to the next.

They follow diffusers' classes of the same names and take their settings (`scheduler_config.json`, completed).
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from accel.core.errors import IncompatibleError, InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    #: fresh normal noise of the sample's shape
    Noise = Callable[[], "Array"]


def _spaced(settings: Mapping[str, Any], steps: int, default: str) -> Array:
    """Descending time steps, float64. Lin et al. 2023, table 2 (https://arxiv.org/abs/2305.08891)."""
    import numpy as np

    train = int(settings["num_train_timesteps"])
    if not 1 <= steps <= train:
        raise InputError(
            f"{steps} steps are not possible: the model knows 1 to {train}", "choose --steps in that range"
        )
    spacing = settings.get("timestep_spacing") or default
    if spacing == "linspace":
        return np.linspace(0, train - 1, steps)[::-1]
    if spacing == "leading":
        return (np.arange(steps) * (train // steps)).astype(np.float64)[::-1] + int(settings.get("steps_offset") or 0)
    if spacing == "trailing":
        return np.round(np.arange(train, 0, -train / steps)) - 1
    raise IncompatibleError(f"the timestep spacing {spacing!r} is not supported", "use linspace, leading or trailing")


def _cumulative_alphas(settings: Mapping[str, Any]) -> Array:
    """Products of 1 - beta (train steps,), float64."""
    import numpy as np

    train, kind = int(settings["num_train_timesteps"]), settings.get("beta_schedule", "linear")
    if settings.get("trained_betas") is not None:
        betas: Array = np.asarray(settings["trained_betas"], dtype=np.float64)
    elif kind == "linear":
        betas = np.linspace(settings["beta_start"], settings["beta_end"], train)
    elif kind == "scaled_linear":
        betas = np.linspace(settings["beta_start"] ** 0.5, settings["beta_end"] ** 0.5, train) ** 2
    elif kind == "squaredcos_cap_v2":
        bars = np.cos((np.arange(train + 1) / train + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - bars[1:] / bars[:-1], 0.999)
    else:
        raise IncompatibleError(f"the beta schedule {kind!r} is not supported", "use linear or scaled_linear")
    if settings.get("rescale_betas_zero_snr"):
        raise IncompatibleError("betas rescaled to zero terminal SNR are not supported", "choose another model")
    return np.cumprod(1.0 - betas)


class Scheduler(ABC):
    """One sampling run of a fixed number of steps.

    Args:
        settings: the scheduler's settings. steps: how many steps the user asked for.

    Attributes:
        timesteps: what the model is told at each call, in order; there may be more calls than steps.
        sigma: standard deviation of the noise that a run begins with.
    """

    name: ClassVar[str]
    spacing: ClassVar[str] = "leading"

    def __init__(self, settings: Mapping[str, Any], steps: int) -> None:
        self.settings = settings
        self.steps = steps
        self.alphas = _cumulative_alphas(settings)
        self.sigma = 1.0
        self.timesteps = self._times()

    def _times(self) -> Array:
        return _spaced(self.settings, self.steps, self.spacing).round().astype(int)

    def scaled(self, sample: Array, index: int) -> Array:
        """The sample as the model wants to see it at call `index`."""
        return sample

    @abstractmethod
    def step(self, output: Array, index: int, sample: Array, noise: Noise) -> Array:
        """The next sample, from the model's output at call `index`."""

    def _clean(self, output: Array, sample: Array, alpha: float) -> Array:
        """The noiseless sample that the model's output implies."""
        import numpy as np

        kind = self.settings.get("prediction_type", "epsilon")
        if kind == "epsilon":
            clean = (sample - math.sqrt(1 - alpha) * output) / math.sqrt(alpha)
        elif kind == "v_prediction":
            clean = math.sqrt(alpha) * sample - math.sqrt(1 - alpha) * output
        elif kind == "sample":
            clean = output
        else:
            raise IncompatibleError(f"the prediction type {kind!r} is not supported", "use epsilon or v_prediction")
        if self.settings.get("thresholding"):
            raise IncompatibleError("dynamic thresholding is not supported", "choose another scheduler")
        if self.settings.get("clip_sample"):
            reach = float(self.settings.get("clip_sample_range") or 1.0)
            clean = np.clip(clean, -reach, reach)
        return np.asarray(clean)

    def _final_alpha(self) -> float:
        return 1.0 if self.settings.get("set_alpha_to_one", True) else float(self.alphas[0])


class Ddim(Scheduler):
    """Song et al. 2020, https://arxiv.org/abs/2010.02502, without added noise (eta 0)."""

    name = "DDIMScheduler"

    def step(self, output: Array, index: int, sample: Array, noise: Noise) -> Array:
        time = int(self.timesteps[index])
        before = time - int(self.settings["num_train_timesteps"]) // self.steps
        alpha = float(self.alphas[time])
        previous = float(self.alphas[before]) if before >= 0 else self._final_alpha()
        clean = self._clean(output, sample, alpha)
        kind = self.settings.get("prediction_type", "epsilon")
        if kind == "epsilon":
            epsilon = output
        elif kind == "v_prediction":
            epsilon = math.sqrt(alpha) * output + math.sqrt(1 - alpha) * sample
        else:
            epsilon = (sample - math.sqrt(alpha) * clean) / math.sqrt(1 - alpha)
        return math.sqrt(previous) * clean + math.sqrt(1 - previous) * epsilon


class Pndm(Scheduler):
    """The linear multistep part of Liu et al. 2022, https://arxiv.org/abs/2202.09778, as Stable Diffusion uses it."""

    name = "PNDMScheduler"

    def __init__(self, settings: Mapping[str, Any], steps: int) -> None:
        super().__init__(settings, steps)
        if not settings.get("skip_prk_steps"):
            raise IncompatibleError("Runge-Kutta steps of PNDM are not supported", "set skip_prk_steps")
        self._outputs: list[Array] = []
        self._first: Array | None = None

    def _times(self) -> Array:
        import numpy as np

        if self.steps < 2:
            raise InputError("PNDM needs at least 2 steps", "use --steps 2 or more")
        times = super()._times()
        return np.concatenate([times[:1], times[1:2], times[1:2], times[2:]])

    def step(self, output: Array, index: int, sample: Array, noise: Noise) -> Array:
        stride = int(self.settings["num_train_timesteps"]) // self.steps
        time = int(self.timesteps[index])
        before = time - stride
        if index == 1:
            before, time = time, time + stride
        else:
            self._outputs = [*self._outputs[-3:], output]
        past = self._outputs
        if index == 0:
            self._first = sample
        elif index == 1:
            assert self._first is not None
            output, sample = (output + past[-1]) / 2, self._first
        elif len(past) == 2:
            output = (3 * past[-1] - past[-2]) / 2
        elif len(past) == 3:
            output = (23 * past[-1] - 16 * past[-2] + 5 * past[-3]) / 12
        else:
            output = (55 * past[-1] - 59 * past[-2] + 37 * past[-3] - 9 * past[-4]) / 24
        return self._transfer(sample, time, before, output)

    def _transfer(self, sample: Array, time: int, before: int, output: Array) -> Array:
        alpha = float(self.alphas[time])
        final = 1.0 if self.settings.get("set_alpha_to_one") else float(self.alphas[0])
        previous = float(self.alphas[before]) if before >= 0 else final
        if self.settings.get("prediction_type") == "v_prediction":
            output = math.sqrt(alpha) * output + math.sqrt(1 - alpha) * sample
        divisor = alpha * math.sqrt(1 - previous) + math.sqrt(alpha * (1 - alpha) * previous)
        return math.sqrt(previous / alpha) * sample - (previous - alpha) * output / divisor


class Ddpm(Scheduler):
    """Ho et al. 2020, https://arxiv.org/abs/2006.11239."""

    name = "DDPMScheduler"

    def step(self, output: Array, index: int, sample: Array, noise: Noise) -> Array:
        time = int(self.timesteps[index])
        before = time - int(self.settings["num_train_timesteps"]) // self.steps
        alpha = float(self.alphas[time])
        previous = float(self.alphas[before]) if before >= 0 else 1.0
        beta = 1 - alpha / previous
        clean = self._clean(output, sample, alpha)
        mean = (math.sqrt(previous) * beta * clean + math.sqrt(alpha / previous) * (1 - previous) * sample) / (
            1 - alpha
        )
        if time == 0:
            return mean
        variance = max((1 - previous) / (1 - alpha) * beta, 1e-20)
        kind = self.settings.get("variance_type", "fixed_small")
        if kind == "fixed_large":
            variance = beta
        elif kind != "fixed_small":
            raise IncompatibleError(f"the variance {kind!r} is not supported", "use fixed_small or fixed_large")
        return mean + math.sqrt(variance) * noise()


class Euler(Scheduler):
    """Algorithm 2 of Karras et al. 2022, https://arxiv.org/abs/2206.00364, without churn."""

    name = "EulerDiscreteScheduler"
    spacing = "linspace"

    def __init__(self, settings: Mapping[str, Any], steps: int) -> None:
        import numpy as np

        super().__init__(settings, steps)
        wrong = [k for k in ("use_exponential_sigmas", "use_beta_sigmas") if settings.get(k)]
        if settings.get("interpolation_type", "linear") != "linear" or settings.get("timestep_type") == "continuous":
            wrong.append("its interpolation or continuous time")
        if wrong:
            raise IncompatibleError(f"{self.name} with {', '.join(wrong)} is not supported", "choose another scheduler")
        every = ((1 - self.alphas) / self.alphas) ** 0.5
        sigmas = np.interp(self.timesteps, np.arange(len(every)), every)
        if settings.get("use_karras_sigmas"):
            low, high = sigmas[-1] ** (1 / 7), sigmas[0] ** (1 / 7)
            sigmas = (high + np.linspace(0, 1, steps) * (low - high)) ** 7
            self.timesteps = np.interp(np.log(sigmas), np.log(every), np.arange(len(every)))
        last = every[0] if settings.get("final_sigmas_type") == "sigma_min" else 0.0
        self.sigmas = np.append(sigmas, last)
        top = float(self.sigmas.max())
        even = (settings.get("timestep_spacing") or self.spacing) in ("linspace", "trailing")
        self.sigma = top if even else math.sqrt(top**2 + 1)

    def _times(self) -> Array:
        return _spaced(self.settings, self.steps, self.spacing)

    def scaled(self, sample: Array, index: int) -> Array:
        return sample / math.sqrt(float(self.sigmas[index]) ** 2 + 1)

    def _denoised(self, output: Array, sample: Array, sigma: float) -> Array:
        kind = self.settings.get("prediction_type", "epsilon")
        if kind == "epsilon":
            return sample - sigma * output
        if kind == "v_prediction":
            return output * (-sigma / math.sqrt(sigma**2 + 1)) + sample / (sigma**2 + 1)
        if kind == "sample":
            return output
        raise IncompatibleError(f"the prediction type {kind!r} is not supported", "use epsilon or v_prediction")

    def step(self, output: Array, index: int, sample: Array, noise: Noise) -> Array:
        sigma, following = float(self.sigmas[index]), float(self.sigmas[index + 1])
        return sample + (sample - self._denoised(output, sample, sigma)) / sigma * (following - sigma)


class EulerAncestral(Euler):
    """Euler steps to less noise than wanted, and noise added to the wanted level (k-diffusion's ancestral sampling)."""

    name = "EulerAncestralDiscreteScheduler"

    def step(self, output: Array, index: int, sample: Array, noise: Noise) -> Array:
        sigma, following = float(self.sigmas[index]), float(self.sigmas[index + 1])
        up = math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
        down = math.sqrt(following**2 - up**2)
        moved = sample + (sample - self._denoised(output, sample, sigma)) / sigma * (down - sigma)
        return moved + noise() * up if up > 0 else moved


class Lcm(Scheduler):
    """Latent consistency models, Luo et al. 2023, https://arxiv.org/abs/2310.04378."""

    name = "LCMScheduler"

    def _times(self) -> Array:
        import numpy as np

        train, original = int(self.settings["num_train_timesteps"]), int(self.settings["original_inference_steps"])
        if not 1 <= self.steps <= original:
            raise InputError(
                f"{self.steps} steps are not possible: the model was distilled to 1 to {original}",
                "choose --steps in that range",
            )
        origin = (np.arange(1, original + 1) * (train // original) - 1)[::-1]
        chosen: Array = origin[np.floor(np.linspace(0, len(origin), self.steps, endpoint=False)).astype(int)]
        return chosen

    def step(self, output: Array, index: int, sample: Array, noise: Noise) -> Array:
        time = int(self.timesteps[index])
        last = index + 1 == len(self.timesteps)
        scaled = time * float(self.settings.get("timestep_scaling") or 10.0)
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)
        denoised = out * self._clean(output, sample, float(self.alphas[time])) + skip * sample
        if last:
            return denoised
        previous = float(self.alphas[int(self.timesteps[index + 1])])
        return math.sqrt(previous) * denoised + math.sqrt(1 - previous) * noise()


CLASSES: tuple[type[Scheduler], ...] = (Ddim, Pndm, Ddpm, Euler, EulerAncestral, Lcm)


@functools.cache
def _by_name() -> dict[str, type[Scheduler]]:
    return {found.name: found for found in CLASSES}


def known(name: str) -> bool:
    """Whether a scheduler class of diffusers is implemented here."""
    return name in _by_name()


def make(settings: Mapping[str, Any], steps: int) -> Scheduler:
    """A run of the scheduler that the settings name under `_class_name`.

    Raises:
        IncompatibleError: it, or one of its settings, is not implemented. InputError: an impossible number of steps.
    """
    name = str(settings.get("_class_name"))
    if not known(name):
        raise IncompatibleError(
            f"the scheduler {name} is not supported", f"use one of: {', '.join(sorted(_by_name()))}"
        )
    return _by_name()[name](settings, steps)
