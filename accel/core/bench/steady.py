"""Where a series of timings becomes steady: found in the data, never a fixed number of warm-up runs.

Change points of the logarithm of the times are found by optimal partitioning (Jackson et al. 2005, IEEE Signal
Processing Letters 12; the cost is the one of PELT, Killick et al. 2012, JASA 107, whose pruning so few points do not
need), and the segments at the end that are of one level are the steady state, as in Barrett et al. 2017 (Virtual
machine warmup blows hot and cold, OOPSLA). The penalty grows with the autocorrelation of the noise, since dependent
noise looks like steps. A level that is left for a short while and returned to is a disturbance, not a warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.core.bench.statistics import as_series

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: levels that differ by less than this share are the same state
SAME = 0.03
#: share of all samples that the steady end must have to be believed
LEAST_SHARE = 0.2
LEAST_SAMPLES = 6
#: samples that do not belong to the level, as a share of a steady stretch, that are taken for a disturbance
DISTURBED = 0.2
#: a bin holds one sample of every `RESOLUTION` before it, so that a change is placed within 1/`RESOLUTION`
RESOLUTION = 40


@dataclass(frozen=True)
class Steady:
    """What was found about a series.

    Attributes:
        start: index of the first steady sample; None where no steady state was reached.
        reason: why none was reached; empty where one was.
    """

    start: int | None
    reason: str = ""

    @property
    def reached(self) -> bool:
        """Whether there is a steady state."""
        return self.start is not None


def detect(times: Sequence[float] | Array) -> Steady:
    """Finds the steady state of one process's consecutive times (seconds, the first inference included)."""
    import numpy as np

    series = as_series(times)
    n = len(series)
    if n < LEAST_SAMPLES:
        return Steady(None, f"{n} runs are too few to tell")
    positive = series[series > 0.0]
    if not positive.size:
        return Steady(0)
    logs = np.log(np.maximum(series, positive.min()))
    deviation, tau = _noise(logs)
    edges = _edges(n)
    sizes = np.diff(edges)
    values = np.empty(len(sizes))
    for size in np.unique(sizes):  # bins of one size together: one call for all of them
        bins = np.flatnonzero(sizes == size)
        values[bins] = np.median(logs[edges[bins][:, None] + np.arange(size)], axis=1)
    weights = sizes.astype(np.float64)
    penalty = 3.0 * max(deviation, SAME / 4.0) ** 2 * np.log(n)
    segments = _partition(values, weights, penalty, tau)
    return _judge([(int(edges[a]), int(edges[b])) for a, b in segments], logs, deviation * tau**0.5)


def _noise(logs: Array) -> tuple[float, float]:
    """Deviation of the noise around its level and its autocorrelation time, if it is AR(1).

    From differences alone, so that steps and drift do not count as noise: var(x[i+2] - x[i]) / var(x[i+1] - x[i]) is
    1 + phi.
    """
    import numpy as np

    def spread(differences: Array) -> float:
        return float(np.median(np.abs(differences - np.median(differences)))) / 0.6745

    one, two = spread(np.diff(logs)), spread(logs[2:] - logs[:-2])
    if one == 0.0:
        return two / 2.0**0.5, 1.0
    phi = min(max(two**2 / one**2 - 1.0, 0.0), 0.9)
    return one / (2.0 * (1.0 - phi)) ** 0.5, (1.0 + phi) / (1.0 - phi)


def _edges(n: int) -> Array:
    """Edges of bins that grow with the index."""
    import numpy as np

    edges = [0]
    while edges[-1] < n:
        edges.append(min(n, edges[-1] + max(1, edges[-1] // RESOLUTION)))
    return np.array(edges)


def _partition(values: Array, weights: Array, penalty: float, tau: float) -> list[tuple[int, int]]:
    """Optimal partition of weighted values into constant segments: half-open index pairs."""
    import numpy as np

    n = len(values)
    w = np.concatenate([[0.0], np.cumsum(weights)])
    s = np.concatenate([[0.0], np.cumsum(weights * values)])
    q = np.concatenate([[0.0], np.cumsum(weights * values**2)])
    best = np.zeros(n + 1)
    best[0] = -penalty * tau
    previous = np.zeros(n + 1, int)
    for end in range(1, n + 1):
        mass = w[end] - w[:end]
        cost = q[end] - q[:end] - (s[end] - s[:end]) ** 2 / mass
        total = best[:end] + np.maximum(cost, 0.0) + penalty * (1.0 + (tau - 1.0) * mass / (mass + tau))
        previous[end] = int(np.argmin(total))
        best[end] = total[previous[end]]
    segments = []
    end = n
    while end > 0:
        segments.append((int(previous[end]), end))
        end = int(previous[end])
    return segments[::-1]


def _judge(segments: list[tuple[int, int]], logs: Array, deviation: float) -> Steady:
    """Where the state that the series ends in began."""
    import numpy as np

    n = len(logs)
    levels = [float(np.median(logs[a:b])) for a, b in segments]
    sizes = [b - a for a, b in segments]
    tail = max(i for i, (a, _) in enumerate(segments) if a <= n - LEAST_SAMPLES)
    level, size = max((sizes[i], levels[i]) for i in range(tail, len(segments)))[::-1]

    low, high = _range(segments, levels, level)

    def same(i: int) -> bool:
        reach = max(np.log1p(SAME), 2.5 * deviation * (1 / sizes[i] + 1 / size) ** 0.5)
        return bool(low - reach <= levels[i] <= high + reach)

    own = [size if same(i) else -size for i, size in enumerate(sizes)]
    start = next((a for i, (a, _) in enumerate(segments) if _begins(own[i:])), n)
    if n - start < max(LEAST_SHARE * n, LEAST_SAMPLES):
        return Steady(None, f"the time per run was the same in no more than the last {n - start} of {n} runs")
    half = (start + n) // 2
    drift = float(np.median(logs[half:]) - np.median(logs[start:half]))
    if abs(drift) > max(np.log1p(SAME), high - low, 3.75 * deviation * (2 / (n - half)) ** 0.5):
        return Steady(None, f"the time per run drifts by {100 * abs(drift):.0f} % within the last {n - start} runs")
    return Steady(start)


def _range(segments: list[tuple[int, int]], levels: list[float], level: float) -> tuple[float, float]:
    """Between which levels the end of the series goes to and fro.

    Of the segments in the last half: levels that it came to at least twice, without the tenth of the runs above and
    below that others on the machine disturbed. A level that was left for good is not among them.
    """
    import numpy as np

    middle = segments[-1][1] // 2
    late = [(levels[i], b - max(a, middle)) for i, (a, b) in enumerate(segments) if b > middle]
    found = [level for level, _ in late]

    def second(sign: float) -> float:
        signed = [-np.inf, *(sign * value for value in found), -np.inf]
        turns = sorted(b for a, b, c in zip(signed, signed[1:], signed[2:], strict=False) if b > a and b > c)
        return float(sign * turns[-2]) if len(turns) > 1 else level

    ordered = sorted(late)
    share = np.cumsum([size for _, size in ordered]) / sum(size for _, size in late)
    least, most = (ordered[int(np.searchsorted(share, q))][0] for q in (0.1, 0.9))
    return min(level, max(second(-1.0), least)), max(level, min(second(1.0), most))


def _begins(own: list[int]) -> bool:
    """Whether a steady stretch begins here: own samples count up, foreign ones down.

    From its first sample on the own ones are always the majority, and foreign ones are a small share of the whole.
    """
    foreign = -sum(size for size in own if size < 0)
    if not own or own[0] < 0 or foreign > DISTURBED * sum(abs(size) for size in own):
        return False
    balance = 0
    for size in own:
        balance += size
        if balance < 0:
            return False
    return True
