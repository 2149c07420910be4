"""Runs one model in one engine at rising batches and says what memory each stage took, in a process of its own.

`python -m tests.perf.memory_far MODEL ENGINE DEVICE TOKENS STEPS LENGTH BATCH...` (a length of 0 for none) prints a
JSON object per stage: `import` (all libraries), `load`, and for each batch `run`, after four executions.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

from accel.core.bench import synthetic
from accel.core.performance import graphs
from accel.core.probe import properties, read_text
from accel.core.registry import family_class
from accel.core.source import ModelSource, open_session
from accel.core.types import Options, Plan

KEYS = ("VmHWM", "VmRSS", "RssAnon", "RssFile", "VmData")
LIBRARIES = {"torch": ("torch", "transformers"), "onnxruntime": ("onnxruntime",), "openvino": ()}


def say(stage: str, batch: int = 0) -> None:
    """Prints the stage that was reached, and waits for whoever watches from outside to see it."""
    found = properties(read_text("/proc/self/status", 8192))
    sizes = {key: int(found[key].partition(" ")[0]) * 1024 for key in KEYS}
    print(json.dumps({"stage": stage, "batch": batch, **sizes}), flush=True)
    time.sleep(0.02)


def main(name: str, engine: str, device: str, tokens: int, steps: int, length: int | None, batches: list[int]) -> None:
    """The stages in their order; the peak of a batch holds those of the smaller ones, since memory only grows."""
    model = graphs.resolve(name)
    source = ModelSource(model)
    family = family_class(source.recipe.family)(source.recipe, source.assets)
    options = Options(max_new_tokens=tokens, steps=steps)
    for library in LIBRARIES[engine]:
        importlib.import_module(library)
    say("import")
    session = open_session(source, Plan(device, device.partition(":")[0], engine, "fp32", source="requested"))
    say("load")
    for batch in batches:
        encoded = family.preprocess_inputs(synthetic.items(family, batch, length, options), options)
        for _ in range(4):
            family.execute(session, encoded, options)
        say("run", batch)


if __name__ == "__main__":
    word = sys.argv[1:]
    main(word[0], word[1], word[2], int(word[3]), int(word[4]), int(word[5]) or None, [int(b) for b in word[6:]])
