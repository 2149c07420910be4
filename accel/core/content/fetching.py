"""Brings content from the nearest level that has it: the local store, the Kubo node, other stores, the network.

Blocks are kept as they come, so that a fetch that is stopped, by whatever, goes on where it was.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from accel.core.content import trees
from accel.core.content.blockstore import Store, missing
from accel.core.content.cid import Cid
from accel.core.content.dagpb import damaged, decode
from accel.core.content.disk import FileWriter
from accel.core.content.downloads import Download
from accel.core.content.hashing import hash_spans
from accel.core.content.index import Row
from accel.core.content.leases import Lease
from accel.core.content.levels import Levels
from accel.core.content.providers import Scores
from accel.core.content.rebuild import adopt
from accel.core.content.settings import Settings
from accel.core.content.sources import LEVELS, Data, Source, SourceError
from accel.core.content.unixfs import T_DIRECTORY, T_HAMT, read_info
from accel.core.content.walk import Content, File, Leaf, Walk
from accel.core.content.wants import Dropped, Served, Sink, Want
from accel.core.content.writing import Writer
from accel.core.errors import AccelError, IncompatibleError, TransferError

Advance = Callable[[float], None]
#: nodes are asked for in groups, so that memory stays bounded whatever the content is
_GROUP = 64
#: what was received is made durable this often
_KEEP_EVERY_S = 2.0
#: content up to this size with at least so many entries comes as one stream
_STREAM_BYTES = 64 << 20
_STREAM_ENTRIES = 16
#: a petabyte: content that claims more is an attack
_ABSURD = 1 << 50


class Fetcher:
    """One fetch into a store.

    Args:
        advance: told of bytes that are had.
    """

    def __init__(
        self, store: Store, lease: Lease, writer: Writer, settings: Settings, advance: Advance | None = None
    ) -> None:
        self.store, self._lease, self._writer = store, lease, writer
        self.settings = settings
        self._scores = Scores(store.root / "providers.json")
        self.levels = Levels(settings, self._scores)
        self._advance = advance
        self.served: dict[str, Served] = {}
        self.dropped: list[Dropped] = []
        self._said: dict[str, str] = {}
        #: digests of the roots of files that were written into the store by this fetch
        self.fresh: set[bytes] = set()
        self._kept_at = time.monotonic()
        self._root: Cid | None = None

    def close(self) -> None:
        """Remembers how the sources did and closes them."""
        self._scores.save()
        self.levels.close()

    @property
    def level(self) -> str:
        """The farthest level that served anything."""
        return max((s.level for s in self.served.values()), key=LEVELS.index, default="local")

    def local(self, cid: Cid) -> bytes | None:
        """A block that is here already."""
        return self._writer.read(cid) or self.store.get(cid)

    def load(self, cids: Sequence[Cid]) -> Iterator[tuple[Cid, bytes]]:
        """Blocks, from here or from farther away; for `Walk`."""
        for start in range(0, len(cids), _GROUP):
            group: dict[Cid, bytes] = {}
            wants: list[Want] = []
            for cid in cids[start : start + _GROUP]:
                block = self.local(cid)
                if block is None:
                    wants.append(Want(cid, self._keeper(cid, group)))
                else:
                    group[cid] = block
            if wants:
                self.supply(wants)
            yield from group.items()

    def _keeper(self, cid: Cid, group: dict[Cid, bytes]) -> Sink:
        def keep(block: Data) -> None:
            self._writer.put(cid, block)
            group[cid] = bytes(block)

        return keep

    def supply(self, wants: Sequence[Want]) -> None:
        """Gets blocks from farther away, and replaces damaged ones here.

        Raises:
            TransferError: some cannot be had, with what each source said.
        """
        left = list(wants)
        for want in left:
            if want.cid.digest in self.store.damaged:
                want.sink = self._repairing(want)
        root = self._root or left[0].cid
        settings = self.settings
        try:
            for sources in self.levels.each(root):
                if not left:
                    break
                download = Download(
                    sources,
                    self._scores,
                    settings.timeout_s,
                    settings.parallel,
                    self.served,
                    self.dropped,
                    self._said,
                )
                left = download.run(left, self._keep_now_and_then)
                for want in left:
                    want.tried.clear()
            if left:
                raise self._none_has(left)
        except BaseException:
            # whatever ends the fetch, what was had is kept for the next one
            with contextlib.suppress(AccelError):
                self._writer.commit()
            raise

    def _repairing(self, want: Want) -> Sink:
        sink = want.sink

        def repair(block: Data) -> None:
            self._writer.put(want.cid, block)
            sink(block)

        return repair

    def _keep_now_and_then(self) -> None:
        if time.monotonic() - self._kept_at > _KEEP_EVERY_S:
            self._writer.commit()
            self._kept_at = time.monotonic()

    def _none_has(self, left: Sequence[Want]) -> Exception:
        cid = left[0].cid
        if self.settings.offline:
            return missing(self.store, cid)
        reasons = self._said | {d.name: d.reason for d in self.dropped}
        said = [f"{name}: {reason}" for name, reason in reasons.items()] + self.levels.notes
        asked = [s for s in (self.settings.node, *self.settings.gateways) if s]
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        return TransferError(
            f"no source has the block {cid}{more}; asked: {', '.join(asked) or 'nobody'}"
            + (f"; {'; '.join(said)}" if said else ""),
            "check the network, or name a gateway that has it: --set ipfs.gateway=https://...",
            {"cid": str(cid), "missing_blocks": len(left), "sources": said},
        )

    def look(self, root: Cid, only: Sequence[str] = (), max_size: int | None = None) -> Content:
        """Lists the content of a root, with its nodes brought here.

        Raises:
            TransferError: not to be had, damaged or harmful. IncompatibleError: too large for the limit.
        """
        self._root = root
        adopt(self.store)
        if not root.is_raw and self.local(root) is None:
            self._stream(root)
        limit = (_ABSURD, "any disk") if max_size is None else (max_size, "--max-size allows")
        content = Walk(self.load, only, limit).run(root)
        self._writer.commit()
        self.store.index.touch([cid.digest for cid in content.nodes], self._lease.tick)
        return content

    def _stream(self, root: Cid) -> None:
        """Brings small content with many parts as one stream; whatever does not come is asked for block by block."""
        block = dict(self.load([root]))[root]
        node = decode(block)
        links = node.links
        if (
            read_info(node).kind not in (T_DIRECTORY, T_HAMT)
            or len(links) < _STREAM_ENTRIES
            or sum(link.size for link in links) > _STREAM_BYTES
        ):
            return
        served_by = next(iter(self.served.values()), None)
        for sources in self.levels.each(root):
            for source in sources:
                if served_by is not None and source.name != served_by.name:
                    continue
                try:
                    stream = source.stream(root)
                    if stream is None:
                        return
                    expected = {link.cid for link in links} | {root}
                    with stream as blocks:
                        for cid, data in blocks:
                            if cid not in expected:
                                raise SourceError("broken", f"it sent the block {cid}, which is no part of {root}")
                            if not cid.is_raw:
                                expected.update(link.cid for link in decode(data).links)
                            self._writer.put(cid, data)
                            served = self.served.setdefault(source.name, Served(source.name, source.level))
                            served.blocks += 1
                            served.bytes += len(data)
                except (SourceError, AccelError) as error:
                    self._stream_failed(source, error)
                return

    def _stream_failed(self, source: Source, error: SourceError | AccelError) -> None:
        reason = error.message if isinstance(error, AccelError) else error.reason
        if isinstance(error, SourceError) and error.kind in ("missing", "unsupported", "busy"):
            return
        lied = "does not match" in reason
        # a source whose stream breaks off may still give single blocks; one that lies is not asked again
        self.dropped.append(Dropped(source.name if lied else f"the CAR stream of {source.name}", reason))
        self._scores.failed(source.name, lied=lied)

    def check_room(self, content: Content, folder: Path, *, copied: bool) -> None:
        """Refuses content that the disk of a folder has no room for, before anything is fetched.

        Args:
            copied: every file is going to be written there; otherwise those that the store has whole are not.

        Raises:
            IncompatibleError: there is no room.
        """
        needed = sum(file.size for file in content.files if copied or not self._whole(file))
        held = sum(
            path.stat().st_blocks * 512
            for file in content.files
            if (path := self.store.files / f"part-{file.cid}").exists()
        )
        free = _free_bytes(folder)
        if needed - held > free:
            raise IncompatibleError(
                f"it needs {needed - held:,} bytes and the free space of the disk is {free:,}",
                "free space (accel pin gc), take a part with --only, or name another disk with --output",
                {"needed_bytes": needed - held, "free_bytes": free},
            )

    def _whole(self, file: File) -> bool:
        index = self.store.index
        if len(file.leaves) == 1:
            return bool(index.known([file.cid.digest]))
        return any(index.container_of(file.cid.digest, kind) is not None for kind in ("file", "reference"))

    def bring(self, content: Content, stage: Path | None = None) -> list[File]:
        """Brings every block of the content here.

        Args:
            stage: folder to write large files into at once; they go into the store by default.

        Returns:
            The files that are complete below `stage`.

        Raises:
            TransferError: some blocks cannot be had. What was had is kept for the next attempt.
        """
        self._check_lengths(content)
        wants: list[Want] = []
        self._small(content, wants)
        parts: list[tuple[File, FileWriter]] = []
        try:
            for file in sorted(self._absent(content), key=lambda f: f.cid.digest):
                part = self._part(file, stage)
                if part is not None:
                    parts.append((file, part))
                    wants.extend(self._rest(file, part))
            if wants:
                self.supply(wants)
            for file, part in parts:
                if stage is None:
                    rows = [Row(leaf.cid, leaf.offset, leaf.length) for leaf in file.leaves]
                    self._writer.add_file(part, file.cid, rows)
                    self.fresh.add(file.cid.digest)
                else:
                    part.sync()
            self._writer.commit()
        finally:
            for _, part in parts:
                part.close()
        return [file for file, _ in parts] if stage is not None else []

    def _check_lengths(self, content: Content) -> None:
        """Refuses files whose parts have other lengths than they claim, as far as the parts are here."""
        claims = {
            leaf.cid.digest: leaf.length
            for file in content.files
            if file.exact
            for leaf in file.leaves
            if leaf.cid.is_raw
        }
        for digest, length in self.store.index.lengths(list(claims)):
            if length != claims[digest]:
                raise damaged(f"a part of a file claims {claims[digest]:,} bytes and has {length:,}")

    def _small(self, content: Content, wants: list[Want]) -> None:
        """Asks for files of one block, and learns their true sizes."""
        by_cid: dict[Cid, list[File]] = {}
        for file in content.files:
            if not file.exact:
                by_cid.setdefault(file.cid, []).append(file)
        for cid, files in by_cid.items():
            places = self.store.index.places(cid.digest)
            if places:
                _learn(files, places[0].length)
                continue
            block = self._writer.read(cid)
            if block is not None:
                _learn(files, len(block))
                continue
            wants.append(Want(cid, self._small_sink(cid, files)))
        self.store.index.touch([cid.digest for cid in by_cid], self._lease.tick)

    def _small_sink(self, cid: Cid, files: list[File]) -> Sink:
        def sink(block: Data) -> None:
            self._writer.put(cid, block)
            _learn(files, len(block))
            self._tell(len(block))

        return sink

    def _tell(self, count: float) -> None:
        if self._advance is not None:
            self._advance(float(count))

    def _absent(self, content: Content) -> Iterator[File]:
        """Large files of which the store does not have every block, each once."""
        seen: set[Cid] = set()
        for file in content.files:
            if len(file.leaves) < 2 or not file.raw or file.cid in seen:
                continue
            seen.add(file.cid)
            digests = {leaf.cid.digest for leaf in file.leaves}
            if self.store.index.touch(digests, self._lease.tick) != digests:
                yield file

    def _part(self, file: File, stage: Path | None) -> FileWriter | None:
        if stage is None:
            return self._writer.resumed_file(file.cid, file.size)
        target = trees.path_in(stage, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        return FileWriter(target, file.size)

    def _rest(self, file: File, part: FileWriter) -> list[Want]:
        """The leaves of a file that are neither in what an earlier attempt left nor in the store."""
        left = list(file.leaves)
        if os.fstat(part.handle).st_blocks:
            spans = [(leaf.offset, leaf.length) for leaf in left]
            digests = hash_spans(part.handle, spans, None, None, short=True)
            have = sum(leaf.length for leaf, d in zip(left, digests, strict=True) if d == leaf.cid.digest)
            left = [leaf for leaf, d in zip(left, digests, strict=True) if d != leaf.cid.digest]
            self._tell(have)
        os.ftruncate(part.handle, file.size)
        known = self.store.index.touch({leaf.cid.digest for leaf in left}, self._lease.tick)
        by_cid: dict[Cid, list[Leaf]] = {}
        for leaf in left:
            block = self.store.get(leaf.cid) if leaf.cid.digest in known else None
            if block is not None and len(block) == leaf.length:
                part.write(block, leaf.offset)
                self._tell(leaf.length)
            else:
                by_cid.setdefault(leaf.cid, []).append(leaf)
        return [Want(cid, self._leaf_sink(part, leaves), leaves[0].length) for cid, leaves in by_cid.items()]

    def _leaf_sink(self, part: FileWriter, leaves: Sequence[Leaf]) -> Sink:
        def sink(block: Data) -> None:
            for leaf in leaves:
                part.write(block, leaf.offset)
                self._tell(leaf.length)

        return sink


def _learn(files: Sequence[File], size: int) -> None:
    for file in files:
        file.size, file.exact = size, True
        file.leaves = [Leaf(file.cid, 0, size)]


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    info = os.statvfs(folder)
    return info.f_bavail * info.f_frsize


def check_limit(content: Content, max_size: int | None) -> None:
    """Refuses content whose true size is above the limit.

    Raises:
        IncompatibleError: it is.
    """
    if max_size is not None and content.size > max_size:
        raise IncompatibleError(
            f"the content has {content.size:,} bytes and --max-size allows {max_size:,}",
            "take a part of it with --only, or raise --max-size",
        )
