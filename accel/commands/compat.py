"""`accel compat`: whether models run on devices, and how, before anything is downloaded."""

from __future__ import annotations

from typing import Annotated

import typer

from accel.output import Output

_LIST = "LIST"


def compat(
    output: Output,
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models, as accel run takes them.")],
    hw: Annotated[
        str, typer.Option("--hw", metavar=_LIST, help="all (the devices here), cpu, openvino, cuda:h100, mps:m2, ...")
    ] = "all",
    engine: Annotated[str | None, typer.Option("--engine", metavar=_LIST, help="Engines by comma.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, fp16, bf16 or int8.")] = "fp32",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Inputs executed together.")] = 1,
    seq: Annotated[int | None, typer.Option("--seq", min=1, help="Tokens of a text, or samples of a sound.")] = None,
    memory_limit: Annotated[
        str | None, typer.Option("--memory-limit", metavar="SIZE", help="Memory it may take, such as 8GB.")
    ] = None,
    latency: Annotated[
        str | None, typer.Option("--latency", metavar="TIME", help="The longest it may take, such as 50ms.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Place the models on the devices, with fallbacks; needs OR-tools.")
    ] = False,
    operators: Annotated[
        bool, typer.Option("--operators", help="Ask the engines about every operator; exports the model if need be.")
    ] = False,
    task: Annotated[str | None, typer.Option("--task", help="Instead of the model's own task.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens that decoders generate.")] = 32,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of diffusion models.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model's own Python code run. Read it first.")
    ] = False,
) -> None:
    """Tell whether models run on devices you have or do not have, why not, and what would make them fit.

    Exit status 4 where a model runs on none of the devices asked for, so that it can be a step of CI.

    Example: accel compat bert-base llama-3.2-1b --hw all,cuda:t4 --memory-limit 2GB
    """
    from accel.commands import _compat
    from accel.core.compatibility.matrix import Request
    from accel.core.settings import parse_duration, parse_size

    request = Request(
        models=tuple(models),
        hw=hw,
        engines=tuple(word.strip() for word in (engine or "").split(",") if word.strip()),
        precision=precision,
        batch=batch,
        length=seq,
        memory_limit=parse_size(memory_limit) if memory_limit else None,
        latency_s=parse_duration(latency) if latency else None,
        task=task,
        revision=revision,
        new_tokens=max_new_tokens,
        steps=steps,
        trust_remote_code=trust_remote_code,
        operators=operators,
    )
    _compat.matrix(output, request, planned=plan)
