"""Small models of all families, and what their processes need: the cells that `accel compat` is fitted and judged on.

`python -m tests.perf.compat_cells fit FILE` measures the models of `FITTED` and keeps the peaks in the file.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core import prepared
from accel.core.bench.cells import Cell
from accel.core.bench.process import CellProcess, Settings
from accel.core.catalogue import DATA
from accel.core.cpu import limits
from accel.core.errors import AccelError
from accel.core.performance import graphs
from accel.core.probe import properties, read_text
from accel.core.registry import engine as engine_named
from accel.core.types import Model, Options, Plan
from accel.core.worker import Worker, to_json

ENGINES = {"onnxruntime": "cpu:0", "openvino": "openvino:CPU", "torch": "cpu:0"}
TOKENS = 8
#: by name: the catalogue's configuration it starts from, and what is changed in it
FITTED: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-a": ("bert-base", {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
                             "intermediate_size": 1024}),
    "bert-b": ("bert-base", {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8,
                             "intermediate_size": 2048, "vocab_size": 8000}),
    "distilbert-a": ("distilbert", {"n_layers": 3}),
    "gpt2-a": ("gpt2", {"n_embd": 256, "n_layer": 4, "n_head": 4, "vocab_size": 20000}),
    "gpt2-b": ("gpt2", {"n_layer": 3}),
    "llama-a": ("llama-3.2-1b", {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
                                 "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 16000}),
    "resnet-a": ("resnet-50", {"depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}),
    "resnet-b": ("resnet-50", {}),
    "vit-a": ("vit-base", {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}),
    "vit-b": ("vit-base", {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048,
                           "num_hidden_layers": 8}),
    "wav2vec2-a": ("wav2vec2-base", {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6,
                                     "intermediate_size": 1536}),
    "whisper-a": ("whisper-tiny", {"vocab_size": 51865}),
    "clip-a": ("clip", {}),
}  # fmt: skip
#: models that no figure of `accel compat` has seen
JUDGED: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-x": ("bert-base", {"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6,
                             "intermediate_size": 1536, "vocab_size": 12000}),
    "roberta-x": ("roberta-base", {"num_hidden_layers": 3, "vocab_size": 20000}),
    "gpt2-x": ("gpt2", {"n_embd": 512, "n_layer": 5, "n_head": 8, "vocab_size": 30000}),
    "qwen2-x": ("qwen2-0.5b", {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
                               "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 24000,
                               "layer_types": ["full_attention"] * 6}),
    "resnet-x": ("resnet-50", {"depths": [3, 4, 6, 3], "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}),
    "mobilenet-x": ("mobilenet-v2", {}),
    "vit-x": ("vit-base", {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}),
    "dinov2-x": ("dinov2-small", {}),
    "wav2vec2-x": ("wav2vec2-base", {"num_hidden_layers": 3}),
    "whisper-x": ("whisper-tiny", {"d_model": 256, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
                                   "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}),
    "llava-x": ("tiny-llava", {}),
}  # fmt: skip
BATCHES = (1, 16)
#: cells that would hold the machine up for long
TOO_LONG = ("wav2vec2", "whisper", "llava")


def make(folder: Path, chosen: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Path]:
    """Writes the configurations, one folder each, by name."""
    made = {}
    for name, (base, changes) in chosen.items():
        made[name] = folder / name
        shutil.copytree(DATA / "configs" / base, made[name], dirs_exist_ok=True)
        path = made[name] / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return made


def cells(names: dict[str, Any], engines: tuple[str, ...] = tuple(ENGINES)) -> Iterator[tuple[str, str, int]]:
    """Model, engine and batch of every cell."""
    for name in names:
        for engine in engines:
            for batch in BATCHES:
                if batch == 1 or not name.startswith(TOO_LONG):
                    yield name, engine, batch


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


@dataclass
class Peak:
    """Bytes: private data as the limit counts it, and resident memory; and the threads of the process."""

    data: int = 0
    resident: int = 0
    threads: int = 0
    failed: str = ""


def run(model: Model, engine: str, batch: int, length: int | None, limit: int | None = 64 << 30) -> Peak:
    """Opens a model and makes one inference in a process of its own, under a limit of its private memory."""
    options = Options(max_new_tokens=TOKENS, steps=1)
    plan = plan_of(engine)
    cell = Cell(
        model.name, model.task, plan.platform, plan.device, engine, "fp32", batch=batch, length=length, weights="random"
    )
    peak, done = Peak(), threading.Event()
    with CellProcess(cell, model, Settings(timeout_s=240.0, memory_limit=limit, options=options)) as process:
        pid = process._worker.pid

        def look() -> None:
            while not done.is_set():
                found = properties(read_text(f"/proc/{pid}/status", 4096))
                for name, key in (("data", "VmData"), ("resident", "VmHWM"), ("threads", "Threads")):
                    word = found.get(key, "").partition(" ")[0]
                    if word.isdigit():
                        unit = 1 if key == "Threads" else 1024
                        setattr(peak, name, max(getattr(peak, name), unit * int(word)))
                time.sleep(0.002)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            process.open()
        except AccelError as error:
            peak.failed = f"{type(error).__name__}: {error.message}"
        finally:
            done.set()
            watcher.join()
    return peak


def length_of(model: Model) -> int | None:
    """Tokens of the inputs of text models; None elsewhere."""
    return 64 if model.family in graphs.TEXT else None


def fit(path: Path) -> None:
    """Measures what the file lacks."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    folders = make(path.parent / "models", FITTED)
    for name, engine, batch in cells(FITTED):
        key = f"{name}|{engine}|{batch}"
        if key in known:
            continue
        try:
            model = graphs.resolve(str(folders[name]))
            prepare(model, engine)
            found = run(model, engine, batch, length_of(model))
        except AccelError as error:
            print(key, error.message, flush=True)
            continue
        known[key] = {**vars(found), "family": model.family, "cores": limits()[1]}
        print(key, found, flush=True)
        path.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    fit(Path(sys.argv[2]))
