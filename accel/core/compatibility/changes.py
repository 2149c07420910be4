"""The smallest change that makes a workload run, judged as the workload itself was, and the command for it.

Changes are ordered by how little they take away: another engine gives the same answers; preparing once without the
limit costs time; a smaller batch costs throughput; shorter texts and fewer new tokens give shorter answers; another
precision gives other numbers. Fewer kinds of change go before more. Moving weights to and fro (offload) is not among
them, since `accel run` does not do it.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from accel.core.compatibility.disk import weights_here
from accel.core.compatibility.judging import Bounds, Judgement, Sized, Way, judge
from accel.core.compatibility.targets import Target
from accel.core.errors import AccelError
from accel.core.performance import graphs
from accel.core.types import PRECISIONS, Model

#: the shortest text and the fewest new tokens that are offered
LEAST_LENGTH, LEAST_TOKENS = 16, 8
#: how much each kind of change takes away, in order
_WEIGHT = {"engine": 1, "prepared": 2, "batch": 3, "new_tokens": 4, "length": 5, "precision": 8}
#: what a precision takes away beyond the change itself
_LOSS = {"fp32": 0.0, "fp16": 0.1, "bf16": 0.2, "int8": 0.4}


@dataclass(frozen=True)
class Change:
    """A way that runs where the one asked for does not.

    Attributes:
        kinds: fields of the way that differ. words: what changes, for people.
        command: of `accel run`, as it can be typed.
    """

    judgement: Judgement
    kinds: tuple[str, ...]
    words: str
    command: str


def smallest(
    model: Model, sized: Sized, target: Target, asked: Way, engines: Sequence[str], bounds: Bounds, revision: str | None
) -> Change | None:
    """The smallest change after which every requirement is met, or None.

    Args:
        asked: the way that does not run. engines: that may be used instead.
    """
    for way in sorted(_ways(sized, asked, engines), key=lambda one: _size(asked, one)):
        try:
            graph = sized(way.batch, way.length, way.new_tokens)
        except AccelError:
            continue  # a length that the model does not take
        judged = judge(model, graph, target, way, bounds)
        if judged.runs:
            kinds = _kinds(asked, way)
            return Change(judged, kinds, _words(asked, way), command(model, target, way, bounds, revision))
    return None


def _kinds(asked: Way, way: Way) -> tuple[str, ...]:
    return tuple(name for name in _WEIGHT if getattr(asked, name) != getattr(way, name))


def _size(asked: Way, way: Way) -> tuple[float, float, float, float, float]:
    """Kinds of change together, then how far each goes."""
    kinds = _kinds(asked, way)
    weight = sum(_WEIGHT[name] for name in kinds) + _LOSS[way.precision]
    return (weight, -way.batch, -(way.length or 0), -way.new_tokens, 0.0)


def _halves(value: int, least: int) -> list[int]:
    """The value and its halves, down to the least."""
    found = [value]
    while found[-1] // 2 >= least:
        found.append(found[-1] // 2)
    return found


def _ways(sized: Sized, asked: Way, engines: Sequence[str]) -> Iterator[Way]:
    graph = sized(asked.batch, asked.length, asked.new_tokens)
    text = graph.family in ("text-encoder", "text-decoder") and graph.length is not None
    lengths: list[int | None] = [asked.length]
    if text and graph.length is not None:
        lengths += [length for length in _halves(graph.length, LEAST_LENGTH) if length != graph.length]
    tokens = _halves(asked.new_tokens, LEAST_TOKENS) if graph.cache_bytes else [asked.new_tokens]
    precisions = [asked.precision, *(p for p in PRECISIONS if p != asked.precision)]
    every = itertools.product(
        dict.fromkeys([asked.engine, *engines]), precisions, _halves(asked.batch, 1), lengths, tokens, (False, True)
    )
    for engine, precision, batch, length, count, before in every:
        way = replace(
            asked, engine=engine, precision=precision, batch=batch, length=length, new_tokens=count, prepared=before
        )
        if way != asked:
            yield way


def _words(asked: Way, way: Way) -> str:
    said = {
        "engine": f"with {way.engine}",
        "prepared": "prepared once without the limit",
        "batch": f"in batches of {way.batch}",
        "new_tokens": f"with at most {way.new_tokens} new tokens",
        "length": f"with texts of at most {way.length} tokens",
        "precision": f"in {way.precision}",
    }
    return ", ".join(said[name] for name in _kinds(asked, way))


def command(model: Model, target: Target, way: Way, bounds: Bounds, revision: str | None = None) -> str:
    """The `accel run` for a way; for a device of the catalogue as it is typed on a machine that has it."""
    words = ["accel", "run", model.name, "--hw", target.id if target.present else target.platform]
    words += ["--engine", way.engine, "--precision", way.precision, "--no-trial"]
    if way.batch > 1:
        words += ["--batch", str(way.batch)]
    if model.family in ("text-decoder", "multimodal", "audio") and way.new_tokens != graphs.NEW_TOKENS:
        words += ["--max-new-tokens", str(way.new_tokens)]
    if revision and f"@{revision}" not in model.name:
        words += ["--revision", revision]
    if model.entry.get("trust_remote_code"):
        words += ["--trust-remote-code"]
    if model.source == "local" and not weights_here(model):
        words += ["--weights", "random"]
    first = shlex.join(words)
    if bounds.memory is None or target.platform not in ("cpu", "openvino"):
        return first
    limited = shlex.join([*words, "--memory-limit", str(bounds.memory)])
    return f"{first} && {limited}" if way.prepared else limited
