"""Small models that `accel compat` is judged on, run for real under a limit of their private memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from accel.core.bench.cells import Cell
from accel.core.bench.process import CellProcess, Settings
from accel.core.errors import AccelError
from accel.core.performance import graphs
from accel.core.probe import properties, read_text
from accel.core.types import Model, Options
from tests.perf.memory_cells import ENGINES, Changes, plan_of

TOKENS = 8
#: models that no figure of `accel compat` has seen: by name the catalogue's configuration, and what is changed in it
JUDGED: Changes = {
    "bert-f": ("bert-base", {"hidden_size": 640, "num_hidden_layers": 5, "num_attention_heads": 10,
                             "intermediate_size": 2560, "vocab_size": 15000}),
    "resnet-f": ("resnet-50", {"depths": [2, 3, 4, 2]}),
    "gpt2-f": ("gpt2", {"n_embd": 640, "n_layer": 3, "n_head": 10, "vocab_size": 35000}),
    "vit-f": ("vit-base", {"hidden_size": 576, "num_attention_heads": 9, "intermediate_size": 2304,
                           "num_hidden_layers": 4}),
    "distilbert-f": ("distilbert", {"dim": 512, "hidden_dim": 2048, "n_heads": 8, "n_layers": 4,
                                    "vocab_size": 25000}),
    "llama-f": ("llama-3.2-1b", {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 5,
                                 "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 28000}),
    "mobilenet-f": ("mobilenet-v2", {"depth_multiplier": 0.75}),
    "wav2vec2-f": ("wav2vec2-base", {"hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
                                     "intermediate_size": 2048}),
    "whisper-f": ("whisper-tiny", {"d_model": 320, "encoder_attention_heads": 5, "decoder_attention_heads": 5,
                                   "encoder_ffn_dim": 1280, "decoder_ffn_dim": 1280}),
    "clip-f": ("clip", {"vision_config": {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
                                          "num_hidden_layers": 4, "image_size": 224, "patch_size": 32,
                                          "model_type": "clip_vision_model"}}),
}  # fmt: skip
#: how many inputs together, by model
BATCH = {
    "bert-f": 16, "resnet-f": 16, "gpt2-f": 4, "vit-f": 8, "distilbert-f": 1, "llama-f": 1, "mobilenet-f": 16,
    "wav2vec2-f": 1, "whisper-f": 1, "clip-f": 4,
}  # fmt: skip


def cells() -> Iterator[tuple[str, str, int]]:
    """Model, engine and batch of every workload."""
    for name in JUDGED:
        for engine in ENGINES:
            yield name, engine, BATCH[name]


@dataclass
class Outcome:
    """What became of a run: bytes of private memory at most, threads, and why it failed."""

    private: int = 0
    threads: int = 0
    failed: str = ""


def run(model: Model, engine: str, batch: int, length: int | None, limit: int) -> Outcome:
    """Opens a model and makes four inferences in a process of its own, under a limit of its private memory."""
    options = Options(max_new_tokens=TOKENS, steps=1)
    plan = plan_of(engine)
    cell = Cell(
        model.name, model.task, plan.platform, plan.device, engine, "fp32", batch=batch, length=length, weights="random"
    )
    outcome, done = Outcome(), threading.Event()
    with CellProcess(cell, model, Settings(timeout_s=240.0, memory_limit=limit, options=options)) as process:
        pid = process._worker.pid

        def look() -> None:
            while not done.is_set():
                found = properties(read_text(f"/proc/{pid}/status", 4096))
                for name, key, unit in (("private", "VmData", 1024), ("threads", "Threads", 1)):
                    word = found.get(key, "").partition(" ")[0]
                    if word.isdigit():
                        setattr(outcome, name, max(getattr(outcome, name), unit * int(word)))
                time.sleep(0.002)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            process.open()
            process.measure(0.0, 3, lead=False)
        except AccelError as error:
            outcome.failed = f"{type(error).__name__}: {error.message}"
        finally:
            done.set()
            watcher.join()
    return outcome


def length_of(model: Model) -> int | None:
    """Tokens of the inputs of text models; None elsewhere."""
    return 64 if model.family in graphs.TEXT else None
