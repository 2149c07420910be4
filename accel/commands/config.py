"""`accel config`: the settings with their origins, and the plans that are kept ready."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from accel.output import Output, human_bytes


def _text(value: Any, kind: str = "") -> str:
    """A value as `config set` takes it; sizes as `50GB` where that is exact."""
    if kind == "size" and value is not None:
        steps = [(1000**p, f"{u}B") for p, u in enumerate("kMGT", 1)] + [
            (1024**p, f"{u}iB") for p, u in enumerate("KMGT", 1)
        ]
        exact = [(size, unit) for size, unit in steps if value % size == 0]
        size, unit = max(exact, default=(1, ""))
        return f"{value // size}{unit}"
    if isinstance(value, str):
        return value
    return ", ".join(value) if isinstance(value, (list, tuple)) else json.dumps(value)


def _when(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def show(
    output: Output,
    key: Annotated[
        str | None, typer.Argument(help="One setting, such as hardware.precision; all of them without.")
    ] = None,
) -> None:
    """Show the settings in effect and where each value came from.

    Example: accel config show hardware.precision
    """
    from accel.core import config

    now = config.current()
    chosen = [now.setting(key)] if key else list(now.settings.values())

    def human() -> None:
        output.table(
            ("setting", "value", "from"), [(s.key.name, _text(s.value, s.key.type), str(s.origin)) for s in chosen]
        )
        if key:
            output.line(f"{chosen[0].key.help}\nAllowed: {chosen[0].key.allowed}.")

    bare = [_text(s.value) if key else f"{s.key.name}={_text(s.value)}" for s in chosen]
    settings = [config.as_json(s) for s in chosen]
    output.result({"schema": "accel.config/1", "settings": settings}, human, "\n".join(bare))


def set_(
    output: Output,
    key: Annotated[str, typer.Argument(help="The setting, such as hardware.precision.")],
    value: Annotated[str, typer.Argument(help="Its value; null for none, commas between the items of a list.")],
) -> None:
    """Set a value in the user's configuration file.

    Example: accel config set hardware.memory_limit 8GB
    """
    from accel.core import config

    stored = config.set_user(key, value)
    stronger = config.shadowing(stored)

    def human() -> None:
        output.line(f"{stored.key.name} = {_text(stored.value, stored.key.type)} in {stored.origin.where}")

    data = {"schema": "accel.config-set/1", "setting": config.as_json(stored)}
    output.result(data, human, _text(stored.value))
    if stronger is not None:
        output.warning(
            f"{stored.key.name} stays {_text(stronger.value, stronger.key.type)} here: set by {stronger.origin}"
        )


def path(output: Output) -> None:
    """Show the configuration files that are looked at, and which of them count.

    Example: accel config path
    """
    from accel.core import config

    found = config.files()

    def human() -> None:
        for s in found:
            output.line(f"{s.layer:<8} {s.path}: {'in effect' if s.used else s.note or 'absent'}")

    data = [
        {"layer": s.layer, "path": str(s.path), "exists": s.exists, "used": s.used, "note": s.note or None}
        for s in found
    ]
    used = "\n".join(str(s.path) for s in found if s.used)
    output.result({"schema": "accel.config-path/1", "files": data}, human, used)


def prepared(output: Output) -> None:
    """List the plans that are kept ready, with their sizes.

    Example: accel config prepared
    """
    from accel.core import config
    from accel.core import prepared as plans

    entries = plans.listing()
    total = sum(entry["bytes"] for entry in entries)
    bound = config.get("performance.prepared_size")

    def human() -> None:
        columns = ("model", "engine", "precision", "size", "last used")
        rows = [
            (e["model"], e["engine"], e["precision"], human_bytes(e["bytes"]), e["used_at"][:16].replace("T", " "))
            for e in entries
        ]
        if rows:
            output.table(columns, rows, right=("size",))
        limit = f" of {human_bytes(bound)}" if bound is not None else ""
        count = sum(1 for e in entries if e["precision"])
        output.line(f"{count} prepared plan{'' if count == 1 else 's'}, {human_bytes(total)}{limit}")

    data = {"schema": "accel.prepared/1", "prepared": entries, "total_bytes": total, "limit_bytes": bound}
    output.result(data, human, "\n".join(str(e["key"]) for e in entries))


def clear(
    output: Output,
    key: Annotated[
        list[str] | None,
        typer.Argument(help="Models, or keys of `accel config prepared --json`; everything without."),
    ] = None,
) -> None:
    """Remove plans that are kept ready; the next run prepares again.

    Example: accel config clear bert-base
    """
    from accel.core import prepared as plans

    freed = plans.clear(key or None)
    data = {"schema": "accel.prepared-clear/1", "freed_bytes": freed}
    output.result(data, lambda: output.line(f"freed {human_bytes(freed)}"), str(freed))


GROUP: dict[str, Any] = {
    "": "Show and change settings, and manage the plans that are kept ready.",
    "show": show,
    "set": set_,
    "path": path,
    "prepared": prepared,
    "clear": clear,
}
