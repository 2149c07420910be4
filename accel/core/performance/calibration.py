"""`accel profile --calibrate`: measures this machine's operators once per engine and keeps them by fingerprint.

Each engine is measured in a process of its own. A control that is measured again and again tells whether the machine
held still: where it did not, the figures are refused, or kept with a wider interval.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.core.errors import AccelError, UnavailableError
from accel.core.fingerprint import engine_version, fingerprint
from accel.core.locks import holding
from accel.core.paths import home, write_atomic
from accel.core.probe import read_text

if TYPE_CHECKING:
    from accel.core.performance.machines import Machine
    from accel.core.performance.prices import Rates

#: engines that can be calibrated, and the distribution that each version belongs to
ENGINES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
#: seconds for all engines together, and what starting one takes of it
TIME_LIMIT_S, STARTING_S = 120.0, 5.0
#: raised when other things are measured
VERSION = 4
#: how far the control may wander (its median over its fastest); beyond it the figures are refused
TOO_RESTLESS = 1.35
#: machines (fingerprints) whose figures are kept
MACHINES = 8


@dataclass(frozen=True)
class Outcome:
    """What became of one engine: how many operators were measured, how long it took, how the machine behaved.

    Attributes:
        restlessness: the control's median over its fastest; 1 is a quiet machine.
        refused: why nothing is kept; empty where it was.
    """

    engine: str
    points: int
    skipped: int
    seconds: float
    restlessness: float
    refused: str = ""


def calibrate(
    engines: Sequence[str], threads: int, progress: Callable[[str, int, int], None], limit_s: float = TIME_LIMIT_S
) -> list[Outcome]:
    """Measures the engines one after the other and keeps the figures.

    Args:
        engines: of `ENGINES`. threads: that each may use.
        progress: takes engine, graphs done and graphs to do.
        limit_s: seconds for everything.

    Raises:
        UnavailableError: no engine could be measured, or the machine was too busy for every one.
    """
    done: list[Outcome] = []
    deadline = time.monotonic() + limit_s
    for number, engine in enumerate(engines):
        started = time.monotonic()
        share = (deadline - started) / (len(engines) - number)
        try:
            data = _measure(engine, threads, share - STARTING_S, progress)
        except AccelError as error:
            done.append(Outcome(engine, 0, 0, time.monotonic() - started, 1.0, error.message))
            continue
        spent, restless = time.monotonic() - started, restlessness(data["controls"])
        refused = ""
        if restless > TOO_RESTLESS:
            refused = f"the machine was busy: the same product took {restless:.1f} times its best time"
        elif not data["points"]:
            refused = "nothing could be measured"
        else:
            figures = {**data, "threads": threads, "version": version_of(engine), "restlessness": restless}
            _keep(_key(engine, threads), figures)
        done.append(Outcome(engine, len(data["points"]), len(data["skipped"]), spent, restless, refused))
    if done and all(outcome.refused for outcome in done):
        reasons = "; ".join(f"{outcome.engine}: {outcome.refused}" for outcome in done)
        raise UnavailableError(f"nothing was calibrated: {reasons}", "run it again when nothing else runs here")
    return done


def restlessness(controls: Sequence[float]) -> float:
    """How far the control wandered: its median over its fastest."""
    return statistics.median(controls) / min(controls) if controls else float("inf")


def version_of(engine: str) -> str:
    """What figures of an engine belong to: its version, and the version of what is measured."""
    return f"{engine_version(ENGINES.get(engine, engine)) or ''}/{VERSION}"


def _measure(engine: str, threads: int, seconds: float, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    request = {"engine": engine, "threads": threads, "seconds": max(5.0, seconds)}
    command = [sys.executable, "-P", "-m", "accel.core.performance.calibration_worker", json.dumps(request)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    last: dict[str, Any] = {}
    try:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                last = json.loads(line)
            except ValueError:
                continue  # an engine's own chatter
            if "done" in last:
                progress(engine, last["done"], last["of"])
    finally:
        process.kill()
        process.wait()
    if "points" not in last:
        raise UnavailableError(
            f"{engine} could not be measured: its process ended early", f"accel detect shows {engine}"
        )
    return last


def _read() -> dict[str, Any]:
    try:
        data = json.loads(read_text(str(home() / "calibration.json"), 1 << 24) or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _key(engine: str, threads: int) -> str:
    """What figures are kept under: those of fewer threads than the process may use lie beside the others."""
    from accel.core.cpu import limits

    return engine if threads in (0, limits()[1]) else f"{engine}/{threads}"


def _keep(key: str, figures: dict[str, Any]) -> None:
    here = fingerprint()
    figures["measured_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with holding(home() / "calibration.lock", 5.0):
        known = _read()
        mine = {**known.pop(here, {}), key: figures}
        others = dict(list(known.items())[-(MACHINES - 1) :])
        write_atomic(home() / "calibration.json", json.dumps({**others, here: mine}).encode())


def kept(engine: str, threads: int = 0) -> dict[str, Any] | None:
    """The figures of an engine, if they were measured on this machine with the version that is installed.

    Args:
        threads: that it was measured with; 0 for all.
    """
    found = _read().get(fingerprint(), {}).get(_key(engine, threads))
    if not isinstance(found, dict) or found.get("version") != version_of(engine):
        return None
    return found


def threads_kept(engine: str) -> list[int]:
    """Numbers of threads, fewer than all, that an engine was measured with here."""
    keys = [key.partition("/") for key in _read().get(fingerprint(), {})]
    counts = [int(count) for name, _, count in keys if name == engine and count.isdigit()]
    return sorted(count for count in counts if kept(engine, count) is not None)


def stale(engine: str) -> str:
    """Why figures that were kept are not used; empty where there are none or they are used."""
    if kept(engine) is not None:
        return ""
    everything = _read()
    if engine in everything.get(fingerprint(), {}):
        return f"the calibration of {engine} belongs to another version of it"
    if any(engine in machine for machine in everything.values()):
        return f"the calibration of {engine} belongs to another machine, or this one has changed"
    return ""


def engine_for(machine: Machine, engine: str) -> bool:
    """Whether a calibrated engine runs on this device: on its processor, that is."""
    on = {"torch": "cpu", "onnxruntime": "cpu", "openvino": "openvino"}.get(engine)
    return machine.platform == on and (on == "cpu" or machine.id.partition(":")[2].startswith("CPU"))


def rates(machine: Machine, engine: str, precision: str, threads: int) -> Rates | None:
    """Prices from what was measured, or None where it does not apply: precision, threads, or nothing was measured."""
    if precision != "fp32" or not engine_for(machine, engine):
        return None
    figures = kept(engine, threads)
    if figures is None or (threads and threads != figures["threads"]):
        return None
    from accel.core.performance.calibrated import Calibrated

    return Calibrated(engine, figures)
