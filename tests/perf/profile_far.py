"""Times one model in one engine at several batches, in a process of its own: the truth of `test_profile`.

`python -m tests.perf.profile_far MODEL ENGINE DEVICE TOKENS STEPS SECONDS BATCH...` prints a JSON object per batch.
"""

from __future__ import annotations

import gc
import json
import sys
import time

from accel.core.bench import synthetic
from accel.core.bench.far import memory_use
from accel.core.performance import graphs
from accel.core.registry import family_class
from accel.core.source import ModelSource, open_session
from accel.core.types import Options, Plan


def main(name: str, engine: str, device: str, tokens: int, steps: int, seconds: float, batches: list[int]) -> None:
    """Prepared plans are opened as `accel bench` does; batches come in rising order, since memory only grows."""
    model = graphs.resolve(name)
    source = ModelSource(model)
    family = family_class(source.recipe.family)(source.recipe, source.assets)
    options = Options(max_new_tokens=tokens, steps=steps)
    length = graphs.DEFAULT_LENGTH if model.family in graphs.TEXT else None
    opened = time.perf_counter()
    session = open_session(source, Plan(device, device.partition(":")[0], engine, "fp32", source="requested"))
    opened = time.perf_counter() - opened
    for batch in batches:
        encoded = family.preprocess_inputs(synthetic.items(family, batch, length, options), options)
        samples: list[float] = []
        for _ in range(2):
            family.execute(session, encoded, options)
        gc.disable()
        began = time.perf_counter()
        while len(samples) < 3 or (time.perf_counter() - began < seconds and len(samples) < 400):
            start = time.perf_counter()
            family.execute(session, encoded, options)
            samples.append(time.perf_counter() - start)
        gc.enable()
        print(json.dumps({"batch": batch, "samples": samples, "open_s": opened, **memory_use()}), flush=True)


if __name__ == "__main__":
    word = sys.argv[1:]
    main(word[0], word[1], word[2], int(word[3]), int(word[4]), float(word[5]), [int(b) for b in word[6:]])
