"""`accel run`: a model's answer on the best device of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from accel.output import Output


def run(
    output: Output,
    model: Annotated[
        str, typer.Argument(help="A folder, a file, a catalogue name, a hub id (@revision), or ipfs://CID.")
    ],
    text: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="TEXT", help="A text; @FILE reads it, - reads standard input."),
    ] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="FILE", help="An image.")] = None,
    audio: Annotated[str | None, typer.Option("--audio", metavar="FILE", help="A sound.")] = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option("--candidate", metavar="TEXT", help="A text to score an image against; repeat it."),
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input-file", metavar="FILE", help="Many inputs: jsonl, txt, csv, tsv or parquet.")
    ] = None,
    destination: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where results go: jsonl, csv or parquet; PNG for an image."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the results that --output holds already.")
    ] = False,
    task: Annotated[str | None, typer.Option("--task", help="The task, instead of the model's own.")] = None,
    hw: Annotated[
        str, typer.Option("--hw", help="auto, platforms or devices by comma: cpu, cuda:1, openvino.")
    ] = "auto",
    engine: Annotated[
        str | None, typer.Option("--engine", help="torch, torch-compile, onnxruntime, openvino, qnn or ort-web.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32, fp16, bf16, int8 or auto.")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0.0, max=1.0, help="Lowest cosine to fp32 torch (default: exact class)."),
    ] = None,
    batch: Annotated[str, typer.Option("--batch", metavar="N|auto", help="Inputs executed together.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=0, help="Processor threads; 0 for the best.")] = 0,
    memory_limit: Annotated[
        str | None, typer.Option("--memory-limit", metavar="SIZE", help="Memory the run may take, such as 4GB.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when most of the model does not run where --hw says.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="With webgpu or webnn: a browser window that shows what runs.")
    ] = False,
    wait_for_browser: Annotated[
        bool,
        typer.Option("--wait-for-browser", help="With webgpu or webnn: print an address, and run where it is opened."),
    ] = False,
    no_trial: Annotated[bool, typer.Option("--no-trial", help="Do not try out an unknown workload.")] = False,
    trial_budget: Annotated[
        float, typer.Option("--trial-budget", min=1.0, metavar="SECONDS", help="Time a trial may take.")
    ] = 60.0,
    explain: Annotated[bool, typer.Option("--explain", help="Show the whole ranking of the candidates.")] = False,
    weights: Annotated[
        str | None, typer.Option("--weights", help="random: the real architecture with random weights.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the hub for a newer version.")] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Allow only models that accel.lock names.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model's own Python code run. Read it first.")
    ] = False,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut an overlong input instead of refusing it.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Apply the model's chat template.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="The most tokens to generate.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of sampling and of generated images.")] = 0,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Labels or words to show.")] = 5,
    threshold: Annotated[float, typer.Option("--threshold", min=0.0, max=1.0, help="Lowest score of a box.")] = 0.5,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Diffusion steps.")] = None,
) -> None:
    """Run a model on real input, on the best device, and print its answer.

    Without input the task's own small example is used. The first run of a model tries out what this machine has;
    later runs start at once.

    Example: accel run bert-base --hw auto
    """
    from accel.core.errors import InputError
    from accel.core.inputs import single
    from accel.core.runs import Request, carry_out
    from accel.core.types import Options

    if show and wait_for_browser:
        raise InputError("--show and --wait-for-browser exclude each other", "choose one")
    request = Request(
        model=model,
        item=None if text == "-" else single(text, image, audio, candidates or ()),
        stdin=text == "-",
        input_file=input_file,
        destination=destination,
        resume=resume,
        task=task,
        hw=hw,
        engine=engine,
        precision=precision,
        tolerance=tolerance,
        batch=batch,
        threads=threads,
        memory_limit=memory_limit,
        strict=strict,
        audience="show" if show else "wait" if wait_for_browser else "",
        trial=not no_trial,
        trial_budget_s=trial_budget,
        weights=weights,
        revision=revision,
        refresh=refresh,
        trust_remote_code=trust_remote_code,
        frozen=frozen,
        options=Options(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            chat=chat,
            truncate=truncate,
            top_k=top_k,
            threshold=threshold,
            steps=steps,
        ),
    )
    from accel.commands._answers import AnswerPrinter

    carry_out(request, AnswerPrinter(output, explain=explain))
