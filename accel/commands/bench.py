"""`accel bench`: measures a matrix of models, devices, engines, precisions and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.output import Output

if TYPE_CHECKING:
    from accel.core.bench.session import Gates, Order

_LIST = "LIST"


def bench(
    output: Output,
    models: Annotated[list[str] | None, typer.Argument(help="Models, as accel run takes them.")] = None,
    matrix: Annotated[
        Path | None, typer.Option("--matrix", metavar="FILE", help="The axes as a TOML file; options override it.")
    ] = None,
    hw: Annotated[str | None, typer.Option("--hw", metavar=_LIST, help="auto, or cpu,cuda:1,openvino.")] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar=_LIST, help="Engines by comma; all that are ready.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar=_LIST, help="fp32, fp16, bf16, int8 by comma.")
    ] = None,
    batch: Annotated[str | None, typer.Option("--batch", metavar=_LIST, help="Batch sizes by comma.")] = None,
    seq: Annotated[
        str | None, typer.Option("--seq", metavar=_LIST, help="Tokens of a text, or samples of a sound, by comma.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", metavar=_LIST, help="Processor threads by comma; 0 for the engine's own.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", metavar=_LIST, help="Tasks by comma.")] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="random: the real architecture with random weights.")
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input-file", metavar="FILE", help="Inputs of your own instead of made-up ones.")
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="FILE|NAME", help="A benchmark of your own; repeat it."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="Time for everything, spent where it is needed: 10m."),
    ] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", metavar="TIME", help="Measuring time of a cell at most (10s).")
    ] = None,
    precision_target: Annotated[
        str | None,
        typer.Option("--precision-target", metavar="SHARE", help="How well a median is to be known (1%)."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Processes that measure a cell, one after the other (3).")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="Cells at once, where they share nothing.")
    ] = None,
    cell_timeout: Annotated[
        str | None, typer.Option("--cell-timeout", metavar="TIME", help="A process that takes longer failed (600s).")
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option("--memory-limit", metavar="SIZE", help="Memory of a cell's process, such as 4GB.")
    ] = None,
    affinity: Annotated[
        str | None, typer.Option("--affinity", metavar="CPUS", help="Processors every cell is put on, such as 0-3.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Tokens that decoders generate (32).")
    ] = None,
    no_agreement: Annotated[
        bool, typer.Option("--no-agreement", help="Do not compare outputs with fp32 torch.")
    ] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Allow only models that accel.lock names.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model's own Python code run. Read it first.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a sweep was interrupted; alone, with the last one.")
    ] = False,
    save_as: Annotated[
        str | None, typer.Option("--save-as", metavar="NAME|FILE", help="Keep the result as a baseline.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="NAME|FILE", help="Compare with this baseline.")
    ] = None,
    fail_on_regression: Annotated[
        str | None,
        typer.Option("--fail-on-regression", metavar="SHARE", help="Exit 6 if a cell is this much slower: 3%."),
    ] = None,
    asserts: Annotated[
        list[str] | None,
        typer.Option("--assert", metavar="BUDGET", help='Exit 6 if a cell breaks it: "p95<20ms"; repeat it.'),
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write markdown for a pull request.")
    ] = None,
    github: Annotated[bool, typer.Option("--github", help="Annotate the run of a GitHub workflow.")] = False,
) -> None:
    """Measure models on devices and engines, so that a difference it reports is a difference.

    Every list is an axis of a matrix. Cells that cannot work are left out with the reason; each other one is measured
    by processes of its own, in turn with the others, until its median is known to the precision asked for.

    Example: accel bench all-minilm --hw cpu,openvino --batch 1,8 --seq 128
    """
    from accel.commands import _bench
    from accel.core.bench.session import carry_out

    nothing = not (models or matrix or benchmark)
    order = None
    if not (resume and nothing):
        order = _order(
            axes={
                "models": tuple(models) if models else None,
                "hw": hw,
                "engines": _words(engine),
                "precisions": _words(precision),
                "batches": _bench.numbers(batch, "--batch"),
                "lengths": _bench.numbers(seq, "--seq"),
                "threads": _bench.numbers(threads, "--threads"),
                "tasks": _words(task),
                "weights": _bench.weights(weights),
            },
            options={
                "budget": budget,
                "max_time": max_time,
                "precision_target": precision_target,
                "processes": processes,
                "parallel": parallel,
                "cell_timeout": cell_timeout,
                "memory_limit": memory_limit,
                "max_new_tokens": max_new_tokens,
                "agreement": False if no_agreement else None,
            },
            matrix=matrix,
            benchmarks=tuple(benchmark or ()),
            input_file=input_file,
            affinity=affinity,
            trust_remote_code=trust_remote_code,
            frozen=frozen,
        )
    gates = _gates(save_as, baseline, fail_on_regression, asserts or [])
    printer = _bench.Printer(output)
    report = carry_out(order, gates, printer, resume=resume)
    _bench.show(output, report)
    _bench.write(output, report, junit, markdown, github)
    _bench.fail(report)


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def _order(
    axes: dict[str, Any],
    options: dict[str, Any],
    matrix: Path | None,
    benchmarks: tuple[str, ...],
    input_file: Path | None,
    affinity: str | None,
    trust_remote_code: bool,
    frozen: bool,
) -> Order:
    from accel.commands import _bench
    from accel.core.bench import sweep
    from accel.core.bench.process import Settings
    from accel.core.bench.runner import Wanted
    from accel.core.bench.session import Order
    from accel.core.settings import parse_duration, parse_size
    from accel.core.types import Options

    file = sweep.read(matrix) if matrix is not None else sweep.Sweep()
    chosen = {**file.options, **{name: value for name, value in options.items() if value is not None}}
    settings = Settings(
        timeout_s=parse_duration(chosen.get("cell_timeout", 600.0)),
        memory_limit=_bench.memory(chosen.get("memory_limit"), parse_size),
        affinity=_bench.cpus(affinity),
        options=Options(max_new_tokens=chosen.get("max_new_tokens", 32)),
        items=_bench.items(input_file),
    )
    wanted = Wanted(
        target=_bench.share(chosen.get("precision_target", 0.01), "--precision-target"),
        max_time_s=parse_duration(chosen.get("max_time", 10.0)),
        budget_s=parse_duration(chosen["budget"]) if "budget" in chosen else None,
        processes=chosen.get("processes"),
        parallel=chosen.get("parallel", 1),
        agreement=chosen.get("agreement", True),
        settings=settings,
    )
    both = tuple(dict.fromkeys((*file.benchmarks, *benchmarks)))
    return Order(_bench.with_defaults(sweep.merged(file, **axes), file, axes), wanted, both, trust_remote_code, frozen)


def _gates(save_as: str | None, baseline: str | None, fail_on_regression: str | None, asserts: list[str]) -> Gates:
    from accel.commands import _bench
    from accel.core.bench import budgets
    from accel.core.bench.session import Gates
    from accel.core.errors import InputError

    if fail_on_regression is not None and baseline is None:
        raise InputError("--fail-on-regression needs something to compare with", "add --baseline NAME")
    threshold = None if fail_on_regression is None else 1.0 + _bench.share(fail_on_regression, "--fail-on-regression")
    return Gates(save_as, baseline, threshold, tuple(budgets.parse(text) for text in asserts))
