"""Placing models on devices: optima that are known, limits that contradict each other, and size."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from accel.core.compatibility import placing
from accel.core.compatibility.placing import Option, Problem

GIB = 1 << 30


def problem(
    sizes: dict[str, float], rooms: dict[str, float], latency: dict[tuple[str, str], float], limit: float | None = None
) -> Problem:
    """Models of these GiB on devices of these GiB, each device its own pool."""
    options = tuple(Option(m, d, int(size * GIB), latency[m, d]) for m, size in sizes.items() for d in rooms)
    free = {d: int(room * GIB) for d, room in rooms.items()}
    return Problem(tuple(sizes), options, {d: d for d in rooms}, free, limit)


def cheapest(given: Problem) -> float | None:
    """The least sum of latencies, by trying every placement."""
    best = None
    own = [[o for o in given.options if o.model == m] for m in given.models]
    for combination in itertools.product(*own):
        used: dict[str, int] = {}
        for o in combination:
            used[given.pools[o.device]] = used.get(given.pools[o.device], 0) + o.memory
        if all(given.free[pool] is None or amount <= given.free[pool] for pool, amount in used.items()):  # type: ignore[operator]
            total = sum(o.latency_s or 0.0 for o in combination)
            best = total if best is None else min(best, total)
    return best


def test_a_known_optimum() -> None:
    """Both on the fast device do not fit; the one that loses less by it goes to the slow one."""
    latency = {("a", "fast"): 1.0, ("a", "slow"): 2.0, ("b", "fast"): 1.0, ("b", "slow"): 10.0}
    found = placing.place(problem({"a": 3, "b": 3}, {"fast": 4, "slow": 4}, latency))
    assert found.at == {"a": "slow", "b": "fast"}
    assert found.proven and found.total_latency_s == pytest.approx(3.0)


@pytest.mark.parametrize("seed", range(6))
def test_as_good_as_trying_everything(seed: int) -> None:
    """Five models on three devices, also where nothing fits."""
    dice = random.Random(seed)
    sizes = {f"m{i}": dice.uniform(0.5, 4) for i in range(5)}
    rooms = {f"d{i}": dice.uniform(2, 7) for i in range(3)}
    latency = {(m, d): dice.uniform(0.001, 0.1) for m in sizes for d in rooms}
    given = problem(sizes, rooms, latency)
    best, found = cheapest(given), placing.place(given)
    if best is None:
        assert not found.at and found.conflict
    else:
        assert found.total_latency_s == pytest.approx(best, abs=1e-5)


def test_devices_that_share_memory_share_it() -> None:
    """Two models that fit on either of two devices do not fit on both, if those are the same memory."""
    options = tuple(Option(m, d, 3 * GIB, 0.1) for m in "ab" for d in ("cpu:0", "openvino:CPU"))
    found = placing.place(Problem(("a", "b"), options, {"cpu:0": "host", "openvino:CPU": "host"}, {"host": 5 * GIB}))
    assert not found.at
    assert any("host has 5 GiB" in reason for reason in found.conflict)


def test_a_conflict_names_what_matters_and_nothing_else() -> None:
    """Models and limits that have no part in the contradiction are not named."""
    sizes = {"big": 8.0, "small": 0.1, "tiny": 0.1}
    latency = {(m, d): 0.01 for m in sizes for d in ("one", "two")}
    found = placing.place(problem(sizes, {"one": 4, "two": 6}, latency, limit=1.0))
    said = " ".join(found.conflict)
    assert not found.at and found.proven
    assert "big" in said and "one has 4 GiB" in said and "two has 6 GiB" in said
    assert "small" not in said and "tiny" not in said and "may take" not in said


def test_a_latency_that_nothing_reaches_is_the_conflict() -> None:
    """With room for everything, the time limit alone stands in the way."""
    found = placing.place(problem({"a": 1}, {"one": 4}, {("a", "one"): 0.2}, limit=0.05))
    assert not found.at
    assert any("may take 50 ms" in reason and "200 ms" in reason for reason in found.conflict)
    assert not any("GiB" in reason and reason.startswith("one") for reason in found.conflict)


def test_fallbacks_and_losses() -> None:
    """A model falls back to where there is room beside the others; what has no room is said to have none."""
    latency = {("a", "x"): 0.1, ("a", "y"): 0.2, ("b", "x"): 0.3, ("b", "y"): 0.1}
    found = placing.place(problem({"a": 2, "b": 3}, {"x": 4, "y": 5}, latency))
    assert found.at == {"a": "x", "b": "y"}
    assert found.fallbacks == {"a": ["y"], "b": []}  # beside a, only 2 GiB are left of x
    losses = {lost.device: lost for lost in found.losses}
    assert losses["x"].moved == {"a": "y"} and losses["x"].homeless == ()
    # only one of both has room on x: the one that need not move stays, or the other comes; never none
    assert len(losses["y"].homeless) == 1


def test_what_cannot_be_predicted_goes_last_and_not_under_a_limit() -> None:
    """An unknown time is taken where nothing else fits, and never where time is limited."""
    options = (Option("a", "known", GIB, 5.0), Option("a", "unknown", GIB, None))
    pools, free = {"known": "known", "unknown": "unknown"}, {"known": 2 * GIB, "unknown": None}
    assert placing.place(Problem(("a",), options, pools, free)).at == {"a": "known"}
    assert not placing.place(Problem(("a",), options[1:], pools, free, 1.0)).at
    assert placing.place(Problem(("a",), options[1:], pools, free)).at == {"a": "unknown"}


def test_a_model_without_any_device() -> None:
    """It is the conflict by itself."""
    found = placing.place(Problem(("a", "b"), (Option("a", "x", GIB, 0.1),), {"x": "x"}, {"x": 2 * GIB}))
    assert found.conflict == ["b has to have a place, and runs on no device"]


def fifty_by_ten() -> Problem:
    """Fifty models on ten devices that have 1.3 times the memory that they need together."""
    dice = random.Random(7)
    sizes = {f"m{i}": dice.uniform(0.5, 8) for i in range(50)}
    share = 1.3 * sum(sizes.values()) / 10
    rooms = {f"d{i}": share * dice.uniform(0.7, 1.3) for i in range(10)}
    latency = {(m, d): size * dice.uniform(0.5, 2.0) / 100 for m, size in sizes.items() for d in rooms}
    return problem(sizes, rooms, latency)


def test_fifty_models_on_ten_devices() -> None:
    """Everything has a place within the memory, with what happens when any device is lost."""
    given = fifty_by_ten()
    found = placing.place(given)
    assert len(found.at) == 50
    memory = {(o.model, o.device): o.memory for o in given.options}
    for device, room in given.free.items():
        assert room is not None and sum(memory[m, d] for m, d in found.at.items() if d == device) <= room
    assert {lost.device for lost in found.losses} == set(found.at.values())


@pytest.mark.perf
def test_fifty_models_on_ten_devices_in_time() -> None:
    """The bar of the issue, fallbacks and losses included."""
    given = fifty_by_ten()
    started = time.monotonic()
    found = placing.place(given)
    took = time.monotonic() - started
    print(f"50 models on 10 devices: {took:.2f} s, {'optimal' if found.proven else 'feasible'}")
    assert found.at and took < 5.0
