"""Which cards a process may use: the rules of `CUDA_VISIBLE_DEVICES` and of its AMD relatives.

Source: the CUDA programming guide on environment variables, and `torch.cuda._parse_visible_devices`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def visible(value: str | None, names: Sequence[Sequence[str]]) -> list[int]:
    """Positions of the cards that a variable lets through, in its order.

    A list holds numbers or names (a unique beginning of a UUID is enough). What follows an entry that fits no card is
    ignored, as the drivers do; an entry given twice hides everything.

    Args:
        value: content of the variable; None where it is not set.
        names: for each card the names it answers to (`GPU-...`, `MIG-...`).
    """
    if value is None:
        return list(range(len(names)))
    chosen: list[int] = []
    by_name: bool | None = None
    for entry in (part.strip() for part in value.split(",")):
        number = re.match(r"\+?(\d+)", entry)
        if by_name is None:
            by_name = number is None
        if by_name != (number is None):
            break
        if number is not None:
            fits = [int(number[1])] if int(number[1]) < len(names) else []
        else:
            fits = [i for i, own in enumerate(names) if entry and any(_begins(name, entry) for name in own)]
        if len(fits) != 1:
            break
        if fits[0] in chosen:
            return []
        chosen += fits
    return chosen


def _begins(name: str, entry: str) -> bool:
    return len(entry) > 4 and name.lower().startswith(entry.lower())
