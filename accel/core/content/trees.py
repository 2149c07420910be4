"""Content as files and folders: under the home folder for programs that want a path, or where the user wants it.

Everything is written into a fresh folder of its own, symbolic links last, and gets its final name when it is whole. So
no name in the content can lead anywhere else. Each byte is checked against its CID on its way.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

from accel.core import paths
from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid
from accel.core.content.dagpb import decode
from accel.core.content.disk import FileWriter, failed
from accel.core.content.hashing import Claim, cores, hash_spans, on_threads
from accel.core.content.leases import Lease
from accel.core.content.sources import Data
from accel.core.content.unixfs import read_info
from accel.core.content.walk import Content, File, Leaf, shown, text
from accel.core.content.wants import Sink, Want
from accel.core.errors import InputError

Advance = Callable[[float], None]
#: gets blocks that the store lacks or has damaged; raises when it cannot
Supply = Callable[[Sequence[Want]], None]
#: a leaf of a file, by a file that needs it
_Lack = tuple[File, Leaf, Path]


def content_of(cid: Cid, block: Data) -> Data:
    """The bytes of a file that a block holds."""
    return block if cid.is_raw else read_info(decode(block)).data


def check_file(handle: int, file: File, advance: Advance | None = None) -> list[Leaf]:
    """The leaves of a file that an open file of the disk does not hold at their place."""
    leaves = [leaf for leaf in file.leaves if leaf.cid.is_raw]
    digests = hash_spans(handle, [(leaf.offset, leaf.length) for leaf in leaves], None, advance, short=True)
    return [leaf for leaf, digest in zip(leaves, digests, strict=True) if digest != leaf.cid.digest]


def path_in(folder: Path, file: File) -> Path:
    """Where a file of the content goes in a folder; a single file is named by its CID."""
    return folder / (text(file.path) if file.path else str(file.cid))


class Builder:
    """Writes content into a fresh folder.

    Args:
        target: a folder that this call may fill.
        supply: gets blocks that the store lacks.
        home: the tree belongs to the store: large files are linked to their containers instead of copied.
        ready: files already complete below the target.
        checked: digests of the roots of files whose containers were written, block by block checked, a moment ago.
    """

    def __init__(
        self,
        store: Store,
        target: Path,
        supply: Supply,
        advance: Advance | None = None,
        *,
        home: bool = False,
        ready: Sequence[File] = (),
        checked: Set[bytes] = frozenset(),
    ) -> None:
        self._store, self._target, self._supply, self._advance = store, target, supply, advance
        self._home = home
        self._checked = checked
        self._ready = {file.path for file in ready}
        self._lacking: list[_Lack] = []
        #: bytes written that the store does not hold elsewhere
        self.copied = 0
        #: whether a file is only a link to one of the user's own
        self.refers = False

    def run(self, content: Content) -> None:
        """Writes everything.

        Raises:
            TransferError: the disk is full, or blocks cannot be had.
        """
        try:
            for folder in content.folders:
                (self._target / text(folder)).mkdir(parents=True, exist_ok=True)
            for file in content.files:
                if file.path not in self._ready:
                    path_in(self._target, file).parent.mkdir(parents=True, exist_ok=True)
                    self._file(file)
            self._fill()
            for file in content.files:
                if file.executable and file.path not in self._ready:
                    path_in(self._target, file).chmod(0o555 if self._home else 0o755)
            for path, target in content.links:
                where = self._target / text(path)
                where.parent.mkdir(parents=True, exist_ok=True)
                where.symlink_to(os.fsdecode(target))
        except OSError as error:
            raise failed("write", self._target, error) from error

    def _file(self, file: File) -> None:
        target = path_in(self._target, file)
        if len(file.leaves) == 1:
            leaf = file.leaves[0]
            block = self._store.get(leaf.cid)
            if block is None:
                self._lacking.append((file, leaf, target))
                block = b""
            self._small(target, content_of(leaf.cid, block) if block else b"")
            return
        if self._home and not file.executable and self._linked(file, target):
            return
        self._assemble(file, target)

    def _small(self, target: Path, data: Data) -> None:
        with target.open("xb") as out:
            out.write(data)
        self.copied += len(data)
        self._tell(len(data))

    def _tell(self, count: float) -> None:
        if self._advance is not None:
            self._advance(float(count))

    def _linked(self, file: File, target: Path) -> bool:
        for kind in ("file", "reference"):
            path = self._store.index.container_of(file.cid.digest, kind)
            if path is None:
                continue
            source = self._store.root / path
            with contextlib.suppress(OSError), source.open("rb") as opened:
                if opened.seek(0, os.SEEK_END) != file.size:
                    continue
                fresh = kind == "file" and file.cid.digest in self._checked
                if not fresh and check_file(opened.fileno(), file, self._advance):
                    continue
                if kind == "file":
                    os.link(source, target)
                else:
                    target.symlink_to(source)
                    self.refers = True
                return True
        return False

    def _assemble(self, file: File, target: Path) -> None:
        out = FileWriter(target, file.size)
        claim = Claim(len(file.leaves))

        def work() -> None:
            while (number := claim.take()) is not None:
                leaf = file.leaves[number]
                block = self._store.get(leaf.cid)
                if block is None:
                    self._lacking.append((file, leaf, target))
                    continue
                data = content_of(leaf.cid, block)
                out.write(data, leaf.offset)
                self._tell(len(data))

        try:
            on_threads(work, min(cores(), len(file.leaves)), claim.stop)
        finally:
            out.close()
        self.copied += file.size

    def _fill(self) -> None:
        """Writes what the store could not give."""
        by_cid: dict[Cid, list[_Lack]] = {}
        for lack in self._lacking:
            by_cid.setdefault(lack[1].cid, []).append(lack)

        def sink(cid: Cid) -> Sink:
            def write(block: Data) -> None:
                data = content_of(cid, block)
                for file, leaf, target in by_cid[cid]:
                    out = FileWriter(target, file.size)
                    try:
                        out.write(data, leaf.offset)
                    finally:
                        out.close()
                self._tell(len(data))

            return write

        if by_cid:
            self._supply([Want(cid, sink(cid)) for cid in by_cid])


def fresh(parent: Path, name: str) -> Path:
    """An empty folder that did not exist before."""
    folder = paths.ensure(parent) / name
    try:
        folder.mkdir(mode=0o755)
    except OSError as error:
        raise failed("write", folder, error) from error
    return folder


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        yield entry.path, entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path))


def stamp(folder: Path) -> str:
    """What changes when anything in a folder does: names, sizes, times and inodes of everything in it."""
    digest = hashlib.sha256()
    for path, info in _entries(folder):
        kind = stat.S_IFMT(info.st_mode)
        # no program can set back the time of the last change of an inode (ctime)
        times = () if stat.S_ISDIR(info.st_mode) else (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
        digest.update(repr((os.path.relpath(path, folder), kind, *times)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def standing(store: Store, name: str, lease: Lease) -> Path | None:
    """The tree of that name, if nobody has touched it since it was checked."""
    rows = store.index.read("SELECT stamp FROM trees WHERE name = ?", (name,))
    folder = store.trees / name
    if not rows or not rows[0][0] or not folder.is_dir() or stamp(folder) != rows[0][0]:
        return None
    with store.index.writing() as con:
        con.execute("UPDATE trees SET used = max(used, ?) WHERE name = ?", (lease.tick, name))
    return folder


def settle(store: Store, lease: Lease, builder: Builder, made: Path, name: str, root: Cid) -> Path:
    """Gives a tree that was built its final name and records it."""
    target = store.trees / name
    aside = store.trees / f".{lease.id}-old"
    with contextlib.suppress(FileNotFoundError):
        target.rename(aside)
    try:
        made.rename(target)
    except OSError as error:
        raise failed("rename", made, error) from error
    remove(aside)
    record(store, lease, builder, name, root)
    return target


def record(store: Store, lease: Lease, builder: Builder, name: str, root: Cid) -> None:
    """Notes a checked tree of the store."""
    # a tree that links to files of the user has to be checked whenever it is used
    mark = "" if builder.refers else stamp(store.trees / name)
    with store.index.writing() as con:
        con.execute(
            "INSERT INTO trees VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET root = excluded.root, "
            "size = excluded.size, stamp = excluded.stamp, used = excluded.used",
            (name, root.digest, builder.copied, mark, lease.tick),
        )


def copied_bytes(folder: Path) -> int:
    """Bytes of a tree that no container shares."""
    return sum(info.st_size for _, info in _entries(folder) if stat.S_ISREG(info.st_mode) and info.st_nlink == 1)


def remove(folder: Path) -> None:
    """Removes a tree, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def place(made: Path, target: Path, content: Content) -> None:
    """Moves finished content to the path that the user named: as a whole, or file by file into a folder that exists.

    Raises:
        InputError: a file is there already and is another one. TransferError: the disk does not allow it.
    """
    try:
        if not target.exists() and not target.is_symlink():
            made.rename(target)
            return
        if not content.is_folder or not target.is_dir():
            raise _in_the_way(target)
        for folder in content.folders:
            _inside(target, text(folder)).mkdir(parents=True, exist_ok=True)
        moves = [(made / text(file.path), _inside(target, text(file.path))) for file in content.files]
        moves += [(made / text(path), _inside(target, text(path))) for path, _ in content.links]
        for source, final in moves:
            if source.exists() and (final.exists() or final.is_symlink()) and not _same(source, final):
                raise _in_the_way(final)
        for source, final in moves:
            final.parent.mkdir(parents=True, exist_ok=True)
            source.replace(final)
        remove(made)
    except OSError as error:
        raise failed("write", target, error) from error


def _in_the_way(path: Path) -> InputError:
    return InputError(
        f"{path} is there already, and is something else", "remove it, or name another place with --output"
    )


def _inside(target: Path, name: str) -> Path:
    """A path below the target, none of whose folders is a symbolic link that leads away."""
    at = target
    for part in Path(name).parts[:-1]:
        at = at / part
        if at.is_symlink():
            raise InputError(f"{at} is a symbolic link, and nothing is written through it", "name another --output")
    return target / name


def _same(left: Path, right: Path) -> bool:
    if left.is_symlink() or right.is_symlink():
        return left.is_symlink() and right.is_symlink() and left.readlink() == right.readlink()
    if not right.is_file() or left.stat().st_size != right.stat().st_size:
        return False
    with left.open("rb") as one, right.open("rb") as other:
        while block := one.read(1 << 20):
            if block != other.read(1 << 20):
                return False
    return True


def bad_files(store: Store, content: Content, folder: Path, advance: Advance | None = None) -> list[str]:
    """Names of the files of a tree that are not as the content says."""
    return [
        shown(file.path) or str(file.cid)
        for file in content.files
        if not _holds(store, path_in(folder, file), file, advance)
    ]


def _holds(store: Store, where: Path, file: File, advance: Advance | None) -> bool:
    try:
        with where.open("rb") as opened:
            handle = opened.fileno()
            if os.fstat(handle).st_size != file.size or check_file(handle, file, advance):
                return False
            for leaf in file.leaves:
                if not leaf.cid.is_raw:
                    block = store.get(leaf.cid)
                    if block is None or os.pread(handle, leaf.length, leaf.offset) != content_of(leaf.cid, block):
                        return False
    except OSError:
        return False
    return True
