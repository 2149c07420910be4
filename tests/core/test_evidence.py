"""Evidence: kept per model, machine and shape; damaged files count as none."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from accel.core import evidence
from accel.core.agreement import agreement
from accel.core.evidence import Shape, Verdict
from accel.core.types import Model

MODEL = Model("m", "local", None, (), "transformers", {}, "text-encoder", "fill-mask", "pretrained", "d" * 64)
VERDICT = Verdict("cpu:0", "cpu", "torch", "fp32", "", 0, 0.01, 1.0, 1.0, 0.0, "", "2")


def test_what_was_kept_is_found_for_the_same_shape_bucket_only() -> None:
    evidence.keep(MODEL, "fp", Shape(1, 100), "scope", [VERDICT])
    assert evidence.find(MODEL, "fp", Shape(1, 128), "scope") == [VERDICT]
    assert evidence.find(MODEL, "fp", Shape(1, 129), "scope") == []
    assert evidence.find(MODEL, "fp", Shape(2, 100), "scope") == []
    assert evidence.find(MODEL, "other machine", Shape(1, 100), "scope") == []
    assert evidence.find(MODEL, "fp", Shape(1, 100), "other scope") == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 99}', b'{"schema": 1, "entries": {}}'])
def test_a_damaged_file_is_no_evidence_and_is_replaced(isolated_home: Path, damage: bytes) -> None:
    evidence.keep(MODEL, "fp", Shape(1, 8), "s", [VERDICT])
    (path,) = (isolated_home / "plans").glob("*.json")
    path.write_bytes(damage)
    assert evidence.find(MODEL, "fp", Shape(1, 8), "s") == []
    evidence.keep(MODEL, "fp", Shape(1, 8), "s", [VERDICT])
    assert evidence.find(MODEL, "fp", Shape(1, 8), "s") == [VERDICT]


def test_writers_at_once_lose_nothing() -> None:
    def write(number: int) -> None:
        evidence.keep(MODEL, f"fp{number}", Shape(1, 8), "s", [VERDICT])

    threads = [threading.Thread(target=write, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(evidence.find(MODEL, f"fp{k}", Shape(1, 8), "s") for k in range(16))


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
