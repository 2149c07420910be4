"""What measurements teach, and whether intervals hold what they promise, on data whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from accel.core.fingerprint import fingerprint
from accel.core.paths import home
from accel.core.performance import calibration, ledger
from accel.core.performance.learning import Pair, conformal, corrected, fit, held_out, learn, memory_fit
from accel.core.performance.memory import PARTS
from accel.core.performance.prices import CLASSES

FAMILIES = ("a", "b", "c", "d", "e", "f", "g")


def made(count: int, noise: float, seed: int, truth: dict[str, float] | None = None) -> list[Pair]:
    """Pairs of a machine whose classes really cost these factors, with multiplicative noise."""
    random = np.random.default_rng(seed)
    factors = truth or {"product": 1.4, "convolution": 0.8, "memory": 1.2}
    found = []
    for number in range(count):
        seconds = {name: float(random.exponential(0.01)) for name in CLASSES}
        real = sum(value * factors.get(name, 1.0) for name, value in seconds.items())
        found.append(Pair(FAMILIES[number % 7], seconds, real * math.exp(random.normal(0, noise))))
    return found


def test_factors_are_found_again() -> None:
    """From measurements without noise of a machine that differs by class."""
    pairs = made(60, 0.0, 1)
    factors = fit(pairs)
    before = np.mean([abs(corrected(p, {}) / p.measured - 1) for p in pairs])
    after = np.mean([abs(corrected(p, factors) / p.measured - 1) for p in pairs])
    assert after < 0.4 * before
    assert factors["product"] > 1.15 > 0.95 > factors["convolution"]


def test_little_evidence_changes_little() -> None:
    """One odd measurement does not turn everything over; none changes nothing; no factor is negative."""
    assert fit([]) == {}
    (only,) = made(1, 0.0, 2)
    odd = dataclasses.replace(only, measured=5 * corrected(only, {}))
    assert 1.0 < corrected(odd, fit([odd])) / corrected(odd, {}) < 5.0
    backwards = made(40, 0.0, 3, {"product": -2.0, "memory": 8.0, "convolution": 8.0})
    assert min(fit([p for p in backwards if p.measured > 0]).values()) >= 0.1


def test_the_interval_covers_nine_of_ten_that_were_never_seen() -> None:
    """Over many machines: the share of new families' measurements within the interval of the old ones."""
    inside = total = 0
    for seed in range(40):
        pairs = made(56, 0.15, 100 + seed)
        seen, unseen = [p for p in pairs if p.group != "g"], [p for p in pairs if p.group == "g"]
        learned = learn(seen, "ledger")
        inside += sum(abs(math.log(p.measured / corrected(p, learned.factors))) <= learned.halfwidth for p in unseen)
        total += len(unseen)
    assert 0.85 <= inside / total <= 0.95


def test_a_family_is_judged_by_the_others() -> None:
    """A family of its own kind has large residuals when it is left out, though a fit with it would hide that."""
    pairs = [p for p in made(42, 0.0, 5) if p.group != "g"]
    strange = [dataclasses.replace(p, measured=2 * p.measured, group="g") for p in made(7, 0.0, 6)]
    residuals = held_out([*pairs, *strange])
    assert min(residuals[-7:]) > 0.4
    assert max(map(abs, residuals[:-7])) < 0.4


@pytest.mark.parametrize(("count", "rank"), [(9, 9), (19, 18), (99, 90)])
def test_the_rank_of_split_conformal_prediction(count: int, rank: int) -> None:
    """The ceil((n + 1) 0.9)-th smallest residual; with fewer than nine there is no such rank and more is taken."""
    residuals = [(-1) ** i * (i + 1) / 100 for i in range(count)]
    assert conformal(residuals) == rank / 100
    assert conformal(residuals[:5]) > 0.05
    assert conformal([]) > 0


def test_the_line_of_memory_is_found_again() -> None:
    """From peaks that are a line of their parts; what takes nothing gets nothing and never less."""
    random = np.random.default_rng(7)
    told = {"runtime": 3e8, "dense": 2.0, "activations": 1.5, "cache": 1.0}
    truth = dict.fromkeys(PARTS, 0.0) | told
    measured = []
    for _ in range(30):
        parts = {"runtime": 1.0, **{name: float(random.exponential(1e8)) for name in PARTS[1:]}}
        measured.append((parts, sum(truth[name] * amount for name, amount in parts.items())))
    line = memory_fit(measured)
    assert line == pytest.approx(truth, rel=0.02, abs=0.02)
    without = memory_fit([(parts, peak - 0.5 * parts["tables"]) for parts, peak in measured])
    assert min(without.values()) >= 0.0


def entry(**changes: object) -> ledger.Entry:
    """A measurement of this machine."""
    values: dict[str, object] = {
        "fingerprint": fingerprint(), "model": "m", "family": "cnn", "device": "cpu:0", "engine": "torch",
        "precision": "fp32", "batch": 1, "length": None, "seconds": {"product": 0.01}, "predicted_s": 0.011,
        "low_s": 0.009, "high_s": 0.013, "measured_s": 0.010, "calibrated": True,
        "version": calibration.version_of("torch"),
    }  # fmt: skip
    return ledger.Entry(**{**values, **changes})  # type: ignore[arg-type]


def test_the_ledger_tells_errors_and_coverage() -> None:
    """By family, device and engine; the last measurement of a workload counts, others' machines do not."""
    assert ledger.accuracy() == []
    ledger.append(entry())
    ledger.append(entry(batch=2, predicted_s=0.02, measured_s=0.01))
    ledger.append(entry(batch=2, predicted_s=0.012, measured_s=0.01))
    ledger.append(entry(fingerprint="another", predicted_s=1.0))
    ledger.append(entry(engine="openvino", predicted_s=0.008, measured_s=0.016))
    with open(home() / "ledger.jsonl", "a") as file:
        file.write('{"schema": 1, "cut sho\n[]\n')
    openvino, torch = ledger.accuracy()
    assert (torch["pairs"], openvino["pairs"]) == (2, 1)
    assert torch["mean_absolute_error"] == pytest.approx(0.15)
    assert torch["coverage"] == 1.0
    assert openvino["bias"] == pytest.approx(-0.5)
    assert openvino["coverage"] == 0.0


def test_pairs_belong_to_the_calibration_that_is_used() -> None:
    """Seconds that were predicted under another version of an engine teach nothing about this one."""
    ledger.append(entry())
    ledger.append(entry(batch=2, version="0.1/1"))
    ledger.append(entry(batch=3, calibrated=False))
    assert len(ledger.pairs("cpu:0", "torch", "fp32")) == 1


def test_measured_power_is_used() -> None:
    """Joules of a counter, over the time they were counted in."""
    assert ledger.power("cpu:0") is None
    ledger.append(entry(joules=0.5))
    assert ledger.power("cpu:0") == pytest.approx(50.0)


def test_appending_from_several_processes_loses_nothing() -> None:
    """Every line is written whole."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(_append, range(30))
    lines = (home() / "ledger.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["batch"] for line in lines) == list(range(1, 31))


def _append(number: int) -> None:
    ledger.append(entry(batch=number + 1))
