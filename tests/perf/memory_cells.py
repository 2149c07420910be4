"""What processes of small models of all families take, stage by stage: what `accel/data/memory.json` is fitted on.

`python -m tests.perf.memory_cells FILE [NAME...]` measures the models of `FITTED` (or those named, of the catalogue
too) that the file lacks, and keeps their stages there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from accel.core import prepared
from accel.core.catalogue import DATA
from accel.core.errors import AccelError
from accel.core.performance import graphs
from accel.core.probe import properties, read_text
from accel.core.registry import engine as engine_named
from accel.core.types import Model, Plan
from accel.core.worker import Worker, to_json

ENGINES = {"onnxruntime": "cpu:0", "openvino": "openvino:CPU", "torch": "cpu:0"}
BATCHES = (1, 4, 16)
TOKENS, STEPS = 16, 2
#: what takes long in large batches
LARGE = ("yolos", "detr", "whisper", "wav2vec2", "diffusion", "ast")
Changes = dict[str, tuple[str, dict[str, Any]]]
#: by name: the catalogue's configuration it starts from, and what is changed in it
FITTED: Changes = {
    "bert-s": ("bert-base", {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
                             "intermediate_size": 1024}),
    "bert-l": ("bert-base", {"hidden_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 16,
                             "intermediate_size": 4096, "vocab_size": 20000}),
    "distil-s": ("distilbert", {"n_layers": 3}),
    "gpt2-s": ("gpt2", {"n_embd": 512, "n_layer": 4, "n_head": 8, "vocab_size": 20000}),
    "llama-s": ("llama-3.2-1b", {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
                                 "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 16000}),
    "qwen2-s": ("qwen2-0.5b", {"num_hidden_layers": 6, "vocab_size": 40000, "layer_types": ["full_attention"] * 6}),
    "resnet-s": ("resnet-50", {"depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}),
    "resnet-m": ("resnet-50", {"depths": [3, 4, 10, 3]}),
    "vit-s": ("vit-base", {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536,
                           "num_hidden_layers": 6}),
    "vit-l": ("vit-base", {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096,
                           "num_hidden_layers": 5}),
    "wav2vec2-s": ("wav2vec2-base", {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6,
                                     "intermediate_size": 1536}),
    "whisper-s": ("whisper-tiny", {"d_model": 256, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
                                   "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}),
    "clip-s": ("clip", {"vision_config": {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6,
                                          "num_hidden_layers": 6, "image_size": 224, "patch_size": 16,
                                          "model_type": "clip_vision_model"}}),
}  # fmt: skip


def make(folder: Path, chosen: Changes) -> dict[str, Path]:
    """Writes the configurations, one folder each, by name."""
    made = {}
    for name, (base, changes) in chosen.items():
        made[name] = folder / name
        shutil.copytree(DATA / "configs" / base, made[name], dirs_exist_ok=True)
        path = made[name] / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return made


def plan_of(engine: str) -> Plan:
    """The plain plan of an engine."""
    device = ENGINES[engine]
    return Plan(device, device.partition(":")[0], engine, "fp32")


def prepare(model: Model, engine: str) -> None:
    """Prepares in a process of its own, whose memory is not what is looked at."""
    if engine_named(engine).needs_framework and prepared.read_recipe(model) is not None:
        return
    if prepared.find(model, plan_of(engine)) is None:
        with Worker(model) as worker:
            worker.call("build")
            if not engine_named(engine).needs_framework:
                worker.call("prepare", plan=to_json(plan_of(engine)))


class Watch:
    """Follows how much private memory (`VmData`) a process has at most, which the kernel does not keep."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._done = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.is_set():
            word = properties(read_text(f"/proc/{self._pid}/status", 4096)).get("VmData", "").partition(" ")[0]
            self._most = max(self._most, 1024 * int(word) if word.isdigit() else 0)
            time.sleep(0.002)

    def take(self) -> int:
        """The most since the last call, bytes."""
        most, self._most = self._most, 0
        return most

    def close(self) -> None:
        """Ends the watch."""
        self._done.set()
        self._thread.join()


def stages(name: str, model: Model, engine: str, batches: list[int]) -> list[dict[str, Any]]:
    """Bytes at each stage of a process, see `memory_far`; `peak_data` is the most private memory on the way there."""
    length = graphs.DEFAULT_LENGTH if model.family in graphs.TEXT else 0
    words = [name, engine, ENGINES[engine], str(TOKENS), str(STEPS), str(length), *map(str, batches)]
    command = [sys.executable, "-m", "tests.perf.memory_far", *words]
    found = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ) as far:
        assert far.stdout is not None
        watch = Watch(far.pid)
        try:
            for line in far.stdout:
                if line.startswith("{"):
                    found.append({**json.loads(line), "peak_data": watch.take()})
        finally:
            watch.close()
    return found


def measure(path: Path, wanted: dict[str, str]) -> dict[str, Any]:
    """Measures what the file lacks; `wanted` says for each name how the model is called."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name, called in wanted.items():
        for engine in ENGINES:
            if f"{name}|{engine}" in known:
                continue
            try:
                model = graphs.resolve(called)
                prepare(model, engine)
            except AccelError as error:
                print(name, engine, error.message, flush=True)
                continue
            batches = [b for b in BATCHES if b < BATCHES[-1] or not any(word in called for word in LARGE)]
            known[f"{name}|{engine}"] = {"family": model.family, "stages": stages(called, model, engine, batches)}
            path.write_text(json.dumps(known, indent=1))
            print(name, engine, flush=True)
    return known


if __name__ == "__main__":
    kept = Path(sys.argv[1])
    folders = {name: str(place) for name, place in make(kept.parent / "models", FITTED).items()}
    measure(kept, {name: folders.get(name, name) for name in sys.argv[2:] or folders})
