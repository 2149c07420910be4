"""`accel fetch`: content by its id, from the nearest level that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from accel.output import Output, counted, human_bytes

_WORDS = {
    "local": "the local store",
    "kubo": "the Kubo node",
    "store": "another store",
    "gateway": "gateways",
    "provider": "providers",
}


def fetch(
    output: Output,
    content: Annotated[
        str, typer.Argument(metavar="CID|NAME|ipfs://CID/PATH", help="What to fetch: a content id, or a pinned name.")
    ],
    destination: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="Where it goes (default: the home folder).")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PATTERNS", help="A part: 'config.json,*.safetensors'.")
    ] = None,
    car: Annotated[bool, typer.Option("--car", help="Write one CAR file instead of files.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask the local store alone.")] = False,
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Refuse more than this, such as 2GB.")
    ] = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Allow only what accel.lock names.")] = False,
) -> None:
    """Bring content here from the nearest place that has it; every block is checked.

    Example: accel fetch bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi
    """
    from accel.commands.pin import bytes_bar
    from accel.core.content import getting
    from accel.core.content.settings import Settings
    from accel.core.errors import InputError
    from accel.core.settings import parse_size

    patterns = tuple(part.strip() for part in (only or "").split(",") if part.strip())
    if only is not None and not patterns:
        raise InputError("--only names no pattern", "--only 'config.json,*.safetensors'")
    try:
        limit = parse_size(max_size) if max_size is not None else None
    except ValueError as error:
        raise InputError(f"--max-size {max_size} is not a size", "give one such as 2GB or 500MiB") from error
    wish = getting.Wish(content, destination, patterns, car, limit, frozen)
    with bytes_bar(output, "fetching") as (begin, advance, _):
        done = getting.fetch(wish, Settings.current(offline=offline), begin, advance)
    for source in done.dropped:
        output.warning(f"{source['name']} was dropped: {source['reason']}")
    for place in done.repaired:
        output.warning(f"a damaged block was replaced: {place}")
    for note in done.notes:
        output.note(note)

    def human() -> None:
        output.line(str(done.path))
        served = ", ".join(f"{s['name']} {human_bytes(s['bytes'])}" for s in done.sources)
        origin = f"{_WORDS[done.level]}{f' ({served})' if served else ''}"
        output.note(f"{done.cid}: {counted(done.files, 'file')}, {human_bytes(done.size_bytes)}, from {origin}")

    data = {
        "schema": "accel.fetch/1",
        "cid": done.cid,
        "path": str(done.path),
        "level": done.level,
        "size_bytes": done.size_bytes,
        "files": done.files,
        "sources": done.sources,
        "dropped": done.dropped,
        "repaired": done.repaired,
        "notes": done.notes,
    }
    output.result(data, human, str(done.path))
