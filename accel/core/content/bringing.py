"""Makes whole files of the blocks that a fetcher gets: what is here already is used, the rest is asked for at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accel.core.content import trees
from accel.core.content.cid import Cid
from accel.core.content.dagpb import damaged
from accel.core.content.disk import FileWriter
from accel.core.content.hashing import hash_spans
from accel.core.content.index import Row
from accel.core.content.sources import Data
from accel.core.content.walk import Content, File, Leaf
from accel.core.content.wants import Sink, Want

if TYPE_CHECKING:
    from accel.core.content.fetching import Fetcher


def bring(fetcher: Fetcher, content: Content, stage: Path | None = None) -> list[File]:
    """Brings every block of the content here.

    Args:
        stage: folder to write large files into at once; they go into the store by default.

    Returns:
        The files that are complete below `stage`.

    Raises:
        TransferError: some blocks cannot be had. What was had is kept for the next attempt.
    """
    return _Bringing(fetcher).run(content, stage)


class _Bringing:
    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._store, self._writer, self._lease = fetcher.store, fetcher.writer, fetcher.lease

    def run(self, content: Content, stage: Path | None) -> list[File]:
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
                self._fetcher.supply(wants)
            for file, part in parts:
                if stage is None:
                    rows = [Row(leaf.cid, leaf.offset, leaf.length) for leaf in file.leaves]
                    self._writer.add_file(part, file.cid, rows)
                    self._fetcher.fresh.add(file.cid.digest)
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
        for digest, length in self._store.index.lengths(list(claims)):
            if length != claims[digest]:
                raise damaged(f"a part of a file claims {claims[digest]:,} bytes and has {length:,}")

    def _small(self, content: Content, wants: list[Want]) -> None:
        """Asks for files of one block, and learns their true sizes."""
        by_cid: dict[Cid, list[File]] = {}
        for file in content.files:
            if not file.exact:
                by_cid.setdefault(file.cid, []).append(file)
        for cid, files in by_cid.items():
            places = self._store.index.places(cid.digest)
            if places:
                _learn(files, places[0].length)
                continue
            block = self._writer.read(cid)
            if block is not None:
                _learn(files, len(block))
                continue
            wants.append(Want(cid, self._small_sink(cid, files)))
        self._store.index.touch([cid.digest for cid in by_cid], self._lease.tick)

    def _small_sink(self, cid: Cid, files: list[File]) -> Sink:
        def sink(block: Data) -> None:
            self._writer.put(cid, block)
            _learn(files, len(block))
            self._fetcher.tell(len(block))

        return sink

    def _absent(self, content: Content) -> Iterator[File]:
        """Large files of which the store does not have every block, each once."""
        seen: set[Cid] = set()
        for file in content.files:
            if len(file.leaves) < 2 or not file.raw or file.cid in seen:
                continue
            seen.add(file.cid)
            digests = {leaf.cid.digest for leaf in file.leaves}
            if self._store.index.touch(digests, self._lease.tick) != digests:
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
            self._fetcher.tell(have)
        os.ftruncate(part.handle, file.size)
        known = self._store.index.touch({leaf.cid.digest for leaf in left}, self._lease.tick)
        by_cid: dict[Cid, list[Leaf]] = {}
        for leaf in left:
            block = self._store.get(leaf.cid) if leaf.cid.digest in known else None
            if block is not None and len(block) == leaf.length:
                part.write(block, leaf.offset)
                self._fetcher.tell(leaf.length)
            else:
                by_cid.setdefault(leaf.cid, []).append(leaf)
        return [Want(cid, self._leaf_sink(part, leaves), leaves[0].length) for cid, leaves in by_cid.items()]

    def _leaf_sink(self, part: FileWriter, leaves: Sequence[Leaf]) -> Sink:
        def sink(block: Data) -> None:
            for leaf in leaves:
                part.write(block, leaf.offset)
                self._fetcher.tell(leaf.length)

        return sink


def _learn(files: Sequence[File], size: int) -> None:
    for file in files:
        file.size, file.exact = size, True
        file.leaves = [Leaf(file.cid, 0, size)]
