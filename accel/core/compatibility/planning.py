"""From a matrix to a plan: which model goes where, with what command."""

from __future__ import annotations

from dataclasses import dataclass

from accel.core.compatibility.judging import Judgement
from accel.core.compatibility.matrix import Report
from accel.core.compatibility.placing import Option, Placement, Problem, place
from accel.core.compatibility.targets import Target

#: the pool of everything that takes the machine's own memory
HOST = "this machine's memory"


@dataclass(frozen=True)
class Plan:
    """A placement, and the way in which each model runs on each device it may be on."""

    placement: Placement
    problem: Problem
    ways: dict[tuple[str, str], Judgement]
    commands: dict[tuple[str, str], str]


def pool_of(target: Target) -> str:
    """The memory that a device takes from: CPUs and what shares their memory are one pool."""
    return HOST if target.present and target.supply.where == "free on this machine" else target.id


def plan(report: Report) -> Plan:
    """Places the models of a matrix.

    What a model is counted with is the bound that 95 % of such needs stay under, of the way as asked or, where that
    does not run, of the smallest change; a limit of memory bounds every pool.

    Raises:
        UnavailableError: OR-tools is not installed.
    """
    limit = report.request.memory_limit
    targets = {target.id: target for target in report.targets}
    pools = {name: pool_of(target) for name, target in targets.items()}
    free: dict[str, int | None] = {}
    for name, pool in pools.items():
        amounts = [v for v in (targets[name].supply.free, limit) if v is not None]
        free[pool] = min(amounts, default=None)
    ways: dict[tuple[str, str], Judgement] = {}
    commands: dict[tuple[str, str], str] = {}
    options = []
    for cell in report.cells:
        judged = cell.change.judgement if cell.change is not None else cell.judgement
        # a latency that is missed is a conflict to be named, everything else rules the device out
        if judged is None or any(r.kind != "latency" for r in judged.failing):
            continue
        key = (cell.model, cell.device)
        ways[key] = judged
        commands[key] = cell.change.command if cell.change is not None else cell.command
        seconds = None if judged.prediction is None else judged.prediction.latency_s
        options.append(Option(cell.model, cell.device, _counted(judged, targets[cell.device], limit), seconds))
    models = tuple(dict.fromkeys(report.request.models))
    problem = Problem(models, tuple(options), pools, free, report.request.latency_s)
    return Plan(place(problem), problem, ways, commands)


def _counted(judged: Judgement, target: Target, limit: int | None) -> int:
    """Bytes that a model is counted with: private ones where the limit is of those."""
    private = limit is not None and target.platform in ("cpu", "openvino")
    return judged.need.private_bound if private else judged.need.resident_bound
