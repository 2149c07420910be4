"""Sound models: speech to text (Whisper, CTC), labels and embeddings of sounds, voice activity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from accel.core.types import Model
from accel.families import _vad
from accel.families._parts import Part, PartedFamily
from accel.families._vad import VoiceActivity
from accel.families._waves import Embeddings, Labels, Letters
from accel.families._whisper import Whisper

RECOGNISE = "automatic-speech-recognition"

#: endings of `architectures` and the task that they were trained for
ENDINGS = {
    "ForCTC": RECOGNISE,
    "ForConditionalGeneration": RECOGNISE,
    "ForSequenceClassification": Labels.task,
    "ForAudioClassification": Labels.task,
    "Model": Embeddings.task,
}


class Audio(PartedFamily):
    """Whisper, wav2vec 2.0, HuBERT, WavLM, AST and silero-vad."""

    name: ClassVar[str] = "audio"
    tasks: ClassVar[tuple[str, ...]] = (RECOGNISE, Labels.task, Embeddings.task, _vad.TASK)
    # fmt: off
    model_types: ClassVar[frozenset[str]] = frozenset((
        "audio-spectrogram-transformer", "data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat",
        "wav2vec2", "wav2vec2-conformer", "wavlm", "whisper",
    ))
    # fmt: on

    @classmethod
    def infer_task(cls, config: dict[str, Any]) -> str | None:
        if "onnx" in config:
            return _vad.TASK if _vad.matches(config["onnx"]) else None
        kind = config.get("model_type")
        if kind not in cls.model_types:
            return None
        for architecture in config.get("architectures") or ():
            for ending, task in ENDINGS.items():
                if str(architecture).endswith(ending):
                    return task
        return Labels.task if kind == "audio-spectrogram-transformer" else RECOGNISE

    @classmethod
    def parts(cls) -> Sequence[type[Part]]:
        return (Whisper, Letters, Labels, Embeddings, VoiceActivity)

    @classmethod
    def choose(cls, model: Model) -> type[Part] | None:
        if model.layout == "onnx":
            return VoiceActivity if model.task == _vad.TASK else None
        if model.task == RECOGNISE:
            return Whisper if model.config.get("model_type") == "whisper" else Letters
        return {part.task: part for part in (Labels, Embeddings)}.get(model.task)


PLUGIN = Audio
