"""Places models on devices under limits of memory and latency with a constraint solver (OR-tools CP-SAT).

Every model goes to exactly one device; what is on devices that share memory together needs no more than is free there;
each model's own latency limit holds, as if it had the device alone while it works. Among all placements that fit, the
one with the least sum of latencies is taken. Where none fits, the limits that contradict each other are named: the
solver's sufficient assumptions for infeasibility, thinned out until none can be left away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accel.core.errors import UnavailableError

#: unit of memory inside the solver: amounts are rounded up to it, supplies down
_UNIT = 1 << 20
#: seconds for the first answer, and for each that follows from it
TIME_LIMIT_S, FOLLOWING_S = 3.0, 0.3
#: latency (microseconds) of a way whose time nobody can predict: behind all that can be
_UNKNOWN = 10**9


@dataclass(frozen=True)
class Option:
    """A model on a device: bytes, and seconds (None where unknown)."""

    model: str
    device: str
    memory: int
    latency_s: float | None = None


@dataclass(frozen=True)
class Problem:
    """What is to be placed.

    Attributes:
        pools: of each device, the memory that it takes from; devices of one pool share it.
        free: bytes of each pool; None for no limit.
        latency_s: limit for each model; None for none.
    """

    models: tuple[str, ...]
    options: tuple[Option, ...]
    pools: Mapping[str, str]
    free: Mapping[str, int | None]
    latency_s: float | None = None


@dataclass(frozen=True)
class Lost:
    """What happens when a device is lost: where its models go, what else moves, and what has no place any more."""

    device: str
    moved: dict[str, str]
    homeless: tuple[str, ...]


@dataclass
class Placement:
    """Where every model goes, or why that is impossible.

    Attributes:
        at: device by model; empty where it is impossible.
        proven: no placement is better (or possible).
        fallbacks: by model, the other devices it fits on beside everything else, best first.
        conflict: limits that cannot hold together, in words.
    """

    at: dict[str, str] = field(default_factory=dict)
    proven: bool = True
    total_latency_s: float | None = None
    fallbacks: dict[str, list[str]] = field(default_factory=dict)
    losses: list[Lost] = field(default_factory=list)
    conflict: list[str] = field(default_factory=list)


def solver() -> Any:
    """The module `cp_model`.

    Raises:
        UnavailableError: OR-tools is not installed.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise UnavailableError(
            f"a plan needs OR-tools, which cannot be imported: {error}", "pip install 'ipfs-accel[planning]'"
        ) from error
    return cp_model


def place(problem: Problem, time_limit_s: float = TIME_LIMIT_S) -> Placement:
    """The best placement with fallbacks and what the loss of each device would mean, or the conflict.

    Raises:
        UnavailableError: OR-tools is not installed.
    """
    found, proven = _solve(problem, time_limit_s)
    if found is None:
        return Placement(proven=proven, conflict=conflict(problem) if proven else ["no answer in the time there was"])
    known = {(o.model, o.device): o for o in problem.options}
    times = [known[model, device].latency_s for model, device in found.items()]
    placement = Placement(
        found, proven, None if any(t is None for t in times) else sum(t for t in times if t is not None)
    )
    placement.fallbacks = {model: _fallbacks(problem, found, model) for model in problem.models}
    placement.losses = [_without(problem, found, device) for device in dict.fromkeys(found.values())]
    return placement


def _micro(option: Option) -> int:
    return _UNKNOWN if option.latency_s is None else math.ceil(1e6 * option.latency_s)


def _in_time(problem: Problem, option: Option) -> bool:
    if problem.latency_s is None:
        return True
    return option.latency_s is not None and option.latency_s <= problem.latency_s


def _solve(problem: Problem, time_limit_s: float) -> tuple[dict[str, str] | None, bool]:
    """Device by model with the least sum of latencies (None if there is none), and whether that is proven."""
    cp = solver()
    model = cp.CpModel()
    chosen = {(o.model, o.device): model.new_bool_var("") for o in problem.options if _in_time(problem, o)}
    for name in problem.models:
        model.add_exactly_one([var for (m, _), var in chosen.items() if m == name])
    options = {(o.model, o.device): o for o in problem.options}
    for pool, room in problem.free.items():
        if room is not None:
            model.add(_used(problem, options, chosen, pool) <= room // _UNIT)
    model.minimize(sum(_micro(options[key]) * var for key, var in chosen.items()))
    engine = cp.CpSolver()
    engine.parameters.max_time_in_seconds = time_limit_s
    engine.parameters.random_seed = 0
    status = engine.solve(model)
    if status in (cp.OPTIMAL, cp.FEASIBLE):
        return {m: d for (m, d), var in chosen.items() if engine.value(var)}, status == cp.OPTIMAL
    return None, status == cp.INFEASIBLE


def _used(problem: Problem, options: Mapping[tuple[str, str], Option], chosen: Mapping[Any, Any], pool: str) -> Any:
    inside = [(key, var) for key, var in chosen.items() if problem.pools[key[1]] == pool]
    return sum(-(-options[key].memory // _UNIT) * var for key, var in inside)


def conflict(problem: Problem) -> list[str]:
    """Limits that cannot hold together, none of which can be left away.

    Every limit is an assumption: memory of a pool, latency of a model, and that a model has a place at all.
    """
    names = [("place", name) for name in problem.models]
    names += [("memory", pool) for pool, room in problem.free.items() if room is not None]
    names += [("latency", name) for name in problem.models] if problem.latency_s is not None else []
    core = _core(problem, names)
    if core is None:
        return []
    for name in list(core):
        rest = [other for other in core if other != name]
        smaller = _core(problem, rest)
        if smaller is not None:
            core = [other for other in rest if other in smaller]
    return [_said(problem, kind, name) for kind, name in core]


def _core(problem: Problem, assumed: Sequence[tuple[str, str]]) -> list[tuple[str, str]] | None:
    """The assumptions among these that suffice for infeasibility; None where they can hold together."""
    cp = solver()
    model = cp.CpModel()
    literal = {name: model.new_bool_var(f"{name[0]} {name[1]}") for name in assumed}
    options = {(o.model, o.device): o for o in problem.options}
    chosen = {key: model.new_bool_var("") for key in options}
    for name in problem.models:
        own = [var for (m, _), var in chosen.items() if m == name]
        model.add_at_most_one(own)
        if ("place", name) in literal:
            model.add_bool_or([*own, literal["place", name].negated()])
        if ("latency", name) in literal:
            for key, var in chosen.items():
                if key[0] == name and not _in_time(problem, options[key]):
                    model.add_implication(literal["latency", name], var.negated())
    for pool, room in problem.free.items():
        if room is not None and ("memory", pool) in literal:
            model.add(_used(problem, options, chosen, pool) <= room // _UNIT).only_enforce_if(literal["memory", pool])
    model.add_assumptions(list(literal.values()))
    engine = cp.CpSolver()
    engine.parameters.max_time_in_seconds = FOLLOWING_S
    engine.parameters.num_workers = 1  # assumptions are only followed by a single worker
    if engine.solve(model) != cp.INFEASIBLE:
        return None
    by_index = {var.index: name for name, var in literal.items()}
    return [by_index[index] for index in engine.sufficient_assumptions_for_infeasibility() if index in by_index]


def _said(problem: Problem, kind: str, name: str) -> str:
    if kind == "memory":
        room = problem.free[name]
        assert room is not None
        return f"{name} has {room / 2**30:.3g} GiB"
    own = [o for o in problem.options if o.model == name]
    if kind == "latency":
        assert problem.latency_s is not None
        quickest = min((o.latency_s for o in own if o.latency_s is not None), default=None)
        best = "no time can be predicted" if quickest is None else f"its fastest place takes {1e3 * quickest:.3g} ms"
        return f"{name} may take {1e3 * problem.latency_s:.4g} ms, and {best}"
    if not own:
        return f"{name} has to have a place, and runs on no device"
    least = min(own, key=lambda o: o.memory)
    return f"{name} has to have a place: at least {least.memory / 2**30:.3g} GiB ({least.device})"


def _room(problem: Problem, at: Mapping[str, str], without: str) -> dict[str, float]:
    """Bytes left in each pool when a model is taken out."""
    memory = {(o.model, o.device): o.memory for o in problem.options}
    left = {pool: math.inf if room is None else float(room) for pool, room in problem.free.items()}
    for model, device in at.items():
        if model != without:
            left[problem.pools[device]] -= memory[model, device]
    return left


def _fallbacks(problem: Problem, at: Mapping[str, str], model: str) -> list[str]:
    left = _room(problem, at, model)
    able = [
        o
        for o in problem.options
        if o.model == model
        and o.device != at[model]
        and _in_time(problem, o)
        and o.memory <= left[problem.pools[o.device]]
    ]
    return [o.device for o in sorted(able, key=_micro)]


def _without(problem: Problem, at: Mapping[str, str], device: str) -> Lost:
    """The placement after a device is lost: as many models as possible keep a place, then as few as possible move."""
    cp = solver()
    model = cp.CpModel()
    options = {(o.model, o.device): o for o in problem.options if o.device != device and _in_time(problem, o)}
    chosen = {key: model.new_bool_var("") for key in options}
    for name in problem.models:
        model.add_at_most_one([var for (m, _), var in chosen.items() if m == name])
    for pool, room in problem.free.items():
        if room is not None:
            model.add(_used(problem, options, chosen, pool) <= room // _UNIT)
    # a place weighs more than all moves together, and a move more than all latencies (in milliseconds) together
    slow = 1 + sum(min(_micro(o), _UNKNOWN) // 1000 for o in options.values())
    move = slow
    home = move * (1 + len(problem.models))
    model.maximize(
        sum(
            (home + (move if at[m] == d else 0) - _micro(options[m, d]) // 1000) * var for (m, d), var in chosen.items()
        )
    )
    engine = cp.CpSolver()
    engine.parameters.max_time_in_seconds = FOLLOWING_S
    engine.parameters.random_seed = 0
    status = engine.solve(model)
    found = {m: d for (m, d), var in chosen.items() if engine.value(var)} if status in (cp.OPTIMAL, cp.FEASIBLE) else {}
    moved = {m: d for m, d in found.items() if at[m] != d}
    return Lost(device, moved, tuple(m for m in problem.models if m not in found))
