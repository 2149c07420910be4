"""Measured times beside predictions: every benchmark and run leaves its pair, and predictions learn from them.

One JSON line per measurement in `ledger.jsonl` under the home folder, with the uncorrected seconds by class of
operators that were predicted for it, so that reading it needs neither a model nor a database.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from accel.core.errors import TransferError
from accel.core.fingerprint import fingerprint
from accel.core.paths import ensure, home
from accel.core.performance.learning import Pair
from accel.core.probe import read_text

if TYPE_CHECKING:
    from accel.core.performance.operators import OperatorGraph
    from accel.core.performance.predict import Prediction

#: the most lines that are read, the newest
MOST = 2000
SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """One measurement.

    Attributes:
        seconds: predicted by class of operators, without correction. predicted_s, low_s, high_s: as it was told then.
        measured_s: median. joules: of one execution, where a counter told.
        id: of the result that it came from, if it came from one.
    """

    fingerprint: str
    model: str
    family: str
    device: str
    engine: str
    precision: str
    batch: int
    length: int | None
    seconds: dict[str, float]
    predicted_s: float
    low_s: float
    high_s: float
    measured_s: float
    calibrated: bool
    version: str
    memory_predicted: int | None = None
    memory_measured: int | None = None
    joules: float | None = None
    when: float = 0.0
    id: str = ""


def entry(
    found: Prediction,
    graph: OperatorGraph,
    measured_s: float,
    *,
    memory: int | None = None,
    joules: float | None = None,
    result: str = "",
) -> Entry:
    """The line for a prediction and what was measured.

    Args:
        measured_s: median. memory: bytes, the peak. joules: of one execution.
        result: id of the result that the measurement came from.
    """
    from accel.core.performance.calibration import version_of

    return Entry(
        fingerprint=fingerprint(),
        model=graph.model,
        family=graph.family,
        device=found.device,
        engine=found.engine,
        precision=found.precision,
        batch=graph.batch,
        length=graph.length,
        seconds=found.uncorrected,
        predicted_s=found.latency_s,
        low_s=found.interval_s[0],
        high_s=found.interval_s[1],
        measured_s=measured_s,
        calibrated=found.calibrated,
        version=version_of(found.engine),
        memory_predicted=found.memory.total,
        memory_measured=memory,
        joules=joules,
        id=result,
    )


def append(entry: Entry) -> None:
    """Adds a measurement.

    Raises:
        TransferError: the home folder cannot be written.
    """
    line = json.dumps({"schema": SCHEMA, **asdict(entry), "when": entry.when or time.time()}) + "\n"
    path = ensure(home()) / "ledger.jsonl"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise TransferError(f"cannot write {path}: {error.strerror or error}", "free space or rights there") from error


def entries() -> list[Entry]:
    """The newest measurements of this machine; of one workload the last one counts."""
    found: dict[tuple[Any, ...], Entry] = {}
    here = fingerprint()
    for line in read_text(str(home() / "ledger.jsonl"), 1 << 26).splitlines()[-MOST:]:
        try:
            data = json.loads(line)
            if data.pop("schema") != SCHEMA or data["fingerprint"] != here or not data["measured_s"] > 0:
                continue
            entry = Entry(**data)
        except (ValueError, KeyError, TypeError):
            continue  # cut short, or of another version
        key = (entry.model, entry.device, entry.engine, entry.precision, entry.batch, entry.length)
        found.pop(key, None)
        found[key] = entry
    return list(found.values())


def ids() -> set[str]:
    """Results that are in the ledger already."""
    found = set()
    for line in read_text(str(home() / "ledger.jsonl"), 1 << 26).splitlines():
        try:
            found.add(str(json.loads(line)["id"]))
        except (ValueError, KeyError, TypeError):
            continue  # cut short, or of another version
    return found - {""}


def pairs(device: str, engine: str, precision: str) -> list[Pair]:
    """What an engine's predictions on a device can learn from: pairs made under the calibration that is used now."""
    from accel.core.performance.calibration import version_of

    return [
        Pair(entry.family, entry.seconds, entry.measured_s)
        for entry in entries()
        if (entry.device, entry.engine, entry.precision) == (device, engine, precision)
        and entry.calibrated
        and entry.version == version_of(engine)
    ]


def power(device: str) -> float | None:
    """Watts that a device drew while it computed, by its energy counter; None where none was read."""
    known = [e.joules / e.measured_s for e in entries() if e.device == device and e.joules is not None]
    return statistics.median(known) if known else None


def accuracy() -> list[dict[str, Any]]:
    """Errors of the predictions as they were told, by family, device and engine.

    Returns:
        dicts with family, device, engine, pairs, mean_absolute_error, median_absolute_error, bias (mean of the signed
        errors), within_10_percent and coverage (share of measurements inside their interval).
    """
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries():
        groups.setdefault((entry.family, entry.device, entry.engine), []).append(entry)
    return [summary(key, groups[key]) for key in sorted(groups)]


def summary(key: tuple[str, str, str], found: list[Entry]) -> dict[str, Any]:
    """The errors of some measurements."""
    errors = [entry.predicted_s / entry.measured_s - 1.0 for entry in found]
    inside = [entry.low_s <= entry.measured_s <= entry.high_s for entry in found]
    return {
        "family": key[0],
        "device": key[1],
        "engine": key[2],
        "pairs": len(found),
        "mean_absolute_error": statistics.mean(map(abs, errors)),
        "median_absolute_error": statistics.median(map(abs, errors)),
        "bias": statistics.mean(errors),
        "within_10_percent": sum(abs(e) <= 0.1 for e in errors) / len(errors),
        "coverage": sum(inside) / len(inside),
        "calibrated": all(entry.calibrated for entry in found),
    }
