"""Whether something became slower: new against old, with one verdict per cell that stands up to being asked twice.

A cell is called slower only when the interval of the ratio of the medians lies above the threshold, corrected for the
number of cells, and when fresh processes say so again. Where the old environment can still run, old and new are
measured in turn, in short stretches right after each other, and compared pair by pair: what the machine does to both
cancels out.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from accel.core.bench import control, measured, statistics
from accel.core.bench.baselines import Baseline
from accel.core.bench.environment import environment, versions
from accel.core.bench.lanes import resource
from accel.core.bench.measured import Outcome
from accel.core.bench.process import Runtime, Settings, Visit
from accel.core.bench.runner import Wanted
from accel.core.bench.visiting import Group, State
from accel.core.probe import ProbeError, run_child
from accel.core.types import Model

Word = Literal["slower", "faster", "same", "undecided", "failed", "new", "gone"]
Way = Literal["twice", "identical", "stored"]
#: one-sided level, corrected for the number of cells: the interval of 95 % excludes the threshold
LEVEL = 0.025
#: seconds of one stretch of a pair: short, so that the machine is the same for both
STRETCH_S = 0.05
#: numbers of pairs of processes at which a duel looks whether it is decided; the level is shared among the looks
LOOKS = (8, 16, 32)
#: measuring time of one process of a pair, seconds, at least
LEAST_SHARE_S = 0.3
#: quantiles of a stretch that are compared: the median, and lower ones for a busy machine
QUANTILES = (0.5, 0.25, 0.1)
#: how much calmer than the median a lower quantile has to be to take its place
CALMER = 2.0
#: visits of the new side that is measured once more, at least and at most
LEAST_VISITS = 2
MOST_VISITS = 8


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
    ratio: statistics.Ratio | None = None
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
    found = _against(new, old, 1.0).ratio
    if found is None or math.isnan(found.value):
        return 1.0, 1.0
    low, high = (found.value if bound is None else bound for bound in (found.low, found.high))
    return min(1.0, low), max(1.0, high)


def clear(found: Comparison, threshold: float) -> bool:
    """Whether the stored numbers already show that a cell is not slower than the threshold."""
    return found.ratio is not None and found.ratio.high is not None and found.ratio.high <= threshold


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
            found.append(_against(outcome, old, threshold * (machine if resource(outcome.cell) == "host" else 1.0)))
    known = {outcome.cell.key for outcome in outcomes} | set(skipped) | {control.cell().key}
    found += [
        Comparison(key, "gone", note="it was not measured this time") for key in baseline.cells if key not in known
    ]
    return judged(found, threshold)


def _against(new: Outcome, old: Outcome, threshold: float) -> Comparison:
    ours, theirs = measured.steady_part(new.visits), measured.steady_part(old.visits)
    key = new.cell.key
    if ours is None or theirs is None:
        return Comparison(key, "undecided", note="one of the two has no samples")
    import numpy as np

    return Comparison(
        key,
        "undecided",
        statistics.ratio(ours.series, theirs.series),
        statistics.slower_p(ours.series, theirs.series, threshold),
        1e3 * float(np.median(theirs.series)),
        1e3 * float(np.median(ours.series)),
    )


def judged(found: Sequence[Comparison], threshold: float) -> list[Comparison]:
    """Verdicts, with the p-values of all that have one corrected for their number."""
    asked = [c for c in found if c.p is not None]
    corrected = dict(zip([c.key for c in asked], statistics.holm([c.p or 0.0 for c in asked]), strict=True))
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


class Duel:
    """New and old in turn, one fresh pair of processes after the other, until it is clear which it is.

    Two processes of the same program differ by a percent or more for as long as they live, so a pair of processes is
    one observation, however often it is measured. It is the median of the ratios of many short stretches, each of new
    and old right after each other.

    Args:
        runtime: of the old side.
        max_time_s: measuring time of each side.
        cells: how many cells are compared, for the correction.
    """

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime | None,
        threshold: float,
        max_time_s: float,
        cells: int,
        show: Callable[[str], None],
    ) -> None:
        self.settings, self.runtime, self.threshold = settings, runtime, threshold
        self.max_time_s, self.level, self.show = max_time_s, LEVEL / max(1, cells) / len(LOOKS), show

    def fight(self, outcome: Outcome, model: Model) -> Comparison:
        """Compares one cell; its p is corrected for the number of looks."""
        key = outcome.cell.key
        pairs: list[dict[float, float]] = []
        times: list[tuple[float, float]] = []
        spent, share = 0.0, LEAST_SHARE_S
        while len(pairs) < LOOKS[-1] and (len(pairs) < LOOKS[0] or spent < self.max_time_s):
            new = State(Outcome(outcome.cell), model, share_s=share)
            old = State(Outcome(outcome.cell), model, share_s=share, runtime=self.runtime)
            states = [new, old] if len(pairs) % 2 == 0 else [old, new]
            Group(states, self.settings, None, 0.0, self.show, stretch_s=STRETCH_S).visit()
            if new.outcome.status == "failed":
                return Comparison(key, "failed", how="interleaved", note=new.outcome.reason)
            if old.outcome.status == "failed":
                why = f"the old side failed: {old.outcome.reason}"
                return Comparison(key, "undecided", how="interleaved", note=why)
            one, two = new.outcome.visits[0], old.outcome.visits[0]
            found = paired(one, two)
            if found:
                pairs.append(found)
                times.append((_middle(one), _middle(two)))
            spent += max(new.spent_s, 1e-3)
            # measuring takes at least as long as getting there, within the time for the least number of pairs
            share = min(max(LEAST_SHARE_S, one.opening_s), max(LEAST_SHARE_S, self.max_time_s / LOOKS[0]))
            if len(pairs) in LOOKS:
                ratio, p, _ = decided(pairs, self.threshold)
                if p < self.level or (ratio.high is not None and ratio.high < self.threshold):
                    break
        ratio, p, quantile = decided(pairs, self.threshold)
        note = (
            ""
            if quantile == 0.5
            else f"by the {100 * quantile:g} % quantile, which others on this machine disturb less"
        )
        new_s, old_s = (sorted(side)[len(times) // 2] for side in zip(*times, strict=True)) if times else (0.0, 0.0)
        corrected = min(1.0, len(LOOKS) * p)
        return Comparison(key, "undecided", ratio, corrected, 1e3 * old_s, 1e3 * new_s, "interleaved", None, note)


def decided(pairs: Sequence[dict[float, float]], threshold: float) -> tuple[statistics.Ratio, float, float]:
    """Ratio, p-value and the quantile they are of, from the logarithms of ratios of each pair of processes.

    It is the median, unless others on the machine make it scatter much more than a lower quantile does. Scatter says
    nothing about the direction, so the choice favours neither verdict.
    """
    import numpy as np

    scatter = {
        q: float(np.median(np.abs(v - np.median(v)))) for q in QUANTILES for v in [np.array([p[q] for p in pairs])]
    }
    best = min(scatter, key=lambda q: scatter[q]) if pairs else 0.5
    chosen = best if pairs and scatter[0.5] > CALMER * scatter[best] else 0.5
    ratio, p = statistics.signed_rank([pair[chosen] for pair in pairs], threshold=threshold)
    return ratio, p, chosen


def _middle(visit: Visit) -> float:
    import numpy as np

    part = measured.steady_part([visit])
    return float(np.median(part.series)) if part is not None else 0.0


def once_more(
    outcome: Outcome,
    model: Model,
    baseline: Baseline,
    wanted: Wanted,
    threshold: float,
    show: Callable[[str], None],
) -> Comparison:
    """The new side measured anew in fresh processes, against the stored numbers of the old one.

    Args:
        threshold: with what the machine itself is slower by already in it.
    """
    again = Outcome(outcome.cell)
    state = State(again, model, share_s=wanted.max_time_s / LEAST_VISITS)
    while len(again.visits) < MOST_VISITS and state.spent_s < wanted.max_time_s and again.status == "ok":
        before = len(again.visits)
        Group([state], wanted.settings, None, wanted.target, show).visit()
        if len(again.visits) == before:
            break
    if again.status == "failed":
        return Comparison(outcome.cell.key, "failed", note=again.reason)
    return _against(again, baseline.cells[outcome.cell.key], threshold)


def paired(new: Visit, old: Visit) -> dict[float, float]:
    """The logarithm of the ratio new to old of two processes, for each of `QUANTILES`.

    It is the median over the stretches that were measured right after each other, from the steady state on. Empty where
    there are none.
    """
    import numpy as np

    both = [(one, two) for one, two in zip(_stretches(new), _stretches(old), strict=False) if one and two]
    found: dict[float, float] = {}
    for level in QUANTILES:
        ratios = [(float(np.quantile(one, level)), float(np.quantile(two, level))) for one, two in both]
        logs = [math.log(a / b) for a, b in ratios if a > 0.0 and b > 0.0]
        if not logs:
            return {}
        found[level] = float(np.median(logs))
    return found


def _stretches(visit: Visit) -> list[list[float]]:
    part = measured.steady_part([visit])
    start = part.starts[0] if part is not None else 0
    edges = [0, *visit.marks]
    return [visit.samples[max(a, start) : b] for a, b in itertools.pairwise(edges)]


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
