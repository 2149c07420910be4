"""Evidence: kept per model, machine and shape; damaged files count as none."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from accel.core import evidence
from accel.core.agreement import agreement
from accel.core.evidence import Evidence, Shape, Verdict
from accel.core.types import Model

MODEL = Model("m", "local", None, (), "transformers", {}, "text-encoder", "fill-mask", "pretrained", "d" * 64)
VERDICT = Verdict("cpu:0", "cpu", "torch", "fp32", "", 0, 0.01, 1.0, 1.0, 0.0, "", "2")


def found(fingerprint: str, shape: Shape, scope: str) -> list[Verdict] | None:
    result = evidence.find(MODEL, fingerprint, shape, scope)
    return list(result.verdicts) if result else None


def keep(fingerprint: str, shape: Shape, scope: str, verdict: Verdict) -> None:
    evidence.keep(MODEL, fingerprint, scope, Evidence(shape, (verdict,), 60.0, True))


def test_evidence_stands_for_near_shapes_on_the_same_machine_only() -> None:
    keep("fp", Shape(2, 100), "scope", VERDICT)
    for near in (Shape(2, 100), Shape(2, 400), Shape(2, 25), Shape(4, 100), Shape(1, 100)):
        assert found("fp", near, "scope") == [VERDICT], near
    for far in (Shape(2, 401), Shape(2, 24), Shape(8, 100), Shape(32, 100)):
        assert found("fp", far, "scope") is None, far
    assert found("other machine", Shape(2, 100), "scope") is None
    assert found("fp", Shape(2, 100), "other scope") is None


def test_the_nearest_shape_wins_and_a_new_measurement_replaces_the_old() -> None:
    other = dataclasses.replace(VERDICT, engine="onnxruntime")
    keep("fp", Shape(1, 64), "s", VERDICT)
    keep("fp", Shape(1, 200), "s", other)
    assert found("fp", Shape(1, 70), "s") == [VERDICT]
    assert found("fp", Shape(1, 180), "s") == [other]
    keep("fp", Shape(1, 64), "s", other)
    assert found("fp", Shape(1, 70), "s") == [other]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 99}', b'{"schema": 1, "entries": {}}'])
def test_a_damaged_file_is_no_evidence_and_is_replaced(isolated_home: Path, damage: bytes) -> None:
    keep("fp", Shape(1, 8), "s", VERDICT)
    (path,) = (isolated_home / "plans").glob("*.json")
    path.write_bytes(damage)
    assert found("fp", Shape(1, 8), "s") is None
    keep("fp", Shape(1, 8), "s", VERDICT)
    assert found("fp", Shape(1, 8), "s") == [VERDICT]


def test_writers_at_once_lose_nothing() -> None:
    def write(number: int) -> None:
        keep(f"fp{number}", Shape(1, 8), "s", VERDICT)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found(f"fp{k}", Shape(1, 8), "s") for k in range(16))


def test_agreement_is_the_worst_of_the_batch() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = agreement(np.array([[1.0, 0.0], [1.0, 1.0]]), reference)
    assert found["cosine"] == pytest.approx(2**-0.5)
    assert found["max_abs"] == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_never_agree(value: float) -> None:
    found = agreement(np.array([[1.0, value]]), np.array([[1.0, 1.0]]))
    assert found["finite"] is False
    assert found["cosine"] == 0.0


def test_another_shape_never_agrees() -> None:
    assert agreement(np.ones((1, 3)), np.ones((1, 2)))["cosine"] == 0.0


def test_zero_rows_agree_only_with_zero_rows() -> None:
    assert agreement(np.zeros((1, 2)), np.zeros((1, 2)))["cosine"] == 1.0
    assert agreement(np.ones((1, 2)), np.zeros((1, 2)))["cosine"] == 0.0
