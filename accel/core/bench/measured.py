"""What came out of a cell: the visits of its processes as one set of numbers, for `--json` and for the results."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accel.core.bench import noise, statistics, steady
from accel.core.bench.cells import Cell, Status
from accel.core.bench.process import Visit

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: namespace of the ids of results: the same cell of the same sweep has the same id, so that it is never stored twice
_NAMESPACE = uuid.UUID("6f0c5b1e-52cf-4a6e-9a0c-2f7d3f0f1b65")

#: what is known of the model and the engine beside the cell
_IDENTITY = ("model_digest", "model_cid", "revision", "family", "weights_bytes", "engine_version")


@dataclass
class Outcome:
    """A cell and what became of it.

    Attributes:
        visits: one per process that measured it.
        agreement: with fp32 torch, see `accel.core.bench.far.CellFar.agree`; None where it was not checked.
        energy_note: why there is no energy.
        identity: what a stored result says about the model beside the cell: digest, revision, family.
        notes: what a reader has to know.
        values: what a user's own benchmark returned.
    """

    cell: Cell
    status: Status = "ok"
    cause: str = ""
    reason: str = ""
    hint: str = ""
    visits: list[Visit] = field(default_factory=list)
    agreement: dict[str, Any] | None = None
    energy_note: str = ""
    identity: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON object with all samples; the inverse of `from_json`."""
        return {**self.__dict__, "cell": self.cell.as_json(), "visits": [visit.as_json() for visit in self.visits]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        """Reads what `as_json` wrote."""
        visits = [Visit.from_json(visit) for visit in data["visits"]]
        return cls(**{**data, "cell": Cell.from_json(data["cell"]), "visits": visits, "notes": tuple(data["notes"])})


@dataclass(frozen=True)
class Steadiness:
    """The steady parts of all visits.

    Attributes:
        starts: for each visit the index of its first steady sample.
        reasons: why a visit reached none; empty texts where it did. Of such a visit the last half counts.
        medians: of each visit that has samples.
    """

    series: Array
    starts: tuple[int, ...]
    reasons: tuple[str, ...]
    medians: tuple[float, ...]

    @property
    def median(self) -> statistics.Quantile:
        """The median of all, with an interval that holds what differs from process to process."""
        return statistics.widened(statistics.quantile(self.series), self.medians)

    @property
    def reason(self) -> str:
        """Why no steady state was reached, for the visits where none was."""
        return next((reason for reason in self.reasons if reason), "")


def steady_part(visits: Sequence[Visit]) -> Steadiness | None:
    """The steady samples of the visits in the order they were taken; None where there are no samples."""
    import numpy as np

    parts, starts, reasons = [], [], []
    for visit in visits:
        first = [] if visit.first_s is None else [visit.first_s]
        found = steady.detect([*first, *visit.samples]) if visit.samples else steady.Steady(None, "it never ran")
        start = len(visit.samples) // 2 if found.start is None else max(0, found.start - len(first))
        parts.append(np.asarray(visit.samples[start:], dtype=np.float64))
        starts.append(start)
        reasons.append(found.reason)
    series = np.concatenate(parts) if parts else np.empty(0)
    medians = tuple(float(np.median(part)) for part in parts if part.size)
    return Steadiness(series, tuple(starts), tuple(reasons), medians) if series.size else None


def halfwidth(visits: Sequence[Visit], *, processes: bool = True) -> float | None:
    """Half the width of the interval of the median of all steady samples, as a share of it; None: not bounded.

    Args:
        processes: that they differ counts too.
    """
    part = steady_part(visits)
    if part is None:
        return None
    return (part.median if processes else statistics.quantile(part.series)).halfwidth


def describe(outcome: Outcome, target: float) -> dict[str, Any]:
    """A cell as an object of the list `cells` of `accel.bench/1`. Every key is always there.

    Args:
        target: half-width that the median's interval was to reach.
    """
    cell = outcome.cell
    data: dict[str, Any] = {
        "key": cell.key,
        **{name: value for name, value in cell.as_json().items() if name != "benchmark"},
        "benchmark": cell.benchmark or None,
        "hardware": cell.platform,
        "status": outcome.status,
        "cause": outcome.cause or None,
        "reason": outcome.reason or None,
        "hint": outcome.hint or None,
        "notes": list(outcome.notes),
        **{name: outcome.identity.get(name) for name in _IDENTITY},
    }
    part = steady_part(outcome.visits) if outcome.status == "ok" else None
    data |= _speed(cell, outcome, part, target)
    data |= _phases(outcome.visits)
    data["agreement"] = outcome.agreement
    data["values"] = outcome.values or None
    return data


def _speed(cell: Cell, outcome: Outcome, part: Steadiness | None, target: float) -> dict[str, Any]:
    names = (
        *("latency_ms", "latency_interval_ms", "mean_ms", "min_ms", "max_ms", "deviation_ms", "quantiles", "samples"),
        *("effective_samples", "autocorrelation", "outliers", "precision_reached", "throughput_per_s"),
        *("throughput_interval_per_s", "gflops_per_s", "steady", "noise", "first_token_ms", "tokens_per_s", "energy_j"),
        "process_medians_ms",
    )
    empty: dict[str, Any] = {**dict.fromkeys(names), "energy_note": outcome.energy_note or None}
    if part is None:
        return empty
    found = statistics.summarise(part.series)
    median = part.median
    quantiles = {**found.quantiles, 0.5: median}
    work = 1 if cell.benchmark else cell.batch
    disturbed = noise.disturbance([pair for visit in outcome.visits for pair in visit.stretches])
    verdict = noise.judge(median.halfwidth, target, part.reason, found.outlier_count / found.count, disturbed)
    flops = next((visit.flops for visit in outcome.visits if visit.flops), None)
    joules = _per_run([(visit.joules, len(visit.samples)) for visit in outcome.visits])
    per_token = _median([value for visit in outcome.visits for value in visit.per_token])
    first_token = _median([value for visit in outcome.visits for value in visit.first_token])
    return empty | {
        "latency_ms": 1e3 * median.value,
        "latency_interval_ms": _scaled(median, 1e3),
        "process_medians_ms": [1e3 * value for value in part.medians],
        "mean_ms": 1e3 * found.mean,
        "min_ms": 1e3 * found.minimum,
        "max_ms": 1e3 * found.maximum,
        "deviation_ms": 1e3 * found.deviation,
        "quantiles": {
            f"p{100 * level:g}": {"value_ms": 1e3 * q.value, "interval_ms": _scaled(q, 1e3)}
            for level, q in quantiles.items()
        },
        "samples": found.count,
        "effective_samples": found.worth.size,
        "autocorrelation": found.worth.tau,
        "outliers": found.outlier_count,
        "precision_reached": median.halfwidth is not None and median.halfwidth <= target,
        "throughput_per_s": work / median.value if median.value > 0 else None,
        "throughput_interval_per_s": [work / bound if bound else None for bound in (median.high, median.low)],
        "gflops_per_s": flops / median.value / 1e9 if flops and median.value > 0 else None,
        "steady": {"reached": not part.reason, "warmup_runs": list(part.starts), "reason": part.reason or None},
        "noise": {"verdict": verdict.level, "causes": list(verdict.causes), "measured": disturbed.as_json()},
        "first_token_ms": None if first_token is None else 1e3 * first_token,
        "tokens_per_s": None if not per_token else cell.batch / per_token,
        "energy_j": joules,
        "energy_note": None if joules is not None else outcome.energy_note or "not measured",
    }


def _scaled(found: statistics.Quantile, factor: float) -> list[float | None]:
    return [None if bound is None else factor * bound for bound in (found.low, found.high)]


def _median(values: Sequence[float]) -> float | None:
    import statistics as plain

    return plain.median(values) if values else None


def _per_run(parts: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(joules, runs) for joules, runs in parts if joules is not None and runs]
    return sum(joules for joules, _ in known) / sum(runs for _, runs in known) if known else None


def _phases(visits: Sequence[Visit]) -> dict[str, Any]:
    def ms(name: str) -> float | None:
        value = _median([getattr(visit, name) for visit in visits if getattr(visit, name) is not None])
        return None if value is None else 1e3 * value

    def largest(name: str) -> int | None:
        return max((getattr(visit, name) for visit in visits if getattr(visit, name) is not None), default=None)

    return {
        "phases": {
            "prepare_ms": ms("prepare_s"),
            "load_ms": ms("load_s"),
            "compile_ms": ms("compile_s"),
            "first_ms": ms("first_s"),
        },
        "processes": len(visits),
        "input_length": next((visit.length for visit in visits if visit.length is not None), None),
        "effective_precision": next((visit.precision for visit in visits if visit.precision), None),
        "memory_bytes": largest("peak_bytes"),
        "resident_memory_bytes": largest("resident_bytes"),
        "device_memory_bytes": largest("device_bytes"),
    }


def record(outcome: Outcome, sweep: str, target: float, environment: dict[str, Any]) -> dict[str, Any]:
    """A cell as a record for `accel.core.results.append`. The same cell of the same sweep always has the same id.

    Its series are `inference_time` (the steady samples), `warmup_N` (those of process N before them), and for decoders
    `first_token` and `per_token`.
    """
    data = describe(outcome, target)
    cell = outcome.cell
    latency = data["latency_ms"]
    part = steady_part(outcome.visits) if outcome.status == "ok" else None
    series: dict[str, Any] = {}
    if part is not None:
        series["inference_time"] = part.series.tolist()
        for number, (visit, start) in enumerate(zip(outcome.visits, part.starts, strict=True), start=1):
            series[f"warmup_{number}"] = visit.samples[:start]
        series["first_token"] = [value for visit in outcome.visits for value in visit.first_token]
        series["per_token"] = [value for visit in outcome.visits for value in visit.per_token]
        data["process_samples"] = [len(v.samples) - s for v, s in zip(outcome.visits, part.starts, strict=True)]
    own = ("task", "device", "engine", "precision", "batch", "threads", "model_cid")
    agreement = outcome.agreement or {}
    return {
        "id": str(uuid.uuid5(_NAMESPACE, f"{sweep}|{cell.key}")),
        "kind": "bench",
        "model_name": cell.model or cell.benchmark,
        "hardware_type": cell.platform,
        **{name: data[name] for name in own},
        "length": data["input_length"],
        "inference_time": None if latency is None else latency / 1e3,
        "throughput": data["throughput_per_s"],
        "memory_usage": data["memory_bytes"],
        "accuracy_score": agreement.get("cosine"),
        "fingerprint": environment["fingerprint"],
        "model_cid": data["model_cid"],
        "samples": {name: values for name, values in series.items() if values},
        "metadata": {
            "sweep": sweep,
            **{name: value for name, value in data.items() if name not in own},
            "environment": environment,
        },
    }
