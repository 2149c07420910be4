"""Walks content from its root and lists what it is made of, refusing whatever could do harm.

Sizes and names in a node are claims of whoever made it. They are checked against each other here, before anything is
written; the bytes themselves are checked against their CIDs wherever they are read.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from accel.core.content import unixfs
from accel.core.content.cid import Cid
from accel.core.content.dagpb import Link, Node, damaged, decode
from accel.core.content.folders import DEEPEST, shard_prefix
from accel.core.content.unixfs import Info, read_info
from accel.core.errors import IncompatibleError, InputError, TransferError

#: more than these is refused as an attack: a few blocks can claim to be millions of entries
_MOST_ENTRIES = 1_000_000
_MOST_LEAVES = 4_000_000
_DEEPEST_FILE = 64
_LONGEST_NAME = 255

#: loads blocks, checked, in any order
LoadMany = Callable[[Sequence[Cid]], Iterator[tuple[Cid, bytes]]]
#: path below the root, as raw names
Path = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A piece of a file: a raw block as it is, or the data inside of a node.

    Attributes:
        length: bytes of content; for a file of one raw block it is what the folder claims.
    """

    cid: Cid
    offset: int
    length: int


@dataclass(slots=True)
class File:
    """A file of the content. `leaves` are in order once the walk is over; without `exact` the size is a mere claim."""

    path: Path
    cid: Cid
    size: int
    executable: bool = False
    exact: bool = True
    leaves: list[Leaf] = field(default_factory=list)

    @property
    def raw(self) -> bool:
        """Whether its leaves are plain bytes, so that they can lie in a file at their offsets."""
        return all(leaf.cid.is_raw for leaf in self.leaves)


@dataclass
class Content:
    """All that a root leads to.

    Attributes:
        is_folder: whether the root is a folder; otherwise `files` has one item with an empty path.
        folders: those below the root; none where only a part of the content was asked for.
        skipped: files that were not asked for.
        nodes: every block that is not a raw leaf.
    """

    root: Cid
    is_folder: bool = False
    folders: list[Path] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    links: list[tuple[Path, bytes]] = field(default_factory=list)
    nodes: list[Cid] = field(default_factory=list)
    skipped: int = 0

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def blocks(self) -> Iterator[Cid]:
        """Every block, nodes first; one that occurs twice is named twice."""
        yield from self.nodes
        for file in self.files:
            for leaf in file.leaves:
                if leaf.cid.is_raw:
                    yield leaf.cid


def text(path: Path) -> str:
    """A path for the file system and for messages."""
    return "/".join(name.decode("utf-8", "surrogateescape") for name in path)


def shown(path: Path) -> str:
    """A path for messages and JSON, printable whatever its bytes are."""
    return "/".join(name.decode("utf-8", "backslashreplace") for name in path)


@dataclass(slots=True)
class _Task:
    """A block still to be looked at: an entry of a folder, a shard of one, or a part of a file."""

    cid: Cid
    path: Path
    file: File | None = None
    offset: int = 0
    claimed: int | None = None
    depth: int = 0
    names: set[bytes] | None = None
    fanout: int = 0


class Walk:
    """One walk over content.

    Args:
        load: gives blocks, checked against their CIDs.
        only: patterns; files that match none of them are left out.
        limit: most bytes of files, and in whose words: (bytes, reason).
    """

    def __init__(self, load: LoadMany, only: Sequence[str] = (), limit: tuple[int, str] | None = None) -> None:
        self._load, self._only, self._limit = load, tuple(only), limit
        self._claimed = 0
        self._entries = 0
        self._leaves = 0

    def run(self, root: Cid) -> Content:
        """Lists the content of a root.

        Raises:
            TransferError: content that contradicts itself or could do harm. InputError: more than the limit.
        """
        content = Content(root)
        tasks = [_Task(root, ())]
        if root.is_raw:
            content.files.append(self._raw_file(_Task(root, ()), None))
            tasks = []
        seen: set[Cid] = set()
        while tasks:
            # a block that stands in several places is loaded once and looked at in each of them
            waiting: dict[Cid, list[_Task]] = {}
            for task in tasks:
                waiting.setdefault(task.cid, []).append(task)
            tasks = []
            for cid, block in self._load(list(waiting)):
                if cid not in seen:
                    seen.add(cid)
                    content.nodes.append(cid)
                node = decode(block)
                info = read_info(node)
                for task in waiting.pop(cid, ()):
                    tasks.extend(self._look(content, task, node, info))
            if waiting:
                raise TransferError(f"the block {next(iter(waiting))} could not be had", "try again with a network")
        self._finish(content)
        return content

    def _look(self, content: Content, task: _Task, node: Node, info: Info) -> Iterable[_Task]:
        if task.file is not None:
            return self._part(task, node, info)
        if task.names is not None:
            if info.kind != unixfs.T_HAMT or info.fanout != task.fanout:
                raise damaged(f"a shard of the folder {shown(task.path)!r} is none")
            return self._shard(content, task, node, info)
        if info.kind == unixfs.T_SYMLINK:
            if self._wanted(task.path):
                content.links.append((task.path, info.data))
            return ()
        if info.kind in (unixfs.T_DIRECTORY, unixfs.T_HAMT):
            if not task.path:
                content.is_folder = True
            elif not self._only:
                content.folders.append(task.path)
            if len(task.path) >= DEEPEST:
                raise damaged(f"folders are nested more than {DEEPEST} deep")
            task.names = set()
            if info.kind == unixfs.T_HAMT:
                task.fanout = info.fanout
                return self._shard(content, task, node, info)
            return self._listed(content, task, ((link.name, link) for link in node.links))
        if info.kind not in (unixfs.T_FILE, unixfs.T_RAW):
            raise damaged(f"{shown(task.path) or 'the root'} is neither file, folder nor link")
        if not self._wanted(task.path):
            content.skipped += 1
            return ()
        file = File(task.path, task.cid, len(info.data) + sum(info.sizes), bool((info.mode or 0) & 0o111))
        self._count(file.size)
        content.files.append(file)
        return self._part(_Task(task.cid, task.path, file, 0, file.size), node, info)

    def _shard(self, content: Content, task: _Task, node: Node, info: Info) -> list[_Task]:
        width = shard_prefix(info)
        if len(node.links) != int.from_bytes(info.data, "big").bit_count():
            raise damaged(f"a shard of the folder {shown(task.path)!r} has other links than its bit field says")
        if task.depth * (info.fanout.bit_length() - 1) >= 64:
            raise damaged(f"the shards of the folder {shown(task.path)!r} are deeper than their hash")
        below = [
            _Task(link.cid, task.path, names=task.names, fanout=info.fanout, depth=task.depth + 1)
            for link in node.links
            if len(link.name) == width
        ]
        self._more_entries(len(below))
        entries = ((link.name[width:], link) for link in node.links if len(link.name) != width)
        return below + list(self._listed(content, task, entries))

    def _listed(self, content: Content, task: _Task, entries: Iterable[tuple[bytes, Link]]) -> Iterator[_Task]:
        names = task.names if task.names is not None else set()
        for name, link in entries:
            self._more_entries(1)
            _check_name(name, task.path)
            if name in names:
                raise damaged(f"the folder {shown(task.path)!r} has two entries {shown((name,))!r}")
            names.add(name)
            path = (*task.path, name)
            below = _Task(link.cid, path)
            if not link.cid.is_raw:
                yield below
            elif self._wanted(path):
                content.files.append(self._raw_file(below, link.size))
            else:
                content.skipped += 1

    def _more_entries(self, count: int) -> None:
        self._entries += count
        if self._entries > _MOST_ENTRIES:
            raise damaged(f"it claims more than {_MOST_ENTRIES:,} entries")

    def _raw_file(self, task: _Task, claimed: int | None) -> File:
        size = claimed or 0
        self._count(size)
        self._more_leaves(1)
        return File(task.path, task.cid, size, exact=False, leaves=[Leaf(task.cid, 0, size)])

    def _part(self, task: _Task, node: Node, info: Info) -> list[_Task]:
        file = task.file
        assert file is not None
        size = len(info.data) + sum(info.sizes)
        if info.kind not in (unixfs.T_FILE, unixfs.T_RAW):
            raise damaged(f"a part of the file {shown(task.path)!r} is no part of a file")
        if size != task.claimed:
            raise damaged(f"a part of the file {shown(task.path)!r} claims {task.claimed} bytes and has {size}")
        if task.depth > _DEEPEST_FILE:
            raise damaged(f"the parts of the file {shown(task.path)!r} are nested more than {_DEEPEST_FILE} deep")
        offset = task.offset
        if info.data or not node.links:
            self._more_leaves(1)
            file.leaves.append(Leaf(task.cid, offset, len(info.data)))
            offset += len(info.data)
        below: list[_Task] = []
        for link, length in zip(node.links, info.sizes, strict=True):
            if length == 0:
                raise damaged(f"a part of the file {shown(task.path)!r} is empty")
            if link.cid.is_raw:
                self._more_leaves(1)
                file.leaves.append(Leaf(link.cid, offset, length))
            else:
                below.append(_Task(link.cid, task.path, file, offset, length, task.depth + 1))
            offset += length
        self._more_leaves(len(below))
        return below

    def _more_leaves(self, count: int) -> None:
        self._leaves += count
        if self._leaves > _MOST_LEAVES:
            raise damaged(f"it claims more than {_MOST_LEAVES:,} blocks")

    def _count(self, size: int) -> None:
        self._claimed += size
        if self._limit is not None and self._claimed > self._limit[0]:
            raise IncompatibleError(
                f"the content is larger than {self._limit[1]} ({self._limit[0]:,} bytes)",
                "take a part of it with --only, raise --max-size, or free space",
                {"limit_bytes": self._limit[0]},
            )

    def _wanted(self, path: Path) -> bool:
        return not self._only or matches(path, self._only)

    def _finish(self, content: Content) -> None:
        for file in content.files:
            file.leaves.sort(key=lambda leaf: (leaf.offset, leaf.length))
        content.files.sort(key=lambda file: file.path)
        content.folders.sort()
        content.links.sort()
        _check_links(content)
        if self._only and not content.files:
            raise InputError(
                f"nothing in {content.root} matches --only {','.join(self._only)}",
                f"it has {content.skipped} files; use a pattern such as '*.json'",
            )


def matches(path: Path, patterns: Sequence[str]) -> bool:
    """Whether a path matches one of the patterns; one without a slash is tried on the file's name alone, too."""
    whole = text(path)
    name = whole.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(whole, p) or ("/" not in p and fnmatch.fnmatchcase(name, p)) for p in patterns)


def _check_name(name: bytes, folder: Path) -> None:
    where = f" in the folder {shown(folder)!r}" if folder else ""
    quoted = repr(shown((name,))[:80])
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise damaged(f"an entry is called {quoted}{where}, which would lead out of its folder")
    if len(name) > _LONGEST_NAME:
        raise damaged(f"an entry has a name of {len(name)} bytes{where}: {quoted}")


def _check_links(content: Content) -> None:
    """Refuses symbolic links that leave the content, directly or through one another."""
    links = dict(content.links)
    if () in links:
        raise damaged("the root is a symbolic link, which leads out of the content")
    for path in leading_out(links):
        target = shown((links[path],))
        raise damaged(f"the link {shown(path)!r} leads out of the content, or in a circle, to {target!r}")


def leading_out(links: dict[Path, bytes]) -> list[Path]:
    """Those of the links of a tree, targets by path, that leave it or go in circles."""
    return [path for path in links if not _stays_inside(path, links)]


def _stays_inside(path: Path, links: dict[Path, bytes]) -> bool:
    at: list[bytes] = []
    todo = list(path)
    budget = 40
    while todo:
        name = todo.pop(0)
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not at:
                return False
            at.pop()
            continue
        at.append(name)
        target = links.get(tuple(at))
        if target is None:
            continue
        budget -= 1
        if budget < 0 or target.startswith(b"/") or not target or b"\0" in target:
            return False
        at.pop()
        todo = target.split(b"/") + todo
    return True


def resolve(root: Cid, names: Sequence[str], load: LoadMany) -> Cid:
    """The CID of what lies at a path below a root.

    Raises:
        InputError: there is nothing at the path.
    """
    from accel.core.content.folders import children

    def one(cid: Cid) -> bytes:
        return next(iter(load([cid])))[1]

    at = root
    for depth, name in enumerate(names):
        wanted = name.encode("utf-8", "surrogateescape")
        here = "/".join(names[:depth]) or str(root)
        if at.is_raw:
            raise InputError(f"{here} is a file, so there is no {name!r} in it", f"fetch {root} to see what it has")
        node = decode(one(at))
        info = read_info(node)
        if info.kind not in (unixfs.T_DIRECTORY, unixfs.T_HAMT):
            raise InputError(f"{here} is a file, so there is no {name!r} in it", f"fetch {root} to see what it has")
        found = next((link for link in children(node, info, one) if link.name == wanted), None)
        if found is None:
            raise InputError(f"there is no {name!r} in {here}", f"fetch {root} to see what it has")
        at = found.cid
    return at
