"""Puts what `accel bench` and `accel run` measured beside predictions: the results become lines of the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from accel.core.errors import AccelError
from accel.core.fingerprint import fingerprint
from accel.core.performance import graphs, ledger, predict
from accel.core.performance.machines import Machine, machines
from accel.core.types import Model

#: results that are looked at, the newest
MOST = 500
_QUERY = """
    SELECT CAST(id AS VARCHAR), kind, model_name, task, device, engine, precision, batch, length, inference_time,
           memory_usage, metadata
    FROM benchmark_results
    WHERE fingerprint = ? AND kind IN ('bench', 'run') AND inference_time > 0 AND model_name IS NOT NULL
          AND coalesce(threads, 0) = 0
    ORDER BY seq DESC LIMIT ?
"""


@dataclass(frozen=True)
class _Result:
    """A measurement out of the results."""

    id: str
    kind: str
    model: str
    task: str | None
    device: str
    engine: str
    precision: str
    batch: int
    length: int | None
    seconds: float
    memory: int | None
    facts: dict[str, Any]


def gather(show: Callable[[str], None] = lambda _: None) -> int:
    """Adds every measurement that is not in the ledger yet, and returns how many there were.

    The prediction beside it is made now, by corrections that its own family had no part in. What cannot be predicted
    (another variant of a graph, a model that is no longer to be had) is passed over.

    Raises:
        TransferError: results or ledger cannot be read or written.
    """
    known = ledger.ids()
    found = [one for one in _results() if one.id not in known]
    models: dict[tuple[str, str | None], Model | None] = {}
    here: dict[str, Machine | None] = {}
    added = 0
    for result in reversed(found):
        key = (result.model, result.task)
        if key not in models:
            models[key] = _resolved(*key)
        if result.device not in here:
            here[result.device] = _machine(result.device)
        model, machine = models[key], here[result.device]
        if model is None or machine is None:
            continue
        try:
            entry = _entry(result, model, machine, show)
        except AccelError:
            continue  # sizes or a precision that cannot be predicted
        ledger.append(entry)
        added += 1
    return added


def _results() -> Iterator[_Result]:
    from accel.core.results import open_reader

    with open_reader() as con:
        rows = con.execute(_QUERY, [fingerprint(), MOST]).fetchall()
    for *values, metadata in rows:
        facts = json.loads(metadata) if isinstance(metadata, str) else metadata
        if not facts.get("variant") and facts.get("benchmark") is None:
            yield _Result(*[*values, facts])


def _resolved(name: str, task: str | None) -> Model | None:
    try:
        return graphs.resolve(name, task)
    except AccelError:
        return None


def _machine(device: str) -> Machine | None:
    try:
        return machines(device)[0]
    except AccelError:
        return None


def _entry(result: _Result, model: Model, machine: Machine, show: Callable[[str], None]) -> ledger.Entry:
    # how many tokens a run generated is not kept; bench has every decoder generate the same number
    length = result.length if model.family in (*graphs.TEXT, "audio") else None
    graph = graphs.graph_of(model, result.batch, length, show=show)
    if result.kind == "run" and graph.new_tokens:
        raise AccelError("the number of tokens is not known")
    found = predict.latency(graph, machine, result.engine, result.precision, without=model.family)
    return ledger.entry(
        found, graph, result.seconds, memory=result.memory, joules=result.facts.get("energy_j"), result=result.id
    )
