from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core import sound_settings, sounds
from accel.core.errors import IncompatibleError, InputError, UnavailableError
from accel.core.mel import SoundProcessor
from accel.core.sounds import load_sound, quiet_cuts, resample, resample_sinc
from accel.families._shared import EXAMPLE_SOUND

Array = np.ndarray[Any, Any]
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)).astype(np.float32)


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body) if size is None else size) + b"WAVE" + body


def form(kind: int, channels: int, rate: int, bits: int) -> bytes:
    return struct.pack("<HHIIHH", kind, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)


def encoded(samples: Array, kind: int, bits: int) -> bytes:
    if kind == 3:
        return samples.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return (samples * 127 + 128).round().astype(np.uint8).tobytes()
    whole = (samples.astype(np.float64) * (2 ** (bits - 1) - 1)).round().astype("<i4")
    if bits == 24:
        return whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return whole.astype(f"<i{bits // 8}").tobytes()


@pytest.mark.parametrize(
    ("kind", "bits", "tolerance"),
    [(1, 8, 0.01), (1, 16, 1e-4), (1, 24, 1e-6), (1, 32, 1e-6), (3, 32, 0), (3, 64, 1e-7)],
)
def test_every_kind_of_wav_is_read(tmp_path: Path, kind: int, bits: int, tolerance: float) -> None:
    (tmp_path / "a.wav").write_bytes(riff((b"fmt ", form(kind, 1, 16000, bits)), (b"data", encoded(TONE, kind, bits))))
    found = load_sound(tmp_path / "a.wav", 16000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, TONE, atol=tolerance)


def test_channels_are_averaged_and_other_chunks_skipped(tmp_path: Path) -> None:
    stereo = np.stack([TONE, -TONE * 0.5], axis=1).ravel()
    content = riff(
        (b"LIST", b"odd"), (b"fmt ", form(3, 2, 16000, 32)), (b"fact", b"1234"), (b"data", encoded(stereo, 3, 32))
    )
    (tmp_path / "a.wav").write_bytes(content)
    np.testing.assert_allclose(load_sound(tmp_path / "a.wav", 16000), TONE * 0.25, atol=1e-6)


def test_extensible_headers_and_unknown_sizes_are_read(tmp_path: Path) -> None:
    extensible = form(0xFFFE, 1, 16000, 16) + struct.pack("<HHIH", 22, 16, 4, 1) + b"\0" * 14
    data = encoded(TONE, 1, 16)
    (tmp_path / "a.wav").write_bytes(riff((b"fmt ", extensible), (b"data", data)))
    streamed = riff((b"fmt ", form(1, 1, 16000, 16))) + b"data" + struct.pack("<I", 0xFFFFFFFF) + data
    (tmp_path / "b.wav").write_bytes(streamed)
    for name in ("a.wav", "b.wav"):
        np.testing.assert_allclose(load_sound(tmp_path / name, 16000), TONE, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (riff((b"fmt ", form(1, 1, 16000, 16))), "without samples"),
        (riff((b"fmt ", form(1, 1, 16000, 16)), (b"data", b"")), "no samples"),
        (riff((b"data", b"1234")), "before their format"),
        (riff((b"fmt ", form(1, 1, 16000, 16)), (b"data", encoded(TONE, 1, 16)))[:-100], "truncated"),
        (riff((b"fmt ", b"\1\0"), (b"data", b"12")), "cut short"),
        (riff((b"fmt ", form(85, 1, 16000, 16)), (b"data", b"12")), "of a kind"),
        (riff((b"fmt ", form(1, 0, 16000, 16)), (b"data", b"12")), "0 channels"),
        (riff((b"fmt ", form(1, 1, 0, 16)), (b"data", b"12")), "at 0 Hz"),
        (riff((b"fmt ", form(3, 1, 16000, 32)), (b"data", struct.pack("<ff", 0, float("nan")))), "not numbers"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "not a sound"),
        (b"hello world, this is text", "not a sound"),
    ],
)
def test_bad_files_are_input_errors_with_their_path(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_sound(tmp_path / "bad.wav", 16000)
    assert "bad.wav" in caught.value.message


def test_missing_files_and_folders_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sound file"):
        load_sound(tmp_path / "none.wav", 16000)
    with pytest.raises(InputError, match="folder"):
        load_sound(tmp_path, 16000)


def test_a_huge_file_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "huge.wav"
    size = 3 * 3600 * 16000 * 2
    head = riff((b"fmt ", form(1, 1, 16000, 16)))
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", size))
        file.truncate(len(head) + 8 + size)
    with pytest.raises(InputError, match=r"3\.0 hours"):
        load_sound(path, 16000)


def test_damaged_headers_never_end_in_another_error(tmp_path: Path) -> None:
    whole = EXAMPLE_SOUND.read_bytes()[:4000]
    random = np.random.default_rng(1)
    for attempt in range(200):
        broken = bytearray(whole)
        for place in random.integers(12, 60, 4):
            broken[place] = int(random.integers(0, 256))
        path = tmp_path / f"{attempt}.wav"
        path.write_bytes(broken)
        try:
            load_sound(path, 16000)
        except InputError as error:
            assert path.name in error.message


class TestOtherFormats:
    @pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.aiff"])
    def test_soundfile_reads_them(self, tmp_path: Path, name: str) -> None:
        soundfile = pytest.importorskip("soundfile")
        soundfile.write(tmp_path / name, np.stack([TONE, TONE], axis=1), 16000)
        found = load_sound(tmp_path / name, 16000)
        assert len(found) == len(TONE)
        assert float(np.corrcoef(found, TONE)[0, 1]) > 0.99

    def test_without_soundfile_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "soundfile", None)
        (tmp_path / "a.flac").write_bytes(b"fLaC" + b"\0" * 100)
        with pytest.raises(UnavailableError, match="soundfile") as caught:
            load_sound(tmp_path / "a.flac", 16000)
        assert "ipfs-accel[audio]" in caught.value.hint


class TestResampling:
    @pytest.mark.parametrize(
        ("source", "target"), [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 44100), (11025, 16000)]
    )
    def test_tones_stay_and_what_is_above_goes(self, source: int, target: int) -> None:
        times = np.arange(source) / source
        low = (np.sin(2 * np.pi * 440 * times) + 0.5 * np.sin(2 * np.pi * 3000 * times)).astype(np.float32)
        found = resample_sinc(low, source, target)
        there = np.arange(len(found)) / target
        ideal = np.sin(2 * np.pi * 440 * there) + 0.5 * np.sin(2 * np.pi * 3000 * there)
        assert len(found) == target
        assert np.abs(found - ideal)[1000:-1000].max() < 1e-5
        if target < source:
            high = np.sin(2 * np.pi * (target / 2 + 1200) * times).astype(np.float32)
            assert np.abs(resample_sinc(high, source, target))[1000:-1000].max() < 1e-5

    def test_numpy_agrees_with_soxr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("soxr")
        speech = load_sound(EXAMPLE_SOUND, 16000)
        with_soxr = resample(speech, 16000, 11025)
        monkeypatch.setitem(sys.modules, "soxr", None)
        without = resample(speech, 16000, 11025)
        assert abs(len(with_soxr) - len(without)) <= 1
        n = min(len(with_soxr), len(without))
        assert float(np.corrcoef(with_soxr[:n], without[:n])[0, 1]) > 0.9999

    def test_short_sounds_and_the_same_rate(self) -> None:
        assert resample(TONE, 16000, 16000) is TONE
        for length in (1, 2, 7):
            assert len(resample_sinc(TONE[:length], 44100, 16000)) == -(-length * 160 // 441)


class TestFeatures:
    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("Whisper", {}),
            ("Whisper", {"feature_size": 128}),
            ("Whisper", {"chunk_length": 10}),
            ("Wav2Vec2", {"do_normalize": True}),
            ("Wav2Vec2", {"do_normalize": False}),
            ("AST", {}),
            ("AST", {"max_length": 100, "num_mel_bins": 64, "mean": -3.0, "std": 2.0}),
        ],
    )
    def test_speech_gives_transformers_features(self, tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
        import transformers

        reference = getattr(transformers, f"{name}FeatureExtractor")(**settings)
        reference.save_pretrained(tmp_path)
        processor = SoundProcessor(sound_settings.freeze(tmp_path, {}))
        speech = load_sound(EXAMPLE_SOUND, 16000)
        for samples in (speech, speech[:5000], np.tile(speech, 12)):
            outputs = reference(samples, sampling_rate=16000, return_tensors="np")
            expected = outputs[reference.model_input_names[0]][0]
            np.testing.assert_allclose(processor(samples), expected, atol=1e-4)

    def test_defaults_follow_the_model(self) -> None:
        assert sound_settings.freeze(None, {"model_type": "whisper", "num_mel_bins": 128})["feature_size"] == 128
        assert sound_settings.freeze(None, {"model_type": "hubert"})["kind"] == "Wav2Vec2"

    def test_unknown_extractors_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "ClapFeatureExtractor"}')
        with pytest.raises(IncompatibleError, match="Clap"):
            sound_settings.freeze(tmp_path, {})


def test_long_sounds_are_cut_where_they_are_quiet() -> None:
    loud = np.random.default_rng(0).standard_normal(10 * 1000).astype(np.float32)
    loud[3200:3400] = 0
    loud[6100:6300] = 0
    pieces = quiet_cuts(loud, 1000, 4.0)
    assert np.array_equal(np.concatenate(pieces), loud)
    assert all(len(piece) <= 4000 for piece in pieces)
    assert 3200 <= len(pieces[0]) <= 3400
    assert 6100 <= len(pieces[0]) + len(pieces[1]) <= 6300
    assert quiet_cuts(loud[:100], 1000, 4.0)[0] is not None
    assert sounds.MAX_SECONDS == 7200
