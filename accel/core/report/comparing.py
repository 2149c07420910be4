"""Two runs cell by cell, with the statistics of the gates of `accel bench`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accel.core.bench import ratios
from accel.core.bench.compare import Comparison, judged, slowdown
from accel.core.report.cells import Cell
from accel.core.report.environments import differences
from accel.core.report.runs import Run


@dataclass(frozen=True)
class Compared:
    """Run `a` (old) against run `b` (new).

    Attributes:
        cells: (comparison, cell of the new run or else of the old one).
        differences: of the circumstances.
        same_machine: whether both have the fingerprint of one machine.
    """

    a: Run
    b: Run
    threshold: float
    cells: tuple[tuple[Comparison, Cell], ...]
    differences: tuple[dict[str, str], ...]
    same_machine: bool

    def as_json(self) -> dict[str, Any]:
        """The document of `--json`."""
        return {
            "schema": "accel.report-compare/1",
            "a": self.a.name,
            "b": self.b.name,
            "threshold": self.threshold - 1.0,
            "same_machine": self.same_machine,
            "differences": list(self.differences),
            "cells": [comparison.as_json() for comparison, _ in self.cells],
        }


def compare(a: Run, b: Run, threshold: float) -> Compared:
    """The new run `b` against the old one `a`; both loaded with samples.

    Args:
        threshold: ratio from which a cell is slower: 1.03 for 3 %.
    """
    old, new = {cell.key: cell for cell in a.cells}, {cell.key: cell for cell in b.cells}
    found = judged([_one(key, old.get(key), new.get(key), threshold) for key in {**new, **old}], threshold)
    pairs = tuple((comparison, new.get(comparison.key) or old[comparison.key]) for comparison in found)
    both = next(((old[key], new[key]) for key in new if key in old), None)
    ends = both or ((a.cells[-1], b.cells[-1]) if a.cells and b.cells else None)
    return Compared(
        a,
        b,
        threshold,
        pairs,
        tuple(differences(*ends)) if ends else (),
        {cell.fingerprint for cell in a.cells} == {cell.fingerprint for cell in b.cells},
    )


def ratio(new: Cell, old: Cell, threshold: float = 1.0) -> tuple[ratios.Ratio, float] | None:
    """How much slower the new cell is, with an interval that holds what differs between processes, and the p-value of
    "at most `threshold`"; None where one of them has no samples.
    """
    ours, theirs = new.samples.get("inference_time"), old.samples.get("inference_time")
    if not ours or not theirs:
        return None
    medians = [cell.metadata.get("process_medians_ms") or [] for cell in (new, old)]
    return slowdown(ours, medians[0], theirs, medians[1], threshold)


def _one(key: str, old: Cell | None, new: Cell | None, threshold: float) -> Comparison:
    if old is None or new is None:
        return Comparison(key, "new", note="only in B") if old is None else Comparison(key, "gone", note="only in A")
    if new.status != "ok":
        note = str(new.metadata.get("reason") or new.cause)
        return Comparison(key, "failed" if old.status == "ok" else "undecided", note=note)
    found = ratio(new, old, threshold)
    if found is None:
        return Comparison(key, "undecided", note="one of the two has no samples", old_ms=old.latency_ms)
    return Comparison(key, "undecided", found[0], found[1], old.latency_ms, new.latency_ms)
