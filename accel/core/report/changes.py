"""Change points: where a series of results took another level.

Maximally selected rank statistics: every place to cut the series in two is judged by the standardised rank sum of
Wilcoxon, and the best one by how often the best one of a shuffled series is as good (Lausen and Schumacher 1992,
Biometrics 48; Hothorn and Lausen 2003, Computational Statistics and Data Analysis 43). Ranks need no assumption about
the distribution of timings, and outliers move them little. Found places cut the series in two, and both parts are
searched again (binary segmentation, Vostrikova 1981, Soviet Mathematics Doklady 24); in the end each place is tested
once more between its neighbours, and dropped where it no longer stands out.

Shuffling takes the results of different nights for independent. Where a machine drifts for days, more is found than
the software changed, which is why a change is reported with what changed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

METHOD = "maximally selected rank statistics (Lausen and Schumacher 1992) with binary segmentation"
#: results on each side of a change, at least
LEAST = 4
#: fewer results than these cannot be told from chance at the level below, however they lie
FEWEST = 10
#: how often shuffled results may look like a change
LEVEL = 0.01
#: share of the best standardised rank sum from which a cut may be the true one as well: of steps of 5 % in noise of 2 %
#: the range holds 97 %
NEAR = 0.95
_SHUFFLES = 999
#: shuffled series as good as the true one after which nobody need look further (Besag and Clifford 1991, Biometrika 78)
_ENOUGH = 20
_SEED = 20250101


@dataclass(frozen=True)
class Change:
    """A place where a series took another level.

    Attributes:
        index: the first value of the new level. earliest, latest: the range that it may lie in as well.
        before, after: medians of the stretches on both sides, up to the neighbouring changes.
        p: how often the best cut of shuffled values is as good.
    """

    index: int
    earliest: int
    latest: int
    before: float
    after: float
    p: float

    @property
    def ratio(self) -> float:
        """New level to old level."""
        return self.after / self.before


def find(values: Sequence[float], *, least_ratio: float = 1.01, level: float = LEVEL) -> list[Change]:
    """The changes of level of a series, first to last.

    Args:
        values: above zero, in the order they were measured.
        least_ratio: levels that differ by less (in either direction) are the same to the user.
        level: significance of each.
    """
    import numpy as np

    series = np.asarray(values, dtype=np.float64)
    cuts: list[int] = []
    todo = [(0, len(series))]
    while todo:
        start, end = todo.pop()
        cut, p, _ = _best_cut(series[start:end])
        if cut and p < level:
            cuts.append(start + cut)
            todo += [(start, start + cut), (start + cut, end)]
    cuts.sort()
    while True:
        bounds = [0, *cuts, len(series)]
        found = [_change(series, *bounds[i : i + 3]) for i in range(len(cuts))]
        weak = [c for c in found if c.p >= level or max(c.ratio, 1.0 / c.ratio) < least_ratio]
        if not weak:
            return found
        # one at a time: what stands beside a change that is dropped is judged anew
        cuts.remove(max(weak, key=lambda c: c.p).index)


def _change(series: Array, start: int, cut: int, end: int) -> Change:
    import numpy as np

    before, after = series[start:cut], series[cut:end]
    best, p, near = _best_cut(series[start:end])
    places = [cut, start + best, *(start + place for place in near)]
    return Change(cut, min(places), max(places), float(np.median(before)), float(np.median(after)), p)


def _best_cut(series: Array) -> tuple[int, float, list[int]]:
    """The cut with the greatest standardised rank sum, its p-value, and the cuts around it that are nearly as good.

    0, 1 and nothing for a series that is too short.
    """
    import numpy as np

    n = len(series)
    if n < FEWEST:
        return 0, 1.0, []
    ranked = ranks(series)
    places = np.arange(LEAST, n - LEAST + 1)
    scale = np.sqrt(places * (n - places))

    def strength(sums: Array) -> Array:
        return np.asarray(np.abs(sums - places * (n + 1) / 2.0) / scale)

    own = strength(np.cumsum(ranked)[places - 1])
    best = int(np.argmax(own))
    source = np.random.default_rng(_SEED)
    as_good = done = 0
    while done < _SHUFFLES and as_good < _ENOUGH:
        count = min(max(20, 3 * done), _SHUFFLES - done, max(1, 200_000 // n))
        shuffled = source.permuted(np.tile(ranked, (count, 1)), axis=1)
        largest = strength(np.cumsum(shuffled, axis=1)[:, places - 1]).max(axis=1)
        as_good += int((largest >= own[best] - 1e-9).sum())
        done += count
    # the run of good cuts around the best one; beyond a worse one lies something else
    good = own >= NEAR * own[best]
    first, last = best, best
    while first > 0 and good[first - 1]:
        first -= 1
    while last + 1 < len(good) and good[last + 1]:
        last += 1
    return int(places[best]), (1 + as_good) / (1 + done), [int(places[first]), int(places[last])]


def ranks(series: Array) -> Array:
    """Ranks from 1, the mean of them for equal values."""
    import numpy as np

    _, place, count = np.unique(series, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2.0)[place])
