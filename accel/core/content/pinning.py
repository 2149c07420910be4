"""`accel pin`: models into the store under a CID, and what is done with pins afterwards."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.content import importer, lockfile
from accel.core.content.cid import is_reference, parse
from accel.core.content.job import Advance, Begin, Job, tidy
from accel.core.content.pins import Pin, Pins
from accel.core.content.settings import Settings
from accel.core.content.unixfs import MODERN, Profile
from accel.core.errors import InputError, TransferError, UnavailableError

if TYPE_CHECKING:
    from accel.core.content.collect import Collected
    from accel.core.content.walk import Content

#: told of model bytes that are downloaded or hashed while a name is resolved
Report = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Request:
    """What is to be pinned.

    Attributes:
        what: a path, a model's name, or a reference to content.
        reference: leave the bytes in the user's files.
        to_kubo: give it to the node as well.
        lock: write it into `accel.lock`.
        refresh: ask the hub for a newer version first.
    """

    what: str
    profile: Profile = MODERN
    reference: bool = False
    to_kubo: bool = False
    lock: bool = False
    refresh: bool = False


@dataclass(frozen=True)
class Pinned:
    """What was pinned.

    Attributes:
        new_bytes: bytes that the store took for it.
        level: where content by CID came from, `local` for files.
    """

    pin: Pin
    files: int
    new_bytes: int
    level: str = "local"
    lock_file: Path | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Import:
    source: importer.Source
    name: str
    origin: str
    revision: str | None = None
    licence: str | None = None
    notes: tuple[str, ...] = ()


def pin(
    request: Request,
    settings: Settings,
    begin: Begin | None = None,
    advance: Advance | None = None,
    report: Any = None,
) -> Pinned:
    """Puts something into the store and keeps it.

    Raises:
        InputError: nothing of that name. TransferError: it cannot be read, fetched or stored.
        UnavailableError: weights that cannot be had, or no Kubo node where one was asked for.
    """
    if not request.what:
        raise InputError("the name of what is to be pinned is empty", "name a model, a path or a content id")
    if _is_content(request.what):
        done = _pin_content(request, settings, begin, advance)
    else:
        done = _pin_files(request, _source(request, report), settings, begin, advance)
    tidy(settings)
    return done


def _is_content(what: str) -> bool:
    return is_reference(what) and not Path(what).exists()


def _source(request: Request, report: Any) -> _Import:
    what = request.what
    if _is_path(what):
        where = Path(what.removeprefix("file://")).expanduser()
        source = importer.from_path(where)
        notes = tuple(_leading_out(source))
        return _Import(source, str(where), str(where.absolute()), licence=_licence(where), notes=notes)
    from accel.core import models

    model = models.resolve(what, refresh=request.refresh, progress=report)
    if model.folder is None or model.weights != "pretrained":
        raise UnavailableError(f"{what} has no files that could be pinned", "pin a folder, or a model with weights")
    licence = model.entry.get("licence") or model.entry.get("license") or _licence(model.folder)
    source = importer.from_files(model.folder, model.files)
    return _Import(source, model.name, model.source, model.revision, licence, model.notes)


def _leading_out(source: importer.Source) -> Iterator[str]:
    if source.links:
        from accel.core.content.walk import leading_out, shown

        bad = leading_out(source.links)
        if bad:
            more = f" and {len(bad) - 1} more links" if len(bad) > 1 else ""
            yield f"{shown(bad[0])}{more} lead out of it or in circles, so accel fetch is going to refuse the whole"


def _is_path(what: str) -> bool:
    """As `accel run` decides, but that any path can be pinned, whether a model is there or not."""
    if what.startswith((".", "/", "~", "file:")):
        return True
    from accel.core import models

    return models.is_path(what)


def _licence(folder: Path) -> str | None:
    """The licence that a model card names in its header."""
    try:
        card = (folder / "README.md").open(encoding="utf-8", errors="replace").read(20_000)
    except OSError:
        return None
    head = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    found = re.search(r"^licen[sc]e:[ \t]*([\w.+-]+)[ \t]*$", head[1], re.MULTILINE) if head else None
    return found[1] if found else None


def _pin_files(
    request: Request, item: _Import, settings: Settings, begin: Begin | None, advance: Advance | None
) -> Pinned:
    size = item.source.total()
    if begin is not None:
        begin(size)
    with Job(settings) as job:
        work = importer.Importer(request.profile, job.writer, reference=request.reference, advance=advance)
        root = work.run(item.source)
        references = job.writer.references() if request.reference else ()
        job.writer.commit()
        pin = Pin(
            cid=str(root.cid),
            name=item.name,
            revision=item.revision,
            size_bytes=root.size,
            licence=item.licence,
            profile=request.profile.name,
            mode="reference" if request.reference else "copy",
            source=item.origin,
            pinned_at=_now(),
            references=references,
        )
        return _finish(job, request, pin, len(item.source.files), list(item.notes))


def _pin_content(request: Request, settings: Settings, begin: Begin | None, advance: Advance | None) -> Pinned:
    if request.reference:
        raise InputError("--reference is for files that are here already", "leave it out to pin content by its CID")
    from accel.core.content.bringing import bring
    from accel.core.content.getting import find, report
    from accel.core.content.room import check_room
    from accel.core.content.walk import resolve

    root, inside, _ = find(request.what)
    with Job(settings, advance) as job:
        cid = resolve(root, inside, job.fetcher.load) if inside else root
        content = job.look(cid)
        if begin is not None:
            begin(content.size)
        check_room(job.store, content, job.store.root, copied=False)
        bring(job.fetcher, content)
        own = {b.digest for b in content.blocks()} - job.store.index.touch(
            {b.digest for b in content.blocks()}, job.lease.tick, owned=True
        )
        if own:
            # some of it lies in files of the user only, which may change
            job.writer.put_new((b, job.store.require(b)) for b in content.blocks() if b.digest in own)
            job.writer.commit()
        job.store.make_durable({b.digest for b in content.blocks()})
        before = Pins(job.store.root / "pins").get(cid)
        name = before.name if before is not None else ""
        pin = Pin(str(cid), name=name, size_bytes=content.size, source=job.fetcher.level, pinned_at=_now())
        fetched = report(job, cid, job.store.root, content.size, len(content.files))
        notes = fetched.notes + [f"{d['name']} was dropped: {d['reason']}" for d in fetched.dropped]
        done = _finish(job, request, pin, len(content.files), notes)
        return Pinned(done.pin, done.files, done.new_bytes, fetched.level, done.lock_file, done.notes)


def _finish(job: Job, request: Request, pin: Pin, files: int, notes: list[str]) -> Pinned:
    Pins(job.store.root / "pins").add(pin)
    if request.to_kubo:
        node = job.fetcher.levels.node()
        if node is None:
            raise UnavailableError(
                f"it is pinned here as {pin.cid}, and no Kubo node answers at {job.settings.node}",
                "start one (ipfs daemon), or set ipfs.local_node",
            )
        from accel.core.content.transfer import give_to_node

        notes += give_to_node(job.store, node, parse(pin.cid))
    lock_file = None
    if request.lock:
        lock_file = _lock(request, pin)
    return Pinned(pin, files, job.writer.written, lock_file=lock_file, notes=[*job.store.notes, *notes])


def _lock(request: Request, pin: Pin) -> Path:
    """Writes a pin into the lock file, under the name by which `accel run` is going to ask for it."""
    if _is_content(request.what):
        return lockfile.write(lockfile.Locked(pin.cid, pin.cid, pin.size_bytes))
    name, requested, is_path = request.what, None, _is_path(request.what)
    if not is_path:
        from accel.core import models

        name, requested = models.split(name, None)
    locked = lockfile.Locked(name, pin.cid, pin.size_bytes, pin.revision, requested, pin.licence)
    return lockfile.write(locked, is_path=is_path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Listed:
    """A pin with what it takes: blocks of its own, and those that other pins have as well."""

    pin: Pin
    own_bytes: int
    shared_bytes: int
    whole: bool


def listing() -> list[Listed]:
    """Every pin with its sizes."""
    from accel.core.content.blockstore import Store
    from accel.core.content.collect import reachable

    with Store() as store:
        pins = Pins(store.root / "pins").all()
        lengths = {
            bytes(digest): int(length)  # type: ignore[call-overload]
            for digest, length in store.index.read("SELECT digest, max(length) FROM blocks GROUP BY digest")
        }
        sets: list[tuple[Pin, set[bytes], bool]] = []
        counts: dict[bytes, int] = {}
        for pin in pins:
            problems: list[str] = []
            digests = reachable(store, [parse(pin.cid)], problems)
            whole = not problems and digests <= lengths.keys()
            sets.append((pin, digests, whole))
            for digest in digests:
                counts[digest] = counts.get(digest, 0) + 1
        found: list[Listed] = []
        for pin, digests, whole in sets:
            own = sum(lengths.get(d, 0) for d in digests if counts[d] == 1)
            shared = sum(lengths.get(d, 0) for d in digests if counts[d] > 1)
            found.append(Listed(pin, own, shared, whole))
        return found


def unpin(what: str, *, dry_run: bool = False) -> Pin:
    """No longer keeps a pin.

    Raises:
        InputError: nothing is pinned under that name.
    """
    from accel.core import paths

    pins = Pins(paths.home() / "content" / "pins")
    found = pins.find(what)
    if not dry_run:
        pins.remove(found)
    return found


def collect_garbage(*, dry_run: bool = False) -> Collected:
    """Takes out what nothing pins and nobody uses."""
    from accel.core.content.blockstore import Store
    from accel.core.content.collect import collect

    with Store() as store:
        return collect(store, dry_run=dry_run)


@dataclass(frozen=True)
class Imported:
    """What came out of a CAR file.

    Attributes:
        damaged: its damaged blocks in words. They came from farther away, or nothing of the content needs them.
        level: where blocks came from that it lacked, `local` if none.
    """

    pins: list[Pin]
    damaged: list[str]
    level: str


def import_car(path: Path, settings: Settings, advance: Advance | None = None) -> Imported:
    """Pins the roots of a CAR file; blocks that it lacks, or has damaged, are fetched.

    Raises:
        TransferError: it is damaged, or lacks blocks, and nobody has them. InputError: it cannot be read or has no
            roots.
    """
    from accel.core.content.transfer import read_car

    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", "name a CAR file") from error
    with stream, Job(settings) as job:
        try:
            found = read_car(job.writer, stream, str(path), advance)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}", "name a CAR file") from error
        job.writer.commit()
        try:
            roots = list(dict.fromkeys(found.roots))
            # all or none of the roots
            contents = [job.fetcher.look(root) for root in roots]
            pins = [_pin_root(job, content, path) for content in contents]
        except TransferError as error:
            if not found.damaged:
                raise
            more = f" (and {len(found.damaged) - 1} more)" if len(found.damaged) > 1 else ""
            raise TransferError(
                f"{found.damaged[0]}{more}; {error.message}",
                "get the CAR file again, or import it where a node or gateway has the content",
                {"damaged": found.damaged},
            ) from error
        done = Imported(pins, found.damaged, job.fetcher.level)
    tidy(settings)
    return done


def _pin_root(job: Job, content: Content, path: Path) -> Pin:
    from accel.core.content.bringing import bring

    bring(job.fetcher, content)
    job.store.make_durable({block.digest for block in content.blocks()})
    pins = Pins(job.store.root / "pins")
    before = pins.get(content.root)
    pin = Pin(
        str(content.root),
        name=before.name if before is not None else "",
        size_bytes=content.size,
        source=str(path.absolute()),
        pinned_at=_now(),
    )
    pins.add(pin)
    return pin
