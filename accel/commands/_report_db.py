"""`accel report db`: looks after the results database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from accel.output import Output, human_bytes


def status(output: Output) -> None:
    """Show where the results are kept and in what state; changes nothing.

    Example: accel report db status
    """
    from accel.core.report import maintenance

    found = maintenance.status()

    def human() -> None:
        rows = [("database", found["path"]), ("state", found["state"]), ("size", human_bytes(found["bytes"]))]
        if found["schema_version"] is not None:
            rows.append(("schema", f"{found['schema_version']}, the newest is {found['newest_schema']}"))
        if found["results"] is not None:
            rows.append(("results", f"{found['results']:,}"))
        waiting = f"{found['spool_results']:,} results, {human_bytes(found['spool_bytes'])}"
        rows.append(("waiting", f"{waiting} in {found['spool']}" if found["spool_results"] else "nothing"))
        if found["damaged_lines"]:
            rows.append(("damaged", f"{found['damaged_lines']} lines set aside in {found['spool']}/damaged"))
        if found["backups"]:
            rows.append(("copies", f"{len(found['backups'])}, the latest {found['backups'][-1]}"))
        if not found["writable"]:
            rows.append(("rights", "cannot be written"))
        if found["problem"]:
            rows.append(("problem", found["problem"]))
            rows.append(("try", found["hint"]))
        output.table(("", ""), rows)

    output.result({"schema": "accel.report-db/1", **found}, human, found["state"])


def migrate(
    output: Output,
    number: Annotated[
        int | None, typer.Option("--schema", metavar="N", help="This one, up or down; the newest without.")
    ] = None,
) -> None:
    """Bring the database to the newest schema, or to another one; a copy is made before a way down.

    Commands do this by themselves; a way down is for handing the file to an older accel.

    Example: accel report db migrate
    """
    from accel.core.report import maintenance

    done = maintenance.migrate(number)

    def human() -> None:
        for before, after in done.steps:
            output.line(f"schema {before} -> {after}")
        output.line(f"the database has schema {done.version}")
        if done.backup is not None:
            output.note(f"copied before to {done.backup}")

    data = {
        "schema": "accel.report-db-migrate/1",
        "steps": [list(step) for step in done.steps],
        "schema_version": done.version,
        "backup": str(done.backup) if done.backup is not None else None,
    }
    output.result(data, human, str(done.version))


def backup(
    output: Output,
    file: Annotated[Path | None, typer.Argument(help="The copy; one with the time in its name without.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy the database while others go on measuring, and check the copy.

    Example: accel report db backup results-before-upgrade.duckdb
    """
    from accel.core.report import maintenance

    done = maintenance.backup(file, force=force)
    data = {
        "schema": "accel.report-db-backup/1",
        "path": str(done.path),
        "bytes": done.bytes,
        "results": done.results,
    }
    text = f"{done.results:,} results in {done.path} ({human_bytes(done.bytes)})"
    output.result(data, lambda: output.line(text), str(done.path))


def check(output: Output) -> None:
    """Read every block of the database and see that its tables fit together.

    Example: accel report db check
    """
    from accel.core.errors import TransferError
    from accel.core.report import maintenance

    found = maintenance.check()

    def human() -> None:
        if found.sound:
            rows = ", ".join(f"{count:,} in {table}" for table, count in found.rows.items())
            output.line(f"the database is sound: {rows}")
        for problem in found.problems:
            output.line(problem)
        for note in found.notes:
            output.note(note)

    data = {
        "schema": "accel.report-db-check/1",
        "sound": found.sound,
        "rows": found.rows,
        "problems": list(found.problems),
        "notes": list(found.notes),
    }
    output.result(data, human, "sound" if found.sound else "damaged")
    if not found.sound:
        raise TransferError(
            f"the results database is damaged: {found.problems[0]}",
            "accel report db status names the copies there are; move the file away and put one in its place",
        )


GROUP: dict[str, Any] = {
    "": "Look after the results database.",
    "status": status,
    "migrate": migrate,
    "backup": backup,
    "check": check,
}
