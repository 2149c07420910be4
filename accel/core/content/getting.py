"""`accel fetch`, and models by CID for `accel run`: content brought here and given a path."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from accel.core import paths
from accel.core.content import lockfile, trees
from accel.core.content.blockstore import Store
from accel.core.content.bringing import bring
from accel.core.content.cid import Cid, is_reference, parse, parse_reference
from accel.core.content.index import Filled, Row
from accel.core.content.job import Advance, Begin, Job, tidy
from accel.core.content.pins import AmbiguousName, Pins
from accel.core.content.room import check_limit, check_room
from accel.core.content.walk import Content, resolve, text
from accel.core.errors import InputError

if TYPE_CHECKING:
    from accel.core.content.settings import Settings


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes:
        path: where the content is.
        level: the farthest level that served: `local`, `kubo`, `store`, `gateway` or `provider`.
        sources: blocks and bytes by source; empty where everything was here.
        dropped: sources that were let go, with the reason.
        repaired: damaged copies in the local store that were replaced.
    """

    cid: str
    path: Path
    level: str
    size_bytes: int
    files: int
    sources: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, str]] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wish:
    """What is to be fetched.

    Attributes:
        reference: CID, `ipfs://CID/path`, or a name of the lock file or of a pin.
        output: where it goes; under the home folder by default.
        only: patterns of files, to take a part.
        car: write one CAR file to `output` instead of files.
        frozen: only what the lock file names.
    """

    reference: str
    output: Path | None = None
    only: tuple[str, ...] = ()
    car: bool = False
    max_size: int | None = None
    frozen: bool = False


def _home(job: Job, content: Content, only: Sequence[str] = ()) -> Path:
    """The content as files under the home folder, every byte checked now."""
    name = str(content.root)
    if only:
        name += "+" + hashlib.sha256("\0".join(sorted(only)).encode()).hexdigest()[:8]
    folder = job.store.trees / name
    if folder.is_dir() and not trees.bad_files(job.store, content, folder, job.advance):
        builder = trees.Builder(job.store, folder, job.fetcher.supply, home=True)
        if trees.standing(job.store, name, job.lease) is None:
            builder.refers = any(path.is_symlink() and path.readlink().is_absolute() for path in folder.rglob("*"))
            builder.copied = trees.copied_bytes(folder)
            trees.record(job.store, job.lease, builder, name, content.root)
        return _inner(folder, content)
    made = trees.fresh(job.store.trees, f".{job.lease.id}-tree")
    try:
        builder = trees.Builder(job.store, made, job.fetcher.supply, job.advance, home=True, checked=job.fetcher.fresh)
        builder.run(content)
        job.writer.commit()
        trees.settle(job.store, job.lease, builder, made, name, content.root)
    except BaseException:
        trees.remove(made)
        raise
    return _inner(folder, content)


def _output(job: Job, content: Content, target: Path) -> Path:
    """The content as files at a place that the user names; large files are written there at once."""
    target = target.absolute()
    mark = hashlib.sha256(f"{content.root}\0{target}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
    stage = target.parent / f".{target.name[:80]}.accel-{mark}"
    paths.ensure(target.parent)
    job.hold(mark)
    stage.mkdir(mode=0o755, exist_ok=True)
    ready = bring(job.fetcher, content, stage)
    _clear_but(stage, {trees.path_in(stage, file) for file in ready})
    builder = trees.Builder(job.store, stage, job.fetcher.supply, job.advance, ready=ready)
    builder.run(content)
    job.writer.commit()
    if content.is_folder:
        trees.place(stage, target, content)
    else:
        trees.place(trees.path_in(stage, content.files[0]), target, content)
        trees.remove(stage)
    _remember(job, content, target)
    return target


def _remember(job: Job, content: Content, target: Path) -> None:
    """Notes the user's files as places where blocks are, so that the next fetch finds them near."""
    filled: list[Filled] = []
    for file in content.files:
        if file.raw and file.leaves:
            where = target / text(file.path) if file.path else target
            rows = [Row(leaf.cid, leaf.offset, leaf.length) for leaf in file.leaves]
            filled.append(Filled("reference", str(where), 0, rows, file.cid.digest))
    job.store.index.add(filled, job.lease.tick)


def report(job: Job, cid: Cid, path: Path, size: int, files: int) -> Fetched:
    """What was done, for the user."""
    fetcher, store = job.fetcher, job.store
    return Fetched(
        str(cid),
        path,
        fetcher.level,
        size,
        files,
        [vars(s) for s in fetcher.served.values()],
        [{"name": d.name, "reason": d.reason} for d in fetcher.dropped],
        sorted({store.where(place) for places in store.repaired.values() for place in places}),
        [*store.notes, *fetcher.levels.notes],
    )


def _inner(folder: Path, content: Content) -> Path:
    return folder if content.is_folder else trees.path_in(folder, content.files[0])


def _clear_but(folder: Path, keep: set[Path]) -> None:
    """Empties a staging folder of what an earlier attempt left, but for finished large files."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path in keep:
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif not any(path in kept.parents for kept in keep):
            path.rmdir()


class Named(NamedTuple):
    """What a reference means: a root, the path below it, and the lock file's entry where that named it."""

    root: Cid
    inside: tuple[str, ...] = ()
    locked: lockfile.Locked | None = None


def find(reference: str, *, frozen: bool = False) -> Named:
    """What a reference means.

    Raises:
        InputError: neither a CID nor a name of the lock file or of a pin. UnavailableError: not what `frozen` allows.
    """
    if is_reference(reference):
        if frozen:
            lockfile.require(reference)
        return Named(*parse_reference(reference))
    locked = lockfile.entry(reference, frozen=frozen)
    if locked is not None:
        return Named(parse(locked.cid), locked=locked)
    try:
        return Named(parse(Pins(paths.home() / "content" / "pins").find(reference).cid))
    except AmbiguousName:
        raise
    except InputError as error:
        raise InputError(
            f"{reference!r} is neither a content id nor a name that accel.lock or a pin has",
            f"give the CID, or accel pin {reference} first; {error.hint}",
        ) from error


def fetch(wish: Wish, settings: Settings, begin: Begin | None = None, advance: Advance | None = None) -> Fetched:
    """Brings content here and returns where it is.

    Raises:
        InputError: a reference that means nothing, or a file in the way of the output.
        IncompatibleError: more than `max_size` or than the disk has room for.
        TransferError: blocks that cannot be had or are damaged everywhere, or a disk that is full.
    """
    root, inside, locked = find(wish.reference, frozen=wish.frozen)
    with Job(settings, advance, durable=False) as job:
        cid = resolve(root, inside, job.fetcher.load) if inside else root
        content = job.look(cid, wish.only, wish.max_size)
        if begin is not None:
            begin(content.size)
        if wish.output is not None and not wish.car:
            check_room(job.store, content, wish.output.absolute(), copied=True)
            path = _output(job, content, wish.output)
        else:
            check_room(job.store, content, job.store.root, copied=False)
            bring(job.fetcher, content)
            path = _car(job, content, wish) if wish.car else _home(job, content, wish.only)
        check_limit(content, wish.max_size)
        if locked is not None and not wish.only:
            lockfile.check_size(locked, content.size)
        done = report(job, cid, path, content.size, len(content.files))
    tidy(settings)
    return done


def _car(job: Job, content: Content, wish: Wish) -> Path:
    from accel.core.content.transfer import write_car

    target = (wish.output or Path(f"{content.root}.car")).absolute()
    write_car(job.store, [content.root], target, job.fetcher.supply, partial=content if wish.only else None)
    return target


_held: list[contextlib.ExitStack] = []


def materialise(cid: str | Cid, *, offline: bool = False, advance: Advance | None = None) -> Path:
    """The content of a CID as a folder, or a file, that stays as it is while this process runs.

    Content that was checked before and that nobody has touched since is taken as it is; files that were pinned by
    reference are hashed each time. What is not here is fetched.

    Raises:
        As `fetch`.
    """
    root = parse(cid) if isinstance(cid, str) else cid
    with Store() as store:
        lease = store.lease()
        held = contextlib.ExitStack()
        held.enter_context(lease)
        _held.append(held)
        standing = trees.standing(store, str(root), lease)
        if standing is not None and (standing / str(root)).exists() and len(list(standing.iterdir())) == 1:
            return standing / str(root)
        if standing is not None:
            return standing
    from accel.core.content.settings import Settings

    with Job(Settings.current(offline=offline), advance, durable=False) as job:
        content = job.look(root)
        check_room(job.store, content, job.store.root, copied=False)
        bring(job.fetcher, content)
        return _home(job, content)


def storage_report(settings: Settings) -> Iterator[dict[str, Any]]:
    """What each level keeps, for `accel report storage`: level, kind, blocks, bytes and where.

    The kinds of the local level are `pack`, `file`, `reference` (bytes in the user's own files) and `tree` (bytes of
    folders that nothing else holds). The node, where one answers, tells its own numbers; gateways do not.
    """
    with Store() as store:
        rows = store.index.read(
            "SELECT c.kind, count(DISTINCT b.digest), coalesce(sum(b.length), 0) FROM containers c "
            "JOIN blocks b ON b.container = c.id GROUP BY c.kind"
        )
        by_kind = {str(kind): (blocks, size) for kind, blocks, size in rows}
        for kind in ("pack", "file", "reference"):
            blocks, size = by_kind.get(kind, (0, 0))
            yield {"level": "local", "kind": kind, "blocks": blocks, "bytes": size, "where": str(store.root)}
        trees_rows = store.index.read("SELECT count(*), coalesce(sum(size), 0) FROM trees")
        yield {
            "level": "local",
            "kind": "tree",
            "blocks": trees_rows[0][0],
            "bytes": trees_rows[0][1],
            "where": str(store.trees),
        }
    from accel.core.content.levels import Levels
    from accel.core.content.providers import Scores

    levels = Levels(settings, Scores(paths.home() / "content" / "providers.json"))
    try:
        node = None if settings.offline else levels.node()
        if node is not None:
            blocks, size = node.kept()
            yield {"level": "kubo", "kind": "node", "blocks": blocks, "bytes": size, "where": node.address}
    finally:
        levels.close()
