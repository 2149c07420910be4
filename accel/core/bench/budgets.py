"""Absolute budgets: `--assert "p95<20ms"`, checked on every cell that was measured."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accel.core.errors import InputError
from accel.core.settings import near

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_TIMES = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4}
_SIZES = {"b": 1.0}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZES[f"{_letter}b"], _SIZES[f"{_letter}ib"] = 1000.0**_power, 1024.0**_power
_ENERGIES = {"j": 1.0, "mj": 1e-3, "kj": 1e3}
_FORM = re.compile(r"\s*([A-Za-z0-9_.]+)\s*(<=|>=|<|>)\s*([0-9.]+(?:e[+-]?\d+)?)\s*([^\s\d]*)\s*", re.IGNORECASE)


def _of(*path: str) -> Callable[[dict[str, Any]], Any]:
    def get(cell: dict[str, Any]) -> Any:
        value: Any = cell
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    return get


#: name: (where it is in a cell, units of one of the three kinds, or none)
METRICS: dict[str, tuple[Callable[[dict[str, Any]], Any], dict[str, float]]] = {
    "median": (_of("latency_ms"), _TIMES),
    "latency": (_of("latency_ms"), _TIMES),
    "mean": (_of("mean_ms"), _TIMES),
    "min": (_of("min_ms"), _TIMES),
    "max": (_of("max_ms"), _TIMES),
    **{p: (_of("quantiles", p, "value_ms"), _TIMES) for p in ("p50", "p90", "p95", "p99")},
    "load": (_of("phases", "load_ms"), _TIMES),
    "prepare": (_of("phases", "prepare_ms"), _TIMES),
    "compile": (_of("phases", "compile_ms"), _TIMES),
    "first": (_of("phases", "first_ms"), _TIMES),
    "first_token": (_of("first_token_ms"), _TIMES),
    "throughput": (_of("throughput_per_s"), {}),
    "tokens_per_s": (_of("tokens_per_s"), {}),
    "memory": (_of("memory_bytes"), _SIZES),
    "device_memory": (_of("device_memory_bytes"), _SIZES),
    "energy": (_of("energy_j"), _ENERGIES),
    "cosine": (_of("agreement", "cosine"), {}),
    "max_abs": (_of("agreement", "max_abs"), {}),
    "top1": (_of("agreement", "top1"), {}),
}


@dataclass(frozen=True)
class Budget:
    """One budget. `limit` is in milliseconds, bytes, joules or plain numbers, as the metric is."""

    text: str
    metric: str
    comparison: str
    limit: float

    def check(self, cell: dict[str, Any]) -> str:
        """Why a cell (of `accel.bench/1`) breaks the budget; empty where it keeps it."""
        if cell["status"] == "failed":
            return f"{self.text}: it failed ({cell['reason']})"
        value = METRICS[self.metric][0](cell)
        if value is None:
            return f"{self.text}: {self.metric} was not measured"
        if _COMPARISONS[self.comparison](value, self.limit):
            return ""
        return f"{self.text}: it is {shown(self.metric, value)}"


def shown(metric: str, value: float) -> str:
    """A value with the unit of its metric."""
    units = METRICS[metric][1]
    if units is _TIMES:
        return f"{value:.4g} ms"
    if units is _SIZES:
        return f"{value / 1e6:.4g} MB"
    return f"{value:.6g}{' J' if units is _ENERGIES else ''}"


def parse(text: str) -> Budget:
    """Reads a budget such as `p95<20ms`, `memory<1GB` or `cosine>0.999`.

    Raises:
        InputError: not of this form, an unknown metric, or a unit that does not belong to it.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f"--assert {text!r} cannot be read", "write it as p95<20ms, memory<1GB or cosine>0.999")
    metric, comparison, number, unit = match[1].lower(), match[2], match[3], match[4]
    if metric not in METRICS:
        meant = near(metric, METRICS)
        raise InputError(
            f"--assert {text!r}: nothing is called {metric!r}",
            f"did you mean {meant}?" if meant else f"known: {', '.join(METRICS)}",
        )
    units = METRICS[metric][1]
    if units and not unit:
        raise InputError(f"--assert {text!r} has no unit", f"give one of {', '.join(units)}")
    percent = unit == "%" and metric == "top1"
    if not percent and (unit.lower() not in units if units else bool(unit)):
        raise InputError(
            f"--assert {text!r}: {metric} is not in {unit!r}",
            f"give one of {', '.join(units)}" if units else "give a plain number",
        )
    try:
        limit = float(number)
    except ValueError as error:
        raise InputError(f"--assert {text!r}: {number!r} is not a number", "p95<20ms") from error
    factor = 0.01 if percent else units[unit.lower()] if units else 1.0
    return Budget("".join(text.split()), metric, comparison, limit * factor)


def broken(budgets: Sequence[Budget], cells: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(key of the cell, what it breaks) for every budget that a measured or failed cell breaks."""
    return [
        (cell["key"], why)
        for cell in cells
        if cell["status"] != "skipped"
        for budget in budgets
        if (why := budget.check(cell))
    ]
