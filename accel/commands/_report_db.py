"""`accel report db`: looks after the results database."""

from __future__ import annotations

from typing import Any

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


GROUP: dict[str, Any] = {
    "": "Look after the results database.",
    "status": status,
}
