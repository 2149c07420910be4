from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel.core import schedulers
from accel.core.errors import IncompatibleError, InputError

diffusers = pytest.importorskip("diffusers")

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def settings_of(name: str, **changes: Any) -> tuple[Any, dict[str, Any]]:
    theirs = getattr(diffusers, name)(**changes)
    return theirs, {**dict(theirs.config), "_class_name": name}


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 25])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("DDIMScheduler", {**STABLE, "clip_sample": False, "set_alpha_to_one": False}),
        ("DDIMScheduler", {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
        ("DDIMScheduler", {"timestep_spacing": "linspace", "prediction_type": "sample", "clip_sample": False}),
        ("PNDMScheduler", {**STABLE, "skip_prk_steps": True, "set_alpha_to_one": False}),
        ("PNDMScheduler", {"skip_prk_steps": True, "prediction_type": "v_prediction", "timestep_spacing": "linspace"}),
        ("DDPMScheduler", {}),
        ("DDPMScheduler", {"variance_type": "fixed_large", "beta_schedule": "squaredcos_cap_v2", "clip_sample": False}),
        ("EulerDiscreteScheduler", STABLE),
        ("EulerDiscreteScheduler", {**STABLE, "timestep_spacing": "leading", "use_karras_sigmas": True}),
        (
            "EulerDiscreteScheduler",
            {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "final_sigmas_type": "sigma_min"},
        ),
        ("EulerAncestralDiscreteScheduler", {**STABLE, "timestep_spacing": "trailing"}),
        ("LCMScheduler", {**STABLE, "clip_sample": False}),
    ],
)
def test_samples_equal_diffusers(
    name: str, changes: dict[str, Any], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    import torch

    if name == "PNDMScheduler" and steps < 2:
        pytest.skip("PNDM needs two steps")
    random = np.random.default_rng(0)
    shape = (2, 4, 3, 3)
    noises = random.standard_normal((60, *shape)).astype(np.float32)
    theirs, settings = settings_of(name, **changes)
    module = importlib.import_module(type(theirs).__module__)
    drawn = iter(noises)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(next(drawn)))
    ours = schedulers.make(settings, steps)
    ours_drawn = iter(noises)
    theirs.set_timesteps(steps)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps.numpy(), atol=1e-3)
    assert ours.sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-4)

    def model(sample: np.ndarray[Any, Any], time: float) -> np.ndarray[Any, Any]:
        return np.tanh(sample * 0.7 + 0.1 * np.sin(time)).astype(np.float32)

    mine = random.standard_normal(shape).astype(np.float32) * np.float32(ours.sigma)
    other = torch.from_numpy(mine.copy())
    for index, time in enumerate(theirs.timesteps):
        seen = ours.scaled(mine, index)
        shown = theirs.scale_model_input(other, time)
        np.testing.assert_allclose(seen, shown.numpy(), atol=1e-4, rtol=1e-4)
        mine = ours.step(model(seen, float(time)), index, mine, lambda: next(ours_drawn))
        other = theirs.step(torch.from_numpy(model(shown.numpy(), float(time))), time, other).prev_sample
        np.testing.assert_allclose(mine, other.numpy(), atol=1e-3, rtol=1e-3, err_msg=f"step {index}")
    assert len(ours.timesteps) == len(theirs.timesteps)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("PNDMScheduler", {}, "Runge-Kutta"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "zero terminal"),
        ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, "use_exponential_sigmas"),
    ],
)
def test_settings_that_are_not_implemented_are_refused(name: str, changes: dict[str, Any], reason: str) -> None:
    _, settings = settings_of(name, **changes)
    with pytest.raises(IncompatibleError, match=reason):
        schedulers.make(settings, 4)


def test_unknown_schedulers_are_refused() -> None:
    assert not schedulers.known("HeunDiscreteScheduler")
    with pytest.raises(IncompatibleError, match="HeunDiscreteScheduler"):
        schedulers.make({"_class_name": "HeunDiscreteScheduler"}, 4)


@pytest.mark.parametrize(("name", "steps"), [("DDIMScheduler", 0), ("DDIMScheduler", 1001), ("LCMScheduler", 51)])
def test_an_impossible_number_of_steps_is_an_input_error(name: str, steps: int) -> None:
    _, settings = settings_of(name)
    with pytest.raises(InputError, match=f"{steps} steps"):
        schedulers.make(settings, steps)
