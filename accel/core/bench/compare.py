"""Whether something became slower: new against old, with one verdict per cell that stands up to being asked twice.

A cell is called slower only when the interval of the ratio of the medians lies above the threshold, corrected for the
number of cells, and when fresh processes say so again (`accel.core.bench.duel`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from accel.core.bench import control, measured, ratios
from accel.core.bench.baselines import Baseline
from accel.core.bench.environment import environment, versions
from accel.core.bench.lanes import resource
from accel.core.bench.measured import Outcome
from accel.core.bench.process import Runtime
from accel.core.probe import ProbeError, run_child

if TYPE_CHECKING:
    from accel.core.bench.statistics import Array

Word = Literal["slower", "faster", "same", "undecided", "failed", "new", "gone"]
Way = Literal["twice", "identical", "stored"]
#: one-sided level, corrected for the number of cells: the interval of 95 % excludes the threshold
LEVEL = 0.025


@dataclass(frozen=True)
class Comparison:
    """One cell against its baseline.

    Attributes:
        word: the verdict. `undecided` is no failure; `failed` worked in the baseline and does not now.
        ratio: new to old; None where one of them is missing.
        p: one-sided, corrected for the number of cells.
        how: `stored` numbers, or `interleaved` old and new.
        confirmed: whether fresh processes said the same; None where nobody had to ask.
    """

    key: str
    word: Word
    ratio: ratios.Ratio | None = None
    p: float | None = None
    old_ms: float | None = None
    new_ms: float | None = None
    how: str = "stored"
    confirmed: bool | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        ratio = self.ratio
        return {
            **{name: value for name, value in self.__dict__.items() if name not in ("ratio", "word")},
            "verdict": self.word,
            "ratio": None if ratio is None or math.isnan(ratio.value) else ratio.value,
            "ratio_interval": None if ratio is None else [ratio.low, ratio.high],
        }


@dataclass(frozen=True)
class Old:
    """The environment that a baseline was measured in.

    Attributes:
        runtime: how to run it today; None where that is not possible.
        plugins: digests of third-party plugins there, by kind and name.
        same: interpreter, accel and libraries are those of this process.
        differences: (what, then, now) of what changed.
    """

    runtime: Runtime | None
    plugins: dict[str, str]
    same: bool
    differences: tuple[tuple[str, str, str], ...]

    def way(self, new: Outcome, old: Outcome) -> Way:
        """How a cell can be compared: `twice` where the old side can run beside the new one, `identical` where all that
        accel knows of is the same on both sides, else `stored`."""
        if new.cell.benchmark:
            return "stored"  # nobody knows what a user's own benchmark depends on
        then = {name: old.identity.get(name) for name in ("model_digest", "engine_version", "plugins")}
        if self.same and all(new.identity.get(name) == value for name, value in then.items()):
            return "identical"
        if self.runtime is None or new.identity.get("model_digest") != then["model_digest"]:
            return "stored"
        family = str(new.identity.get("family") or "")
        here = [self.plugins.get(f"engines {new.cell.engine}", ""), self.plugins.get(f"families {family}", "")]
        return "twice" if here == (then["plugins"] or ["", ""]) else "stored"


def old_environment(baseline: Baseline) -> Old:
    """Whether the baseline's environment can run today, and how it differs from this one.

    Only a baseline of the home folder is run: a file from elsewhere may name any program.
    """
    then, now = baseline.environment, environment()
    differences = [
        (name, str(then.get(name)), str(now.get(name)))
        for name in ("python", "system", "accel", "commit", "code")
        if then.get(name) != now.get(name)
    ]
    had, has = then.get("versions") or {}, versions()
    differences += [
        (name, had.get(name, "absent"), has.get(name, "absent"))
        for name in sorted({*had, *has})
        if had.get(name) != has.get(name)
    ]
    same = not any(name in ("python", "code", *had, *has) for name, _, _ in differences)
    runtime, plugins = _runtime(baseline) if baseline.own else (None, {})
    return Old(runtime, plugins, same, tuple(differences))


_ASK = """
import json, sys
from accel.core.bench.environment import code_digest, plugin_digest, versions
plugins = {f"{kind} {name}": plugin_digest(kind, name) for kind, name in json.loads(sys.argv[1])}
print(json.dumps([code_digest(), versions(), plugins]))
"""


def _runtime(baseline: Baseline) -> tuple[Runtime | None, dict[str, str]]:
    """The old environment, if it is still what it was, and the digests of its plugins."""
    then = baseline.environment
    interpreter, path = str(then.get("interpreter") or ""), tuple(map(str, then.get("path") or ()))
    if not os.access(interpreter, os.X_OK) or not path:
        return None, {}
    wanted = {("engines", outcome.cell.engine) for outcome in baseline.cells.values()}
    wanted |= {("families", str(outcome.identity.get("family") or "")) for outcome in baseline.cells.values()}
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    try:
        answer = run_child([interpreter, "-P", "-c", _ASK, json.dumps(sorted(wanted))], 60.0, variables)
        code, found, plugins = json.loads(answer)
    except (ProbeError, ValueError):
        return None, {}
    if code != then.get("code") or found != then.get("versions"):
        return None, {}
    return Runtime(interpreter, path), plugins


def machine_change(outcomes: Sequence[Outcome], baseline: Baseline) -> tuple[float, float]:
    """How the machine itself may have changed since the baseline: at most 1 (it may be faster) and at least 1 (slower).

    Both are 1 where nobody knows.
    """
    key = control.cell().key
    new = next((outcome for outcome in outcomes if outcome.cell.key == key), None)
    old = baseline.cells.get(key)
    if new is None or old is None or new.status != "ok":
        return 1.0, 1.0
    found = against(new, old, 1.0).ratio
    if found is None or math.isnan(found.value):
        return 1.0, 1.0
    low, high = (found.value if bound is None else bound for bound in (found.low, found.high))
    return min(1.0, low), max(1.0, high)


def clear(found: Comparison, threshold: float) -> bool:
    """Whether the stored numbers already show that a cell is not slower than the threshold.

    One that looks faster by as much is not clear: it may be the baseline that was measured on a machine that was busy.
    """
    ratio = found.ratio
    if ratio is None or ratio.low is None or ratio.high is None:
        return False
    return ratio.high <= threshold and ratio.low >= 1.0 / threshold


def doubtful(found: Comparison, threshold: float) -> bool:
    """Whether a cell looks slower than the threshold and is not known well enough to be called so."""
    return found.word == "undecided" and found.ratio is not None and found.ratio.value > threshold


def stored(
    outcomes: Sequence[Outcome],
    baseline: Baseline,
    threshold: float,
    skipped: Sequence[str] = (),
    machine: float = 1.0,
) -> list[Comparison]:
    """Every cell against the stored numbers.

    Args:
        threshold: ratio from which a cell is slower: 1.03 for 3 %.
        skipped: keys of cells that were left out on purpose this time.
        machine: what `machine_change` said; cells on the processor have to be slower than that too.
    """
    found: list[Comparison] = []
    for outcome in outcomes:
        key = outcome.cell.key
        old = baseline.cells.get(key)
        if old is None:
            found.append(Comparison(key, "new", note="the baseline has no such cell"))
        elif outcome.status != "ok":
            found.append(Comparison(key, "failed", note=outcome.reason))
        else:
            found.append(against(outcome, old, threshold * (machine if resource(outcome.cell) == "host" else 1.0)))
    known = {outcome.cell.key for outcome in outcomes} | set(skipped) | {control.cell().key}
    found += [
        Comparison(key, "gone", note="it was not measured this time") for key in baseline.cells if key not in known
    ]
    return judged(found, threshold)


def against(new: Outcome, old: Outcome, threshold: float) -> Comparison:
    ours, theirs = measured.steady_part(new.visits), measured.steady_part(old.visits)
    key = new.cell.key
    if ours is None or theirs is None:
        return Comparison(key, "undecided", note="one of the two has no samples")
    import numpy as np

    ratio, p = slowdown(ours.series, ours.medians, theirs.series, theirs.medians, threshold)
    old_s, new_s = float(np.median(theirs.series)), float(np.median(ours.series))
    return Comparison(key, "undecided", ratio, p, 1e3 * old_s, 1e3 * new_s)


def slowdown(
    new: Sequence[float] | Array,
    new_medians: Sequence[float],
    old: Sequence[float] | Array,
    old_medians: Sequence[float],
    threshold: float,
) -> tuple[ratios.Ratio, float]:
    """The ratio of two medians with an interval that holds what differs between processes, and the p-value of "the new
    median is at most `threshold` times the old one".

    Args:
        new, old: steady samples. new_medians, old_medians: of each process; empty where they are not known.
    """
    ratio = ratios.ratio(new, old)
    p = ratios.slower_p(new, old, threshold)
    known = len(new_medians) > 0 and len(old_medians) > 0
    processes = ratios.across_ratio(new_medians, old_medians, threshold) if known else None
    if processes is None:
        return ratio, p
    low, high, between = processes
    unbounded = ratio.low is None or ratio.high is None
    ratio = ratios.Ratio(
        ratio.value,
        low if ratio.low is None else min(low, ratio.low),
        high if ratio.high is None else max(high, ratio.high),
    )
    # samples in a row that bound nothing have no say: the processes differ by more than their runs do
    return ratio, between if unbounded else max(p, between)


def judged(found: Sequence[Comparison], threshold: float) -> list[Comparison]:
    """Verdicts, with the p-values of all that have one corrected for their number."""
    asked = [c for c in found if c.p is not None]
    corrected = dict(zip([c.key for c in asked], ratios.holm([c.p or 0.0 for c in asked]), strict=True))
    return [
        replace(c, p=corrected[c.key], word=_word(c, corrected[c.key], threshold)) if c.key in corrected else c
        for c in found
    ]


def _word(found: Comparison, p: float, threshold: float) -> Word:
    ratio = found.ratio
    if p < LEVEL:
        return "slower"
    if ratio is None or ratio.low is None or ratio.high is None:
        return "undecided"
    if ratio.high < 1.0:
        return "faster"
    return "same" if ratio.high <= threshold else "undecided"


def confirmed(first: Comparison, again: Comparison) -> Comparison:
    """The verdict after a second look: slower only if both say so."""
    if first.word != "slower" or again.word in ("slower", "failed"):
        return replace(again, confirmed=True)
    note = "it looked slower at first, but not when it was measured again"
    word: Word = "same" if again.word in ("same", "faster") else "undecided"
    return replace(again, word=word, confirmed=False, note=again.note or note)


def excused(found: Comparison) -> Comparison:
    """The verdict on a cell whose software is the same as in the baseline: then it is the machine that is slower."""
    if found.word != "slower":
        return found
    note = "nothing that accel knows of differs from the baseline: the machine itself is slower"
    return replace(found, word="undecided", note=note)
