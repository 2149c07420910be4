"""`accel profile`: how fast, how large and how costly a model will be, before anything is downloaded."""

from __future__ import annotations

from typing import Annotated

import typer

from accel.output import Output

_LIST = "LIST"


def profile(
    output: Output,
    model: Annotated[
        str | None, typer.Argument(help="A model, as accel run takes it; its weights are not needed.")
    ] = None,
    hw: Annotated[
        str, typer.Option("--hw", metavar=_LIST, help="all (the devices here), cpu, openvino, cuda:h100, mps:m2, ...")
    ] = "all",
    engine: Annotated[str | None, typer.Option("--engine", metavar=_LIST, help="Engines by comma.")] = None,
    precision: Annotated[
        str, typer.Option("--precision", metavar=_LIST, help="fp32, fp16, bf16, int8 by comma.")
    ] = "fp32",
    batch: Annotated[str, typer.Option("--batch", metavar=_LIST, help="Batch sizes by comma.")] = "1",
    seq: Annotated[
        str | None,
        typer.Option("--seq", metavar=_LIST, help="Tokens of a text (128), or samples of a sound, by comma."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Instead of the model's own task.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Processor threads; 0 for all.")] = 0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens that decoders generate.")] = 32,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of diffusion models.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Run it too and set prediction beside truth.")] = False,
    weights: Annotated[
        str | None, typer.Option("--weights", help="For --measure: random, if the weights cannot be had.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine's operators once (two minutes at most).")
    ] = False,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="How far predictions were off, from everything measured here.")
    ] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model's own Python code run. Read it first.")
    ] = False,
) -> None:
    """Predict latency, memory and energy of a model on devices you have or do not have, from its configuration alone.

    Example: accel profile bert-base --hw all,cuda:h100 --batch 1,8 --seq 128
    """
    from accel.commands import _bench, _profile
    from accel.core.errors import InputError
    from accel.core.performance.profiling import Request

    if model is None and not (calibrate or accuracy):
        raise InputError(
            "there is no model to profile", "name one, such as bert-base; or use --calibrate or --accuracy"
        )
    if weights not in (None, "random"):
        raise InputError(f"--weights {weights!r} is unknown", "use random, or leave it out")
    if calibrate:
        _profile.calibrate(output, _words(engine), threads, alone=model is None and not accuracy)
    if accuracy:
        _profile.accuracy(output)
    if model is None or accuracy:
        return
    request = Request(
        model=model,
        hw=hw,
        engines=_words(engine),
        precisions=_words(precision),
        batches=tuple(_bench.numbers(batch, "--batch") or (1,)),
        lengths=tuple(_bench.numbers(seq, "--seq") or (None,)),
        task=task,
        revision=revision,
        threads=threads,
        new_tokens=max_new_tokens,
        steps=steps,
        trust_remote_code=trust_remote_code,
    )
    _profile.predict(output, request, measure=measure, weights=weights)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())
