"""The far end of `accel profile --calibrate`: times the graphs of `kernels` in one engine, in a process of its own.

Takes a JSON object as its argument and gives one JSON object per line: progress, and last the figures.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from typing import Any

from accel.core.performance.kernel_runs import Run, run_of
from accel.core.performance.kernels import Kernel, kernels

#: seconds of measuring for one graph, and the fewest and the most runs
SHARE_S = 0.09
LEAST, MOST = 4, 400
#: between how many graphs the control is measured again
CONTROL_EVERY = 12
CONTROL = Kernel("linear", (256, 512), 512, repeat=4)
#: once this process is gone nobody waits for the figures
_PARENT = os.getppid()


def timed(run: Run, seconds: float) -> tuple[float, float]:
    """Lowest tenth of the seconds of one run, and the distance of the quartiles as a share of it.

    What else goes on at the machine only ever adds time, so a low quantile says most about the operator.
    """
    run()
    run()
    samples: list[float] = []
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        samples.append(end - start)
        if len(samples) >= MOST or (end - began >= seconds and len(samples) >= LEAST) or end - began > 4 * seconds:
            break
    if len(samples) < 3:
        return min(samples), 0.0
    tenths = statistics.quantiles(samples, n=20, method="inclusive")
    return tenths[1], (tenths[14] - tenths[4]) / tenths[1]


def resident() -> int:
    """Bytes of memory that this process has."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        from accel.core.inference import peak_memory

        return peak_memory()


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Measures until everything is measured or the time is over."""
    engine, threads, deadline = request["engine"], int(request["threads"]), time.monotonic() + request["seconds"]
    if engine == "torch":
        import torch
        import transformers  # noqa: F401 - what a model in this engine needs in memory as well

        torch.set_num_threads(threads)
    control = run_of(engine, CONTROL, threads)
    runtime = resident()
    controls = [timed(control, SHARE_S)[0]]
    found, skipped = [], []
    wanted = kernels()
    gc.disable()
    for number, kernel in enumerate(wanted):
        if time.monotonic() > deadline or os.getppid() != _PARENT:
            skipped.append({"kernel": kernel.as_json(), "reason": "the time was over before it"})
            continue
        if number % CONTROL_EVERY == 0:
            controls.append(timed(control, SHARE_S / 2)[0])
            _tell({"done": number, "of": len(wanted)})
        try:
            seconds, spread = timed(run_of(engine, kernel, threads), SHARE_S)
        except Exception as error:  # an engine says in its own way that it lacks an operator
            text = str(error).strip().splitlines()
            skipped.append({"kernel": kernel.as_json(), "reason": text[0][:160] if text else type(error).__name__})
            continue
        found.append({"kernel": kernel.as_json(), "seconds": seconds, "spread": spread})
    controls.append(timed(control, SHARE_S)[0])
    return {"points": found, "skipped": skipped, "controls": controls, "runtime_bytes": runtime}


def _tell(message: dict[str, Any]) -> None:
    """One line to the process that calibrates."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _tell(main(json.loads(sys.argv[1])))
