"""`accel pin`: models by content id: put into the store, kept, listed, checked, moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.output import Output, counted, human_bytes

if TYPE_CHECKING:
    from accel.core.content.pins import Pin

Offline = Annotated[bool, typer.Option("--offline", help="Ask neither a node nor the network.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen and change nothing.")]


@contextmanager
def bytes_bar(output: Output, label: str) -> Iterator[tuple[Callable[[int], None], Callable[[float], None], Any]]:
    """A progress bar for work on several threads: `begin(total)`, `advance(bytes)` and a report of named steps."""
    import threading

    lock = threading.Lock()
    with output.progress(label, None, "B") as bar:

        def begin(total: int) -> None:
            bar.label, bar.total, bar.done = label, float(total), 0.0

        def advance(amount: float) -> None:
            with lock:
                bar.advance(amount)

        def report(step: str, done: int, total: int | None, /) -> None:
            bar.total = float(total) if total else None
            bar.advance(done - bar.done, step)

        yield begin, advance, report


def _pin_json(pin: Pin) -> dict[str, Any]:
    return {
        "cid": pin.cid,
        "name": pin.name,
        "revision": pin.revision,
        "size_bytes": pin.size_bytes,
        "licence": pin.licence,
        "profile": pin.profile,
        "mode": pin.mode,
        "source": pin.source,
        "pinned_at": pin.pinned_at,
    }


def add(
    output: Output,
    model: Annotated[str, typer.Argument(help="A folder, a file, a model's name (@revision), or a content id.")],
    profile: Annotated[
        str, typer.Option("--profile", help="How content becomes blocks: unixfs-v1-2025 or kubo-legacy.")
    ] = "unixfs-v1-2025",
    reference: Annotated[
        bool, typer.Option("--reference", help="Leave the bytes in their files and check them on every use.")
    ] = False,
    to: Annotated[str | None, typer.Option("--to", metavar="kubo", help="Give it to the Kubo node as well.")] = None,
    lock: Annotated[bool, typer.Option("--lock", help="Write it into accel.lock of this project.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the hub for a newer version.")] = False,
    offline: Offline = False,
) -> None:
    """Put a model into the content store under its content id and keep it.

    Example: accel pin all-minilm
    """
    from accel.core.content import pinning
    from accel.core.content.settings import Settings
    from accel.core.content.unixfs import profile as profile_named
    from accel.core.errors import InputError

    if to not in (None, "kubo"):
        raise InputError(f"--to {to}: there is no such place", "--to kubo")
    request = pinning.Request(model, profile_named(profile), reference, to == "kubo", lock, refresh)
    with bytes_bar(output, "pinning") as (begin, advance, report):
        done = pinning.pin(request, Settings.current(offline=offline), begin, advance, report)
    pin = done.pin

    def human() -> None:
        output.line(pin.cid)
        kept = "left where it is" if pin.mode == "reference" else f"{human_bytes(done.new_bytes)} new in the store"
        revision = f"@{pin.revision}" if pin.revision else ""
        licence = f", {pin.licence}" if pin.licence else ""
        size = human_bytes(pin.size_bytes)
        output.note(
            f"pinned {pin.name or 'content'}{revision}: {counted(done.files, 'file')}, {size} ({kept}){licence}"
        )
        if done.lock_file is not None:
            output.note(f"written to {done.lock_file}")

    data = {
        "schema": "accel.pin/1",
        **_pin_json(pin),
        "files": done.files,
        "new_bytes": done.new_bytes,
        "level": done.level,
        "lock_file": str(done.lock_file) if done.lock_file else None,
    }
    output.result(data, human, pin.cid)
    for note in done.notes:
        output.note(note)


def ls(output: Output) -> None:
    """List what is pinned, with sizes and what pins share.

    Example: accel pin ls
    """
    from accel.core.content import pinning

    listed = pinning.listing()

    def human() -> None:
        if not listed:
            output.note("nothing is pinned; accel pin MODEL pins a model")
            return
        for item in listed:
            pin = item.pin
            revision = f"@{pin.revision}" if pin.revision else ""
            sizes = f"{human_bytes(item.own_bytes)} of its own, {human_bytes(item.shared_bytes)} shared"
            kept = "by reference" if pin.mode == "reference" else "copied"
            state = "" if item.whole else "; NOT WHOLE, see accel pin verify"
            licence = f", {pin.licence}" if pin.licence else ""
            output.line(pin.cid)
            output.line(
                f"  {pin.name or '-'}{revision}: {human_bytes(pin.size_bytes)} ({sizes}), {kept}{licence}{state}"
            )

    pins = [
        {**_pin_json(i.pin), "own_bytes": i.own_bytes, "shared_bytes": i.shared_bytes, "whole": i.whole} for i in listed
    ]
    output.result({"schema": "accel.pins/1", "pins": pins}, human, "\n".join(item.pin.cid for item in listed))


def rm(
    output: Output,
    pin: Annotated[str, typer.Argument(help="A content id or a name, as accel pin ls shows them.")],
    dry_run: DryRun = False,
) -> None:
    """Stop keeping a pin; accel pin gc then frees its bytes.

    Example: accel pin rm all-minilm
    """
    from accel.core.content import pinning

    found = pinning.unpin(pin, dry_run=dry_run)

    def human() -> None:
        verb = "would no longer be pinned" if dry_run else "is no longer pinned"
        output.line(f"{found.name or found.cid} {verb}; accel pin gc frees what nothing else needs")

    data = {"schema": "accel.pin-rm/1", "removed": not dry_run, **_pin_json(found)}
    output.result(data, human, found.cid)


def gc(output: Output, dry_run: DryRun = False) -> None:
    """Free what nothing pins and nobody is using.

    Example: accel pin gc --dry-run
    """
    from accel.core.content import pinning
    from accel.core.errors import TransferError

    done = pinning.collect_garbage(dry_run=dry_run)
    data = {
        "schema": "accel.pin-gc/1",
        "dry_run": dry_run,
        "freed_bytes": done.bytes,
        "blocks": done.blocks,
        "trees": done.trees,
        "kept_blocks": done.kept_blocks,
        "problems": done.problems,
    }

    def human() -> None:
        verb = "would free" if dry_run else "freed"
        output.line(
            f"{verb} {human_bytes(done.bytes)}: {counted(done.blocks, 'block')}, {counted(done.trees, 'folder')}"
        )

    if done.problems:
        raise TransferError(
            f"nothing was freed, because a pin is not whole: {done.problems[0]}", "accel pin verify --repair", data
        )
    output.result(data, human, str(done.bytes))


def verify(
    output: Output,
    pin: Annotated[str | None, typer.Argument(help="Only this pin; everything without.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace what is damaged from another copy, a node or the network.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Hash every block again and see that every pin is whole.

    Example: accel pin verify --repair
    """
    from accel.core.content import verify as verifying
    from accel.core.content.settings import Settings
    from accel.core.errors import TransferError

    with bytes_bar(output, "checking") as (begin, advance, _):
        found = verifying.verify(
            Settings.current(offline=offline), what=pin, repair=repair, begin=begin, advance=advance
        )
    for note in found.notes:
        output.note(note)
    data = {
        "schema": "accel.pin-verify/1",
        "sound": found.sound,
        "blocks": found.blocks,
        "bytes": found.bytes,
        "pins": found.pins,
        "faults": [vars(fault) for fault in found.faults],
    }

    def human() -> None:
        for fault in found.faults:
            needed = f", needed by {', '.join(fault.pins)}" if fault.pins else ""
            where = f" at {fault.where}" if fault.where else ""
            mended = f"; repaired from {fault.by}" if fault.repaired else ""
            output.line(f"{fault.kind}: {fault.cid}{where}{needed}{mended}")
        if found.sound:
            blocks = f"{counted(found.blocks, 'block')} ({human_bytes(found.bytes)})"
            output.line(f"{blocks} of {counted(found.pins, 'pin')} are as they should be")

    output.result(data, human, "sound" if found.sound else "damaged")
    if not found.sound:
        left = sum(not fault.repaired and bool(fault.pins) for fault in found.faults)
        raise TransferError(
            f"{left} blocks that pins need are damaged or missing",
            "look at the lines above" if repair else "accel pin verify --repair",
        )


def export(
    output: Output,
    pin: Annotated[str, typer.Argument(help="A content id, or the name of a pin.")],
    file: Annotated[Path, typer.Argument(help="The CAR file to write; - writes to standard output.")],
) -> None:
    """Write content as a CAR v1 file.

    Example: accel pin export all-minilm all-minilm.car
    """
    from accel.core.content import getting, transfer
    from accel.core.content.blockstore import Store

    cid = getting.find(pin).root
    with Store() as store, bytes_bar(output, "exporting") as (_, advance, _report):
        target = None if str(file) == "-" else file.absolute()
        size = transfer.write_car(store, [cid], target, advance=advance)
    if target is None:
        return

    def human() -> None:
        output.line(f"{cid} in {target} ({human_bytes(size)})")

    data = {"schema": "accel.pin-export/1", "cid": str(cid), "path": str(target), "bytes": size}
    output.result(data, human, str(target))


def import_(
    output: Output,
    file: Annotated[Path, typer.Argument(help="A CAR v1 file.")],
    offline: Offline = False,
) -> None:
    """Read a CAR v1 file, check every block, and pin its roots.

    Example: accel pin import all-minilm.car
    """
    from accel.core.content import pinning
    from accel.core.content.settings import Settings

    with bytes_bar(output, "importing") as (begin, advance, _):
        if file.is_file():
            begin(file.stat().st_size)
        done = pinning.import_car(file, Settings.current(offline=offline), advance)
    for damage in done.damaged:
        output.warning(f"{damage}; what the content needs came from elsewhere")

    def human() -> None:
        for pin in done.pins:
            output.line(f"{pin.cid} ({human_bytes(pin.size_bytes)})")

    data = {
        "schema": "accel.pin-import/1",
        "pins": [_pin_json(pin) for pin in done.pins],
        "damaged": done.damaged,
        "level": done.level,
    }
    output.result(data, human, "\n".join(pin.cid for pin in done.pins))


GROUP: dict[str, Any] = {
    "": "Keep models by content id: accel pin MODEL is short for accel pin add MODEL.",
    "*": "add",
    "add": add,
    "ls": ls,
    "rm": rm,
    "verify": verify,
    "gc": gc,
    "export": export,
    "import": import_,
}
