"""Turns files and folders into blocks: the same CID as `ipfs add -r --hidden` gives under the same profile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accel.core import paths
from accel.core.content import folders, unixfs
from accel.core.content.cid import DAG_PB, RAW, Cid, of
from accel.core.content.disk import failed
from accel.core.content.hashing import Span, hash_spans, spans_of
from accel.core.content.index import Row
from accel.core.content.unixfs import Entry, FileTree, Profile
from accel.core.content.writing import Writer
from accel.core.errors import InputError, TransferError

#: small files are held together in memory up to this many bytes before they are written
_GROUP_BYTES = 16 << 20
_GROUP_FILES = 1000
#: chunks that are looked up to see whether a file is a revision of one that the store has
_PROBES = 9

Advance = Callable[[float], None]


@dataclass
class Source:
    """What is to be imported: a tree of files on disk.

    Attributes:
        files: files by path below the root, as raw names; the empty path for a single file.
        folders: folders by path below the root, the root itself left out.
        links: targets of symbolic links by path.
    """

    is_folder: bool
    files: dict[tuple[bytes, ...], Path] = field(default_factory=dict)
    folders: set[tuple[bytes, ...]] = field(default_factory=set)
    links: dict[tuple[bytes, ...], bytes] = field(default_factory=dict)

    def total(self) -> int:
        """Bytes of all files.

        Raises:
            TransferError: one of them is gone.
        """
        return sum(_size(path) for path in self.files.values())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise failed("read", path, error) from error


def from_path(path: Path) -> Source:
    """The tree at a path: everything in it, hidden files too; symbolic links stay links.

    Raises:
        InputError: nothing is there, something that is neither file, folder nor link, or accel's own store.
        TransferError: it cannot be read.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist", "name a file or a folder")
    if path.is_file():
        return Source(False, {(): path})
    if not path.is_dir():
        raise _special(path)
    source = Source(True)
    store = paths.home() / "content"
    todo: list[tuple[str, tuple[bytes, ...]]] = [(os.fspath(path), ())]
    while todo:
        folder, above = todo.pop()
        try:
            if os.path.samefile(folder, store):  # noqa: PTH121 - of millions of folders
                raise InputError(f"{path} holds accel's own content store", "pin the folders beside it")
        except (FileNotFoundError, NotADirectoryError):
            pass
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    below = (*above, os.fsencode(entry.name))
                    if entry.is_symlink():
                        source.links[below] = os.fsencode(os.readlink(entry.path))  # noqa: PTH115 - the very text
                    elif entry.is_dir():
                        if len(below) >= folders.DEEPEST:
                            raise InputError(
                                f"folders in {path} are nested {folders.DEEPEST} deep or deeper", "pin one further down"
                            )
                        source.folders.add(below)
                        todo.append((entry.path, below))
                    elif entry.is_file():
                        source.files[below] = Path(entry.path)
                    else:
                        raise _special(entry.path)
        except OSError as error:
            raise failed("read", Path(folder), error) from error
    return source


def _special(path: str | Path) -> InputError:
    return InputError(
        f"{path} is neither a file, a folder nor a link", "remove it, or pin a folder that does not have it"
    )


def from_files(folder: Path, names: Sequence[str]) -> Source:
    """The named files of a folder, links followed, as a tree of their own.

    Raises:
        InputError: one of them is no file.
    """
    source = Source(True)
    for name in names:
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is not a file", "fetch the model again")
        parts = tuple(os.fsencode(part) for part in Path(name).parts)
        source.files[parts] = path
        source.folders.update(parts[:depth] for depth in range(1, len(parts)))
    return source


class Importer:
    """Imports one source.

    Args:
        writer: takes the blocks; None only computes the CID.
        reference: leave the bytes where they are and record the user's files.
        advance: told of bytes done.
    """

    def __init__(
        self, profile: Profile, writer: Writer | None, *, reference: bool = False, advance: Advance | None = None
    ) -> None:
        self.profile = profile
        self._writer = writer
        self._reference = reference
        self._advance = advance
        self._nodes: list[tuple[Cid, bytes]] = []

    def run(self, source: Source) -> Entry:
        """Imports everything and returns the root. The caller commits the writer.

        Raises:
            TransferError: a file changed or vanished meanwhile, or the store cannot be written.
        """
        entries: dict[tuple[bytes, ...], Entry] = {}
        small: list[tuple[tuple[bytes, ...], Path, int]] = []
        large: list[tuple[tuple[bytes, ...], Path]] = []
        for path, where in sorted(source.files.items()):
            size = _size(where)
            if size <= self.profile.chunk:
                small.append((path, where, size))
            else:
                large.append((path, where))
        entries.update(self._small(small))
        for path, where in large:
            entries[path] = self._large(where)
        for path, target in source.links.items():
            block = unixfs.symlink_block(target)
            cid = of(block, DAG_PB)
            self._emit(cid, block)
            entries[path] = Entry(cid, len(block), 0)
        root = self._tree(source, entries) if source.is_folder else entries[()]
        self._flush()
        return root

    def _emit(self, cid: Cid, block: bytes) -> None:
        self._nodes.append((cid, block))
        if len(self._nodes) >= _GROUP_FILES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is not None and self._nodes:
            self._writer.put_new(self._nodes)
        self._nodes = []

    def _tree(self, source: Source, entries: Mapping[tuple[bytes, ...], Entry]) -> Entry:
        listed: dict[tuple[bytes, ...], dict[bytes, Entry]] = {(): {}}
        for folder in source.folders:
            listed.setdefault(folder, {})
        for path, entry in entries.items():
            listed.setdefault(path[:-1], {})[path[-1]] = entry
        for folder in sorted(listed, key=len, reverse=True):
            entry = folders.build(listed[folder], self.profile, self._emit)
            if not folder:
                return entry
            listed.setdefault(folder[:-1], {})[folder[-1]] = entry
        raise AssertionError("the root is always listed")

    def _small(self, files: Sequence[tuple[tuple[bytes, ...], Path, int]]) -> Iterator[tuple[tuple[bytes, ...], Entry]]:
        group: list[tuple[Cid, bytes]] = []
        held = 0
        for path, where, size in files:
            try:
                data = where.read_bytes()
            except OSError as error:
                raise failed("read", where, error) from error
            if len(data) != size:
                raise _changed(where)
            cid = of(data)
            if self._reference and self._writer is not None:
                self._writer.add_reference(where.absolute(), cid, [Row(cid, 0, size)])
            else:
                group.append((cid, data))
                held += size
            if self._advance is not None:
                self._advance(float(size))
            if held >= _GROUP_BYTES or len(group) >= _GROUP_FILES:
                self._store(group)
                group, held = [], 0
            yield path, Entry(cid, size, size)
        self._store(group)

    def _store(self, group: Sequence[tuple[Cid, bytes]]) -> None:
        if self._writer is not None and group:
            self._writer.put_new(group)

    def _large(self, where: Path) -> Entry:
        try:
            handle = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise failed("read", where, error) from error
        try:
            with contextlib.suppress(OSError, AttributeError):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            before = os.fstat(handle)
            spans = spans_of(before.st_size, self.profile.chunk)
            try:
                entry = self._read(where, handle, spans)
            except OSError as error:
                raise failed("read", where, error) from error
            after = os.fstat(handle)
        finally:
            os.close(handle)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise _changed(where)
        return entry

    def _read(self, where: Path, handle: int, spans: Sequence[Span]) -> Entry:
        writer = self._writer
        if writer is None or self._reference:
            entry, rows = self._root(spans, hash_spans(handle, spans, None, self._advance))
            if writer is not None:
                writer.add_reference(where.absolute(), entry.cid, rows)
            return entry
        if self._is_revision(writer, handle, spans):
            return self._revision(writer, where, handle, spans)
        return self._whole(writer, handle, spans)

    def _root(self, spans: Sequence[Span], digests: Sequence[bytes]) -> tuple[Entry, list[Row]]:
        tree = FileTree(self.profile.width, self._emit)
        rows: list[Row] = []
        for (offset, length), digest in zip(spans, digests, strict=True):
            tree.add(digest, length)
            rows.append(Row(Cid(RAW, digest), offset, length))
        return tree.finish(), rows

    def _is_revision(self, writer: Writer, handle: int, spans: Sequence[Span]) -> bool:
        if not writer.store.index.read("SELECT 1 FROM containers WHERE kind <> 'reference' LIMIT 1"):
            return False
        numbers = {round(step * (len(spans) - 1) / (_PROBES - 1)) for step in range(_PROBES)}
        probes = hash_spans(handle, [spans[number] for number in sorted(numbers)])
        return bool(writer.store.index.known(probes, owned=True))

    def _whole(self, writer: Writer, handle: int, spans: Sequence[Span]) -> Entry:
        out = writer.new_file(sum(length for _, length in spans))
        try:
            if out.clone(handle):
                digests = hash_spans(out.handle, spans, None, self._advance)
            else:
                out.reserve()
                digests = hash_spans(handle, spans, lambda n, part, _: out.write(part, spans[n][0]), self._advance)
            entry, rows = self._root(spans, digests)
            writer.add_file(out, entry.cid, rows)
        except BaseException:
            out.discard()
            raise
        return entry

    def _revision(self, writer: Writer, where: Path, handle: int, spans: Sequence[Span]) -> Entry:
        digests = hash_spans(handle, spans, None, self._advance)
        # marked as used before anything relies on them, so that the collector cannot take them in between
        known = writer.store.index.touch(set(digests), writer.lease.tick, owned=True) - set(writer.store.damaged)
        new = [number for number, digest in enumerate(digests) if digest not in known]

        def keep(number: int, part: memoryview, digest: bytes) -> None:
            if digest != digests[new[number]]:
                raise _changed(where)
            writer.put(Cid(RAW, digest), part)

        hash_spans(handle, [spans[number] for number in new], keep)
        return self._root(spans, digests)[0]


def _changed(where: Path) -> TransferError:
    return TransferError(f"{where} changed while it was read", "wait until nobody writes to it, then try again")


def cid_of(path: Path, profile: Profile = unixfs.MODERN) -> Cid:
    """The CID of a file or folder, without storing anything."""
    return Importer(profile, None).run(from_path(path)).cid
