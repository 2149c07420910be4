"""What `accel compat --plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accel.output import Output, human_bytes

if TYPE_CHECKING:
    from accel.core.compatibility.planning import Plan


def record(plan: Plan) -> dict[str, Any]:
    """The plan as the object that `--json` prints."""
    placed = plan.placement
    memory = {(o.model, o.device): o.memory for o in plan.problem.options}
    return {
        "feasible": bool(placed.at),
        "proven": placed.proven,
        "total_latency_ms": None if placed.total_latency_s is None else 1e3 * placed.total_latency_s,
        "placements": [
            {
                "model": model,
                "device": device,
                "memory_bytes": memory[model, device],
                "command": plan.commands[model, device],
                "fallbacks": placed.fallbacks[model],
            }
            for model, device in placed.at.items()
        ],
        "losses": [
            {"device": lost.device, "moved": lost.moved, "homeless": list(lost.homeless)} for lost in placed.losses
        ],
        "conflict": placed.conflict,
    }


def show(output: Output, plan: Plan) -> None:
    """The plan for people."""
    placed = plan.placement
    if not placed.at:
        output.line("no plan: these cannot hold together")
        for reason in placed.conflict:
            output.paragraph(f"- {reason}")
        return
    memory = {(o.model, o.device): o.memory for o in plan.problem.options}
    rows = [
        [model, device, human_bytes(memory[model, device]), ", ".join(placed.fallbacks[model]) or "none"]
        for model, device in placed.at.items()
    ]
    output.table(("model", "goes to", "memory", "fallbacks"), rows, right=("memory",), whole=("goes to", "memory"))
    for lost in placed.losses:
        parts = [f"{model} moves to {device}" for model, device in lost.moved.items()]
        parts += [f"{model} has no place" for model in lost.homeless]
        output.paragraph(f"without {lost.device}: {', '.join(parts) or 'nothing changes'}")
    for key in placed.at.items():
        output.line(plan.commands[key])
    if not placed.proven:
        output.note("a better plan was not ruled out in the time there was")
