from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.core.decoding import NotANumber
from accel.core.errors import IncompatibleError, InputError, UnavailableError
from accel.core.registry import family_class
from accel.core.types import Item, Model, Options
from accel.families._stable import guidance_embedding
from tests.families.running import Running, package_file, random_model

diffusers = pytest.importorskip("diffusers")

TEXT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 50,
    "bos_token_id": 298,
    "eos_token_id": 299,
    "pad_token_id": 299,
}
UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
VAE = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 16,
}
NOTHING = "unconditional-image-generation"
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def tokenizer() -> Any:
    """A tokenizer of CLIP with letters only."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = {c: i for i, c in enumerate(letters)} | {f"{c}</w>": 100 + i for i, c in enumerate(letters)}
    vocab |= {"<|startoftext|>": 298, "<|endoftext|>": 299}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=50)


def pipeline(scheduler: str = "PNDMScheduler", **settings: Any) -> Any:
    """A whole Stable Diffusion with random weights."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)),
        tokenizer=tokenizer(),
        unet=diffusers.UNet2DConditionModel(**UNET),
        scheduler=getattr(diffusers, scheduler)(**{**STABLE, **settings}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_model(folder: Path, **more: Any) -> Model:
    config = json.loads((folder / "model_index.json").read_text())
    values = {"layout": "diffusers", "folder": folder, "weights": "pretrained", "name": "tiny", **more}
    return random_model("diffusion", "text-to-image", config, **values)


def noise(seed: int, index: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, index]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, "text-to-image"),
        ({"_class_name": "DDPMPipeline"}, NOTHING),
        ({"_class_name": "StableDiffusionXLPipeline"}, None),
        (
            {"onnx": {"inputs": ["noisy", "sigma", "difficulty"], "outputs": ["denoised"]}},
            NOTHING,
        ),
        ({"onnx": {"inputs": ["x"], "outputs": ["y"]}}, None),
        ({"model_type": "bert"}, None),
    ],
)
def test_the_task_follows_from_the_configuration(config: dict[str, Any], task: str | None) -> None:
    assert family_class("diffusion").infer_task(config) == task


class TestStableDiffusion:
    @pytest.mark.parametrize(
        ("scheduler", "settings"),
        [
            ("PNDMScheduler", {"skip_prk_steps": True}),
            ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
            ("EulerDiscreteScheduler", {}),
        ],
    )
    def test_images_equal_diffusers_for_the_same_noise(
        self, tmp_path: Path, scheduler: str, settings: dict[str, Any]
    ) -> None:
        import torch

        theirs = pipeline(scheduler, **settings)
        theirs.save_pretrained(tmp_path / "sd")
        running = Running(stable_model(tmp_path / "sd"), tmp_path / "m")
        prompts = ["a cat on a mat", "dog"]
        batch = running.encode([Item(i, text=t) for i, t in enumerate(prompts)])
        ours = np.stack(running.family.execute(running.session, batch, Options(seed=7, steps=4)))
        latents = torch.from_numpy(np.stack([noise(7, i, (4, 8, 8)) for i in range(2)]))
        theirs.set_progress_bar_config(disable=True)
        expected = theirs(prompts, latents=latents, num_inference_steps=4, guidance_scale=7.5, output_type="np").images
        np.testing.assert_allclose(np.clip(ours / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1), expected, atol=1e-3)
        assert np.abs(ours[0] - ours[1]).max() > 0.01

    def test_the_export_agrees_and_images_are_saved(self, tmp_path: Path) -> None:
        pipeline().save_pretrained(tmp_path / "sd")
        running = Running(stable_model(tmp_path / "sd"), tmp_path / "m")
        expected = running.comparable()
        options = Options(steps=2, seed=3, output_dir=tmp_path / "images")
        first = running.answer(options=options)
        running.session = running.onnx()
        np.testing.assert_allclose(running.comparable(), expected, atol=1e-4)
        (again,) = running.answer(options=options)
        (other,) = running.answer(options=Options(steps=2, seed=4, output_dir=tmp_path / "images"))
        pictures = [np.asarray(Image.open(a["image"])).astype(int) for a in (first[0], again, other)]
        assert pictures[0].shape == (16, 16, 3)
        assert (first[0]["width"], first[0]["height"], first[0]["seed"]) == (16, 16, 3)
        assert len({first[0]["image"], again["image"], other["image"]}) == 3
        assert np.abs(pictures[0] - pictures[1]).max() <= 1
        assert np.abs(pictures[0] - pictures[2]).max() > 1

    def test_a_row_does_not_depend_on_its_batch(self, tmp_path: Path) -> None:
        pipeline().save_pretrained(tmp_path / "sd")
        running = Running(stable_model(tmp_path / "sd"), tmp_path / "m")
        batch = running.encode([Item(0, text="cat"), Item(1, text="dog")])
        together = running.family.execute(running.session, batch, Options(steps=2))
        alone = running.family.execute(running.session, batch[1:], Options(steps=2))
        np.testing.assert_allclose(together[1], alone[0], atol=1e-4)

    def test_random_weights_run_without_a_tokenizer(self, tmp_path: Path) -> None:
        pipeline().save_pretrained(tmp_path / "sd")
        for path in (*(tmp_path / "sd").rglob("*.safetensors"), *(tmp_path / "sd" / "tokenizer").iterdir()):
            path.unlink()
        running = Running(stable_model(tmp_path / "sd", weights="random"), tmp_path / "m")
        assert "byte-level tokenizer" in " ".join(running.recipe.notes)
        (answer,) = running.answer(options=Options(steps=2, output_dir=tmp_path))
        assert Path(answer["image"]).is_file()

    def test_a_scheduler_that_is_not_implemented_gives_way_to_ddim_and_says_so(self, tmp_path: Path) -> None:
        pipeline("HeunDiscreteScheduler").save_pretrained(tmp_path / "sd")
        running = Running(stable_model(tmp_path / "sd"), tmp_path / "m")
        assert running.recipe.settings["scheduler"]["_class_name"] == "DDIMScheduler"
        assert "HeunDiscreteScheduler" in " ".join(running.recipe.notes)

    def test_latent_consistency_models_are_told_their_guidance(self, tmp_path: Path) -> None:
        import torch

        theirs = pipeline("LCMScheduler")
        torch.manual_seed(1)
        theirs.register_modules(unet=diffusers.UNet2DConditionModel(**UNET, time_cond_proj_dim=12))
        theirs.save_pretrained(tmp_path / "lcm")
        running = Running(stable_model(tmp_path / "lcm"), tmp_path / "m")
        assert "timestep_cond" in [t.name for t in running.recipe.graphs["unet"].inputs]
        assert running.recipe.settings["steps"] == 4
        (image,) = running.family.execute(running.session, running.encode([Item(text="cat")]), Options(steps=1))
        latents = torch.from_numpy(noise(0, 0, (1, 4, 8, 8)))
        lcm = diffusers.LatentConsistencyModelPipeline(
            **{k: getattr(theirs, k) for k in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")},
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        lcm.set_progress_bar_config(disable=True)
        expected = lcm("cat", latents=latents, num_inference_steps=1, guidance_scale=8.5, output_type="np").images[0]
        np.testing.assert_allclose(np.clip(image / 2 + 0.5, 0, 1).transpose(1, 2, 0), expected, atol=1e-3)

    def test_the_guidance_embedding_equals_diffusers(self) -> None:
        import torch

        expected = pipeline().get_guidance_scale_embedding(torch.tensor([7.5]), embedding_dim=15)[0].numpy()
        np.testing.assert_allclose(guidance_embedding(7.5, 15), expected, atol=1e-3)

    def test_nan_weights_are_said_not_painted(self, tmp_path: Path) -> None:
        import torch

        pipeline().save_pretrained(tmp_path / "sd")
        running = Running(stable_model(tmp_path / "sd"), tmp_path / "m")
        with torch.no_grad():
            next(iter(running.loaded.module.parameters())).fill_(float("nan"))
        with pytest.raises(NotANumber):
            running.answer(options=Options(steps=2, output_dir=tmp_path / "images"))
        assert not (tmp_path / "images").exists()

    def test_wrong_inputs_are_errors(self, tmp_path: Path) -> None:
        pipeline().save_pretrained(tmp_path / "sd")
        running = Running(stable_model(tmp_path / "sd"), tmp_path / "m")
        encoded = running.family.preprocess_inputs([Item(0), Item(1, text="x " * 80), Item(2, text="ok")], Options())
        assert [isinstance(e, InputError) for e in encoded] == [True, True, False]
        (cut,) = running.family.preprocess_inputs([Item(0, text="x " * 80)], Options(truncate=True))
        assert len(cut.ids) == 50
        with pytest.raises(InputError, match="2000 steps"):
            running.family.preprocess_inputs([Item(0, text="x")], Options(steps=2000))


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        pipeline().save_pretrained(tmp_path / "sd")
        return tmp_path / "sd"

    def test_truncated_weights(self, folder: Path, tmp_path: Path) -> None:
        (path,) = (folder / "unet").glob("*.safetensors")
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(InputError, match="unet"):
            Running(stable_model(folder), tmp_path / "m")

    def test_missing_and_damaged_configurations(self, folder: Path, tmp_path: Path) -> None:
        (folder / "vae" / "config.json").write_text("{")
        with pytest.raises(InputError, match="vae"):
            Running(stable_model(folder), tmp_path / "a")
        (folder / "scheduler" / "scheduler_config.json").unlink()
        (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
        with pytest.raises(IncompatibleError, match="AutoencoderTiny"):
            Running(stable_model(folder), tmp_path / "b")

    def test_a_missing_scheduler(self, folder: Path, tmp_path: Path) -> None:
        (folder / "scheduler" / "scheduler_config.json").unlink()
        with pytest.raises(UnavailableError, match="scheduler_config"):
            Running(stable_model(folder), tmp_path / "m")

    def test_other_pipelines_are_refused(self, folder: Path, tmp_path: Path) -> None:
        model = random_model(
            "diffusion", "text-to-image", {"_class_name": "FluxPipeline"}, layout="diffusers", folder=folder
        )
        with pytest.raises(IncompatibleError):
            Running(model, tmp_path / "m")


def test_unconditional_images_equal_diffusers(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler()).save_pretrained(tmp_path / "ddim")
    config = json.loads((tmp_path / "ddim" / "model_index.json").read_text())
    model = random_model(
        "diffusion",
        NOTHING,
        config,
        layout="diffusers",
        folder=tmp_path / "ddim",
        weights="pretrained",
    )
    running = Running(model, tmp_path / "m")
    (ours,) = running.family.execute(running.session, running.encode([Item()]), Options(seed=2, steps=3))
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(3)
    sample = torch.from_numpy(noise(2, 0, (1, 1, 8, 8)))
    for time in scheduler.timesteps:
        with torch.no_grad():
            sample = scheduler.step(unet(sample, time).sample, time, sample).prev_sample
    np.testing.assert_allclose(ours, sample[0].numpy(), atol=1e-3)
    (answer,) = running.answer(options=Options(steps=2, output_dir=tmp_path / "out"))
    assert np.asarray(Image.open(answer["image"])).shape == (8, 8)


class TestTerrain:
    @pytest.fixture
    def terrain(self, tmp_path: Path) -> Running:
        path = package_file("terrain_diffusion", "weights/terrain_consistency_unet_difficulty100.onnx")
        model = random_model(
            "diffusion",
            NOTHING,
            {},
            layout="onnx",
            folder=path.parent,
            files=(path.name,),
            weights="pretrained",
        )
        return Running(model, tmp_path / "m", "onnx")

    def test_harder_terrain_is_rougher_and_equals_the_packages(self, terrain: Running, tmp_path: Path) -> None:
        from terrain_diffusion import TerrainGenerator

        answers = terrain.answer(
            [Item(i, text=str(d)) for i, d in enumerate((5, 50, 95))], Options(output_dir=tmp_path)
        )
        rough = [a["roughness_m"] for a in answers]
        assert rough[0] < rough[1] < rough[2]
        generator = TerrainGenerator(device="cpu")
        values = generator._denoise(noise(0, 2, (1, 1, 128, 128)) * 80, np.array([80.0]), np.array([94 / 99]))
        expected = generator._from_model_space(values, zero_floor=True)[0]
        assert answers[2]["highest_m"] == pytest.approx(float(expected.max()), abs=1e-3)
        grey = np.asarray(Image.open(answers[2]["image"]))
        np.testing.assert_allclose(grey / 255, expected / expected.max(), atol=0.003)

    @pytest.mark.parametrize("text", ["0", "101", "high", "-3", "5.5"])
    def test_an_impossible_difficulty_is_an_input_error(self, terrain: Running, text: str) -> None:
        with pytest.raises(InputError, match="1 to 100"):
            terrain.encode([Item(text=text)])
