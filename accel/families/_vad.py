"""Voice activity: silero-vad, a recurrent network over windows of 32 ms that exists as an ONNX file.

The windows and the way from probabilities to segments are those of the package's `get_speech_timestamps`
(https://github.com/snakers4/silero-vad) with its default settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.contracts import LoadedModel, Session
from accel.core.errors import IncompatibleError
from accel.core.sounds import load_sound
from accel.core.types import GraphSpec, Item, Model, Options, Recipe, TensorSpec
from accel.families._parts import Part
from accel.families._shared import EXAMPLE_SOUND, encode_each, finite, sound_path
from accel.families._tensors import onnx_file

if TYPE_CHECKING:
    from accel.core.contracts import Array

TASK = "voice-activity-detection"
RATE = 16000
WINDOW, CONTEXT, STATE = 512, 64, 128
#: a segment ends below the threshold less this; it lasts at least SPEECH and ends with SILENCE; PAD is added around it
HYSTERESIS = 0.15
SPEECH, SILENCE, PAD = RATE * 250 // 1000, RATE * 100 // 1000, RATE * 30 // 1000


@dataclass(frozen=True)
class Recording:
    """A sound at 16 kHz. `length` counts samples."""

    samples: Array

    @property
    def length(self) -> int:
        return len(self.samples)


def matches(onnx: dict[str, Any]) -> bool:
    """Whether an ONNX file has the inputs and outputs of silero-vad."""
    inputs, outputs = set(onnx.get("inputs", ())), list(onnx.get("outputs", ()))
    return inputs - {"sr"} == {"input", "state"} and outputs == ["output", "stateN"]


class VoiceActivity(Part):
    """Where in a sound someone speaks."""

    name = "vad"

    @classmethod
    def load(cls, family: str, model: Model, assets: Path) -> LoadedModel:
        from accel.core.export import spec_of

        path = onnx_file(model)
        found = spec_of(path)
        if not matches({"inputs": [t.name for t in found.inputs], "outputs": [t.name for t in found.outputs]}):
            raise IncompatibleError(f"{path} is not silero-vad", "use --task tensors")
        known = {
            "input": TensorSpec("input", "float32", ("batch", CONTEXT + WINDOW)),
            "state": TensorSpec("state", "float32", (2, "batch", STATE)),
            "sr": TensorSpec("sr", "int64", ()),
        }
        spec = GraphSpec(
            "model",
            tuple(known[t.name] for t in found.inputs),
            (
                TensorSpec("output", "float32", ("batch", 1)),
                TensorSpec("stateN", "float32", (2, "batch", STATE)),
            ),
        )
        fixed = any(t.name == "input" and t.axes[0] == 1 for t in found.inputs)
        recipe = Recipe(family, TASK, {"model": spec}, {"one": fixed}, (), model.notes)
        return LoadedModel({}, recipe, None, {"model": path})

    def example_items(self) -> list[Item]:
        return [Item(audio=str(EXAMPLE_SOUND))]

    def encode(self, items: Sequence[Item], options: Options) -> list[Any]:
        return encode_each(items, lambda item: Recording(load_sound(sound_path(item), RATE)))

    def execute(
        self, session: Session, batch: Sequence[Recording], options: Options, emit: Callable[[str], None] | None
    ) -> list[Any]:
        if self.settings.get("one"):
            return [self._probabilities(session, [recording])[0] for recording in batch]
        return self._probabilities(session, batch)

    def _probabilities(self, session: Session, batch: Sequence[Recording]) -> list[Array]:
        """The probability of speech in each window of each recording; shorter recordings go on with silence."""
        import numpy as np

        counts = [-(-recording.length // WINDOW) for recording in batch]
        steps = max(counts)
        sound: Array = np.zeros((len(batch), CONTEXT + steps * WINDOW), np.float32)
        for row, recording in enumerate(batch):
            sound[row, CONTEXT : CONTEXT + recording.length] = recording.samples
        state: Array = np.zeros((2, len(batch), STATE), np.float32)
        takes_rate = any(t.name == "sr" for t in self.recipe.graphs["model"].inputs)
        rate = {"sr": np.array(RATE, np.int64)} if takes_rate else {}
        found: Array = np.zeros((len(batch), steps), np.float32)
        for step in range(steps):
            window = np.ascontiguousarray(sound[:, step * WINDOW : (step + 1) * WINDOW + CONTEXT])
            outputs = session.run("model", {"input": window, "state": state, **rate})
            found[:, step], state = outputs["output"][:, 0], outputs["stateN"]
        return [found[row, :count] for row, count in enumerate(counts)]

    def answers(self, outputs: Sequence[Any], batch: Sequence[Any], options: Options) -> list[dict[str, Any]]:
        results = []
        for row, recording in zip(outputs, batch, strict=True):
            found = segments(finite(row), recording.length, options.threshold)
            results.append(
                {
                    "segments": [{"start_s": round(a / RATE, 3), "end_s": round(b / RATE, 3)} for a, b in found],
                    "speech_s": round(sum(b - a for a, b in found) / RATE, 3),
                    "duration_s": round(recording.length / RATE, 3),
                }
            )
        return results

    def comparable(self, session: Session, batch: Sequence[Any]) -> Array:
        import numpy as np

        rows = self.execute(session, batch, Options(), None)
        steps = max(map(len, rows))
        return np.stack([np.pad(row, (0, steps - len(row))) for row in rows])


def segments(probabilities: Array, length: int, threshold: float = 0.5) -> list[tuple[int, int]]:
    """Speech segments, (first, last + 1) in samples.

    Args:
        probabilities: (windows,), one for each `WINDOW` samples.
        length: samples of the recording.
        threshold: speech begins above it and ends `HYSTERESIS` below it.
    """
    leave = max(threshold - HYSTERESIS, 0.01)
    found: list[list[int]] = []
    begin: int | None = None
    quiet = 0
    for index, probability in enumerate(probabilities):
        here = index * WINDOW
        if probability >= threshold:
            quiet = 0
            if begin is None:
                begin = here
        elif begin is not None and probability < leave:
            quiet = quiet or here
            if here - quiet >= SILENCE:
                if quiet - begin > SPEECH:
                    found.append([begin, quiet])
                begin, quiet = None, 0
    if begin is not None and length - begin > SPEECH:
        found.append([begin, length])
    return _padded(found, length)


def _padded(found: list[list[int]], length: int) -> list[tuple[int, int]]:
    """Adds `PAD` around segments, or half of the silence between them where it is shorter than two pads."""
    for index, segment in enumerate(found):
        if index == 0:
            segment[0] = max(0, segment[0] - PAD)
        if index == len(found) - 1:
            segment[1] = min(length, segment[1] + PAD)
            break
        following = found[index + 1]
        silence = following[0] - segment[1]
        pad = silence // 2 if silence < 2 * PAD else PAD
        segment[1] = min(length, segment[1] + pad)
        following[0] = max(0, following[0] - pad)
    return [(first, last) for first, last in found]
