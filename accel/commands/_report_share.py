"""The subcommands of `accel report` that hand results on: export, merge, bundle, storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from accel.commands import _report
from accel.output import Output, bar, human_bytes

_Offline = Annotated[bool, typer.Option("--offline", help="Ask neither a node nor the network.")]


def export(
    output: Output,
    form: Annotated[str, typer.Option("--format", help="csv, json, parquet, markdown or html.")] = "csv",
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file, not to standard output.")
    ] = None,
    model: _report.Model = "",
    device: _report.Hardware = "",
    since: _report.Since = None,
    kind: _report.Kind = "bench,run",
    samples: Annotated[bool, typer.Option("--samples", help="With the raw samples (json, parquet).")] = False,
) -> None:
    """Write results for other programs: all of them as csv, json or parquet; the latest as markdown or html.

    Example: accel report export --format parquet --output results.parquet
    """
    import tempfile

    from accel.core.errors import InputError
    from accel.core.report import exporting, page, reading
    from accel.core.report.exporting import replacing

    if form not in exporting.FORMATS:
        raise InputError(f"--format {form!r} is unknown", f"known: {', '.join(exporting.FORMATS)}")
    if file is None and form == "parquet" and output.terminal:
        raise InputError("Parquet is not for a terminal", "add --output results.parquet")
    wanted = _report.wanted(model, device, since, kind)

    def write(target: Path) -> tuple[int, Any]:
        if form != "html":
            return reading.read(lambda con: exporting.write(con, wanted, form, target, samples=samples))
        found, problem = reading.read(lambda con: page.gather(con, wanted))
        target.write_text(page.render(found), encoding="utf-8")
        return len(found.cells), problem

    if file is not None:
        with replacing(file) as part:
            count, problem = write(part)
        data = {"schema": "accel.report-export/1", "path": str(file), "format": form, "results": count}
        text = f"{_report.counted(count, 'result')} in {file}"
        output.result(data, lambda: output.line(text), str(file))
    else:
        # not under the home folder, which may be read-only
        with tempfile.TemporaryDirectory(prefix="accel-export-") as folder:
            part = Path(folder) / "export"
            _, problem = write(part)
            output.file(part)
    _report.end(problem)


def merge(
    output: Output,
    other: Annotated[str, typer.Argument(help="Another results.duckdb, a bundle's folder or its content id.")],
    offline: _Offline = False,
) -> None:
    """Take over results of other machines; nothing is there twice afterwards.

    Example: accel report merge laptop/results.duckdb
    """
    from accel.core.report import joining

    done = joining.join(other, offline=offline)
    data = {"schema": "accel.report-merge/1", "source": done.source, "stored": done.stored, "known": done.known}
    known = f"; {done.known:,} were here already" if done.known else ""
    text = f"{_report.counted(done.stored, 'result')} taken over{known}"
    output.result(data, lambda: output.line(text), str(done.stored))


def bundle(
    output: Output,
    runs: Annotated[list[str] | None, typer.Argument(help="Runs, as accel report show takes them.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write the bundle there too.")
    ] = None,
) -> None:
    """Make a run into content: results, environment and model content ids under one CID, pinned here.

    On another machine accel report merge CID fetches, verifies and merges it.

    Example: accel report bundle last
    """
    from accel.core.report import bundling, reading
    from accel.core.report.runs import find

    names = runs or ["last"]
    records, problem = reading.read(
        lambda con: bundling.gather(con, [find(con, name, samples=False) for name in names])
    )
    done = bundling.store(bundling.make(records), folder)
    kept = bundling.pinned_ids()
    data = {
        "schema": "accel.report-bundle/1",
        "cid": done.cid,
        "name": done.name,
        "bytes": done.bytes,
        "path": str(done.path) if done.path else None,
        **{name: done.manifest[name] for name in ("results", "runs", "models", "sha256")},
    }

    def human() -> None:
        output.line(done.cid)
        output.note(f"pinned as {done.name}: {_report.counted(len(records), 'result')}, {human_bytes(done.bytes)}")
        for model in done.manifest["models"]:
            if model["cid"] is None and model["weights"] != "random":
                output.note(f"nobody knows the CID of {model['model']}: accel pin {model['model']} gives it one")
            elif model["cid"] is not None and model["cid"] not in kept:
                output.note(
                    f"{model['model']} itself is not pinned here: accel pin {model['model']} keeps it for others"
                )
        if done.path is not None:
            output.note(f"written to {done.path}")

    output.result(data, human, done.cid)
    _report.end(problem)


def storage(output: Output, offline: _Offline = False) -> None:
    """Show what accel keeps and where: results, content at every level, prepared plans.

    Example: accel report storage
    """
    from accel.core.paths import home
    from accel.core.report.stored import survey

    found = survey(offline=offline)
    below = f"{home()}/"
    total = sum(entry["bytes"] for entry in found if entry["own"])

    def human() -> None:
        rows = [
            [
                entry["level"],
                entry["kind"],
                _report.text(entry["count"]),
                human_bytes(entry["bytes"]),
                bar(entry["bytes"] / total if entry["own"] and total else 0.0, 10),
                entry["where"].removeprefix(below),
            ]
            for entry in found
            if entry["bytes"] or entry["count"]
        ]
        output.table(("level", "what", "n", "size", "", "where"), rows, right=("n", "size"), whole=("n", "size"))
        output.line(f"{human_bytes(total)} in all on this machine, in {below}")

    data = {"schema": "accel.report-storage/1", "storage": found, "total_bytes": total}
    output.result(data, human, str(total))


COMMANDS: dict[str, Any] = {"storage": storage, "export": export, "merge": merge, "bundle": bundle}
