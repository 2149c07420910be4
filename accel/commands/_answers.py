"""How `accel run` prints answers: in the task's own terms for people, one object per input with --json."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from accel.core.errors import AccelError
from accel.core.inference import Answer, Runner
from accel.output import Output, Progress, human_bytes, human_seconds


class AnswerPrinter:
    """The listener of a run."""

    def __init__(self, output: Output, *, explain: bool) -> None:
        self._output = output
        self._explain = explain
        self._streamed = False
        self._label, self._since, self._at = "", 0.0, 0
        self.streams = output.mode == "human" and output.terminal

    def show(self, line: str) -> None:
        """A slow step begins."""
        self._output.step(line)

    def warn(self, line: str) -> None:
        """Something the user has to know."""
        self._output.warning(line)

    def say(self, line: str) -> None:
        """Something the user has to do."""
        self._output.step("")
        self._output.note(line)

    def transferred(self, label: str, done_bytes: int, total_bytes: int | None) -> None:
        """A download or a check of files moves on: rate and remaining time."""
        now = time.monotonic()
        if label != self._label:
            self._label, self._since, self._at = label, now, done_bytes
        elapsed = now - self._since
        rate = (done_bytes - self._at) / elapsed if elapsed > 0 else 0.0
        line = f"{label}  {human_bytes(done_bytes)}"
        if total_bytes:
            line += f" of {human_bytes(total_bytes)}"
        if rate > 0:
            line += f"  {human_bytes(rate)}/s"
            if total_bytes:
                line += f"  {human_seconds((total_bytes - done_bytes) / rate)} left"
        self._output.step(line)

    def emit(self, text: str) -> None:
        """A piece of generated text."""
        self._output.step("")
        self._streamed = True
        self._output.write(text)

    def answer(self, runner: Runner, answer: Answer) -> None:
        """Prints one answer."""
        self._output.step("")
        if self._output.mode == "json":
            self._output.json(runner.record(answer), compact=True)
        elif self._streamed:
            self._output.line()
            self._streamed = False
        else:
            self._output.line(as_text(answer.output, bare=self._output.mode == "quiet"))

    def failure(self, index: int, error: AccelError) -> None:
        """Says which input could not be answered."""
        self._output.warning(f"input {index + 1}: {error.message}" + (f" ({error.hint})" if error.hint else ""))

    def planned(self, runner: Runner) -> None:
        """One line that says where the answer was made and why there."""
        self._output.step("")
        plan = runner.current
        if plan is None:
            return
        if self._explain and self._output.mode == "human":
            self._output.note(ranking(plan.candidates))
        where = f"{plan.device} · {plan.engine} {plan.precision}"
        if plan.threads:
            where += f" · {plan.threads} thread{'s' if plan.threads > 1 else ''}"
        self._output.note(f"{where} · {plan.source}: {plan.reason}")
        summary = runner.session.execution().get("summary")
        for note in (*([summary] if summary else []), *runner.notes):
            self._output.note(f"note: {note}")

    @contextlib.contextmanager
    def progress(self, total: int | None) -> Iterator[Progress]:
        """A progress display on stderr."""
        with self._output.progress("running", total, "inputs") as bar:
            yield bar


def as_text(output: dict[str, Any], *, bare: bool) -> str:
    """An answer for people. `bare` leaves out everything but the value."""
    if "text" in output and "masks" not in output:
        return str(output["text"])
    if "embedding" in output:
        return _numbers(output["embedding"], bare=bare)
    if "labels" in output:
        labels = output["labels"]
        if bare:
            return str(labels[0]["label"]) if labels else ""
        return _scores([(entry["label"], entry["score"]) for entry in labels])
    if "masks" in output:
        if bare:
            return str(output["masks"][0][0]["token"]).strip()
        return "\n".join(_scores([(e["token"].strip(), e["score"]) for e in mask]) for mask in output["masks"])
    if "boxes" in output:
        lines = [
            f"{b['label']}  {b['score']:.3f}  [{', '.join(f'{v:.0f}' for v in b['box'])}]" for b in output["boxes"]
        ]
        return "\n".join(lines) or ("" if bare else "nothing found")
    if "segments" in output:
        lines = [f"{s['start_s']:.2f} s to {s['end_s']:.2f} s" for s in output["segments"]]
        return "\n".join(lines) or ("" if bare else "no speech found")
    if "image" in output:
        return str(output["image"])
    return _plain(output)


def _numbers(values: Any, *, bare: bool) -> str:
    numbers = [float(v) for v in values]
    if bare:
        return " ".join(f"{v:.9g}" for v in numbers)
    shown = ", ".join(f"{v:.4f}" for v in numbers[:6])
    return (
        f"[{shown}, ...]  ({len(numbers)} numbers; --json or --quiet gives all)" if len(numbers) > 6 else f"[{shown}]"
    )


def _scores(pairs: list[tuple[str, float]]) -> str:
    width = max((len(label) for label, _ in pairs), default=0)
    return "\n".join(f"{label:<{width}}  {score:.4f}" for label, score in pairs)


def _plain(output: dict[str, Any]) -> str:
    import json

    return json.dumps(output, ensure_ascii=False, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))


def ranking(candidates: tuple[dict[str, Any], ...]) -> str:
    """The candidates as a table of plain text, best first, with the reasons of those that are out."""
    rows = [("candidate", "ms", "load ms", "cosine", "")]
    for c in candidates:
        rows.append(
            (
                str(c["name"]),
                _cell(c.get("latency_ms"), ".3g"),
                _cell(c.get("load_ms"), ".3g"),
                _cell(c.get("cosine"), ".6f"),
                str(c.get("reason", "")),
            )
        )
    widths = [max(len(r[k]) for r in rows) for k in range(4)]
    return "\n".join("  ".join([*(r[k].ljust(widths[k]) for k in range(4)), r[4]]).rstrip() for r in rows)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
