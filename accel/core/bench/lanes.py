"""Which cells may be measured at the same time, and on which CPUs each runs.

Two cells that share what is measured would measure each other. A cell on the processor takes the whole machine; a cell
on a card takes the card, and the machine only as a place to start from.
"""

from __future__ import annotations

from collections.abc import Sequence

from accel.core.bench.cells import Cell
from accel.core.cpu import allowed_cpus, parse_list
from accel.core.probe import read_text


def resource(cell: Cell) -> str:
    """What a cell takes for itself: `host`, or a card.

    Integrated GPUs and NPUs of OpenVINO, browsers and Qualcomm share the processor's memory, so they are `host` too.
    """
    if cell.platform in ("cuda", "rocm"):
        return cell.device
    return "host"


def waves(cells: Sequence[Cell], most: int) -> list[list[list[Cell]]]:
    """Waves of lanes: the lanes of one wave run at the same time, at most `most`; the waves one after the other.

    Cells of one card are in one lane. Cells that take the whole machine are a wave of their own.
    """
    if most <= 1:
        return [[list(cells)]] if cells else []
    by_resource: dict[str, list[Cell]] = {}
    for cell in cells:
        by_resource.setdefault(resource(cell), []).append(cell)
    host = by_resource.pop("host", [])
    spread: list[list[Cell]] = [[] for _ in range(min(most, len(by_resource)))]
    for group in sorted(by_resource.values(), key=len, reverse=True):
        min(spread, key=len).extend(group)
    return [wave for wave in (spread, [host] if host else []) if wave]


def cpus_for(cell: Cell, affinity: Sequence[int] | None = None, root: str = "") -> list[int] | None:
    """The CPUs that a cell is put on: those asked for; else, with a thread count, one per thread on cores of their own.

    None leaves the choice to the system.
    """
    if affinity is not None:
        return list(affinity)
    usable = sorted(allowed_cpus())
    if not cell.threads or cell.threads >= len(usable) or resource(cell) != "host":
        return None
    first: list[int] = []
    later: list[int] = []
    taken: set[int] = set()
    for cpu in usable:
        siblings = parse_list(read_text(f"{root}/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", 256))
        (later if cpu in taken else first).append(cpu)
        taken |= siblings
    return (first + later)[: cell.threads]
