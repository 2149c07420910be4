"""One `accel run`: from the user's request to answers, for a single input and for thousands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from accel.core import inputs
from accel.core.browser.audience import VISITOR, Mode, invite, linger, tell
from accel.core.bulk import BulkRun, auto_batch
from accel.core.errors import AccelError, InputError, PartialError, TransferError
from accel.core.inference import SCHEMA, Answer, Runner, ensure_writable_home, reject
from accel.core.logs import profiled
from accel.core.outputs import ResultWriter, open_writer
from accel.core.planner import Wish
from accel.core.types import PRECISIONS, Item, Options, Weights


@dataclass(frozen=True)
class Request:
    """What the user asked of `accel run`; the fields are the command's options."""

    model: str
    item: Item | None = None
    stdin: bool = False
    input_file: Path | None = None
    destination: Path | None = None
    resume: bool = False
    task: str | None = None
    hw: str = "auto"
    engine: str | None = None
    precision: str | None = None
    tolerance: float | None = None
    batch: str = "auto"
    threads: int = 0
    memory_limit: str | None = None
    strict: bool = False
    audience: Mode = ""
    trial: bool = True
    trial_budget_s: float = 60.0
    weights: str | None = None
    revision: str | None = None
    refresh: bool = False
    trust_remote_code: bool = False
    frozen: bool = False
    options: Options = field(default_factory=Options)


class Listener(Protocol):
    """Hears what happens during a run, in order."""

    #: whether text should be emitted as it is generated
    streams: bool

    def show(self, line: str) -> None:
        """A slow step begins."""

    def warn(self, line: str) -> None:
        """Something the user has to know."""

    def say(self, line: str) -> None:
        """Something the user has to do."""

    def transferred(self, label: str, done_bytes: int, total_bytes: int | None) -> None:
        """A download or a check of files moves on. May be called from another thread."""

    def emit(self, text: str) -> None:
        """A piece of generated text."""

    def answer(self, runner: Runner, answer: Answer) -> None:
        """An input was answered."""

    def failure(self, index: int, error: AccelError) -> None:
        """An input of a bulk run could not be answered."""

    def planned(self, runner: Runner) -> None:
        """The answers are complete: where they were made, and why there."""

    def progress(self, total: int | None) -> AbstractContextManager[Any]:
        """A progress display with a method `advance(count)`."""


def make_wish(request: Request) -> Wish:
    """The request's place and manner of execution, with the configuration where the command line is silent.

    Raises:
        InputError: an unknown device, engine or precision. UnavailableError: the device is not there.
    """
    from accel.core import config
    from accel.core.devices import usable
    from accel.core.registry import names, suggest
    from accel.core.settings import parse_size

    precision = request.precision or config.get("hardware.precision")
    if precision not in (*PRECISIONS, "auto"):
        raise InputError(f"--precision {precision!r} is unknown", f"use auto, {', '.join(PRECISIONS)}")
    if request.engine is not None and request.engine not in names("engines"):
        raise InputError(f"--engine {request.engine!r} is unknown", suggest(request.engine, names("engines")))
    limit = parse_size(request.memory_limit) if request.memory_limit else config.get("hardware.memory_limit")
    return Wish(
        devices=_visitor(request.hw) if request.audience == "wait" else usable(request.hw),
        engine=request.engine,
        precision=precision,
        tolerance=request.tolerance,
        threads=request.threads,
        trial=request.trial,
        budget_s=request.trial_budget_s,
        memory_limit=limit,
        strict=request.strict,
    )


def _visitor(hw: str) -> tuple[tuple[str, str], ...]:
    """The browser that somebody is going to open, as a device: whatever it is, it is not looked for here."""
    if hw not in ("webgpu", "webnn"):
        raise InputError(f"--wait-for-browser cannot run on {hw!r}", "--hw webgpu or --hw webnn")
    return ((hw, f"{hw}:{VISITOR.kind}"),)


def carry_out(request: Request, listener: Listener) -> None:
    """Runs the request and tells the listener.

    Raises:
        AccelError: it could not be done. PartialError: some inputs of a bulk run could not be answered.
    """
    from accel.core.models import resolve

    if request.weights not in (None, "random", "pretrained"):
        raise InputError(f"--weights {request.weights!r} is unknown", "use random, or leave it out")
    if request.resume and (request.input_file is None or request.destination is None):
        raise InputError("--resume needs --input-file and --output", "it goes on after the results that --output holds")
    if request.batch != "auto" and not (request.batch.isdecimal() and int(request.batch) > 0):
        raise InputError(f"--batch {request.batch!r} is neither a number above 0 nor auto", "--batch 8")
    temporary = ensure_writable_home(listener.warn)
    try:
        if request.audience:
            invite(request.audience, listener.say)
        wish = make_wish(request)
        with profiled("resolve"):
            model = resolve(
                request.model,
                revision=request.revision,
                task=request.task,
                weights=cast("Weights | None", request.weights),
                refresh=request.refresh,
                trust_remote_code=request.trust_remote_code,
                progress=listener.transferred,
                lock="frozen" if request.frozen else "use",
            )
        runner = Runner(model, request.options, wish, listener.show, listener.warn)
        try:
            if request.input_file is not None:
                _many_from_file(request, runner, listener)
            elif request.stdin or (request.item is None and inputs.stdin_has_input()):
                _many(request, runner, listener, inputs.from_stdin(), None, None)
            else:
                _few(request, runner, listener)
        finally:
            runner.close()
    finally:
        if temporary is not None:
            temporary.cleanup()


def _few(request: Request, runner: Runner, listener: Listener) -> None:
    with profiled("recipe"):
        items = [request.item] if request.item is not None else runner.family.example_items()
    with profiled("preprocess"):
        encoded = [reject(e) for e in runner.encode(items)]
    length = max(e.length for e in encoded)
    graphs = runner.recipe.graphs
    single = len(items) == 1 and len(graphs) == 1 and not any(g.cache for g in graphs.values())
    runner.start_best(items, length, len(items), len(items), single=single)
    emit: Callable[[str], None] | None = listener.emit if listener.streams and len(items) == 1 else None
    with profiled("execute"):
        results = runner.execute(range(len(items)), encoded, emit)
    for result in results:
        if not isinstance(result, Answer):
            raise result[1]
        _answered(result, runner, listener)
    listener.planned(runner)
    linger()
    latencies = [r.latency_s for r in results if isinstance(r, Answer)]
    _remember(runner, listener, latencies[:1], len(items), length)


def _many_from_file(request: Request, runner: Runner, listener: Listener) -> None:
    assert request.input_file is not None
    writer = None
    if request.destination is not None:
        writer = open_writer(request.destination, SCHEMA, resume=request.resume)
    done = writer.done if writer is not None else 0
    total = inputs.count(request.input_file)
    windows = inputs.from_file(request.input_file, skip=done)
    if done:
        listener.show(f"{done} results are there already: going on after them")
    _many(request, runner, listener, windows, writer, None if total is None else max(0, total - done))


def _many(
    request: Request,
    runner: Runner,
    listener: Listener,
    windows: Iterator[inputs.Window],
    writer: ResultWriter | None,
    total: int | None,
) -> None:
    batch = auto_batch(runner.recipe.family) if request.batch == "auto" else int(request.batch)
    complete = False
    with listener.progress(total) as progress:
        bulk = BulkRun(runner, batch, progress.advance)
        try:
            for piece in bulk.results(windows):
                for result in piece:
                    _deliver(result, runner, listener, writer)
                if writer is not None:
                    writer.flush()
            complete = True
        finally:
            if writer is not None:
                writer.close(complete=complete)
    if bulk.done == 0:
        if writer is not None and writer.done:
            return
        raise InputError("there is no input in it", "give at least one line")
    if runner.current is not None:
        listener.planned(runner)
        _remember(runner, listener, bulk.latencies_s, batch, bulk.length)
    if bulk.failed:
        raise PartialError(
            f"{bulk.failed} of {bulk.done} inputs could not be answered", "see the lines above; the others are done"
        )


def _deliver(
    result: Answer | tuple[int, AccelError], runner: Runner, listener: Listener, writer: ResultWriter | None
) -> None:
    if isinstance(result, Answer):
        if writer is not None:
            writer.write(result.index, result.output, None)
        else:
            _answered(result, runner, listener)
        return
    index, error = result
    if writer is not None:
        writer.write(index, None, error)
    listener.failure(index, error)


def _answered(answer: Answer, runner: Runner, listener: Listener) -> None:
    """Gives an answer to the listener, and to whoever looks at the page."""
    listener.answer(runner, answer)
    tell(
        model=runner.model.name,
        state=f"answered {answer.index + 1}",
        facts={"Task": runner.recipe.task, "Where": str(runner.session.execution().get("summary", ""))},
        output=json.dumps(answer.output, ensure_ascii=False, default=str)[:4000],
    )


def _remember(runner: Runner, listener: Listener, latencies_s: list[float], batch: int, length: int) -> None:
    """Leaves the measurement in the results; an answer is never lost because that failed."""
    if not latencies_s:
        return
    from accel.core import results

    try:
        results.append(runner.measurement(latencies_s, batch, length))
        results.merge_behind()
    except TransferError as error:
        listener.warn(f"this run's measurement is not kept: {error.message}")
