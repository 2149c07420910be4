"""The far end of a user's own benchmark, and of the question which benchmarks a file has.

The user's code runs here alone: what it does to its process, accel survives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from accel.core.bench import registry
from accel.core.bench.far import LEAD_S, memory_use, settle, timed
from accel.core.errors import InputError
from accel.core.memory_limit import limit_memory
from accel.core.worker import main


class CustomFar:
    """One benchmark of a user; answers the same requests as `accel.core.bench.far.CellFar`."""

    def __init__(self, request: dict[str, Any]) -> None:
        limit_memory(request["memory_limit"])
        self._about = request["bench"]
        settle(self._about["cpus"])
        self._benchmark: registry.BenchmarkBase | None = None
        self._last: Mapping[str, float] | None = None

    def listing(self) -> dict[str, Any]:
        """Which benchmarks the source registers."""
        return {"benchmarks": registry.as_json(registry.load(self._about["source"]))}

    def describe(self) -> dict[str, Any]:
        """Nothing is known about a user's inputs."""
        return {"length": None, "items": 1, "flops": None}

    def load(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Imports the source and sets the benchmark up."""
        started = time.perf_counter()
        found = registry.load(self._about["source"])
        name = self._about["name"]
        if name not in found:
            raise InputError(f"{self._about['source']} registers no {name!r} any more", "start the sweep anew")
        self._benchmark = found[name].kind(
            self._about["model"], plan["platform"], plan["device"], int(plan["threads"] or 0)
        )
        self._benchmark.setup()
        return {"load_s": time.perf_counter() - started, "precision": plan["precision"]}

    def _run(self) -> None:
        assert self._benchmark is not None
        self._last = self._benchmark.execute()

    def first(self) -> dict[str, Any]:
        """The first run."""
        started = time.perf_counter()
        self._run()
        return {"first_s": time.perf_counter() - started, "compile_s": None}

    def block(self, seconds: float, least: int, most: int, lead: bool) -> dict[str, Any]:
        """Runs it for a while; see `CellFar.block`."""
        if lead:
            timed(self._run, LEAD_S, 1, most)
        samples = timed(self._run, seconds, least, most)
        return {"samples": [s / 1e9 for s in samples], "first_token": [], "per_token": [], **memory_use()}

    def finish(self) -> dict[str, Any]:
        """Tears it down; returns the numbers of the last run."""
        assert self._benchmark is not None
        self._benchmark.teardown()
        return {"values": _numbers(self._last)}


def _numbers(values: object) -> dict[str, float | None]:
    """What `execute` returned, as JSON numbers; None for those that are not finite.

    Raises:
        InputError: not numbers by name.
    """
    import math

    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InputError(
            f"execute returned {type(values).__name__}, not numbers by name", "return a dictionary, or nothing"
        )
    done: dict[str, float | None] = {}
    for name, value in values.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise InputError(f"execute returned {name}={value!r}, which is no number", "return numbers") from None
        done[str(name)] = number if math.isfinite(number) else None
    return done


if __name__ == "__main__":
    main(CustomFar)
