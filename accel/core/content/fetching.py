"""Gets blocks from the nearest level that has them: the local store, the Kubo node, other stores, the network.

Blocks are kept as they come, so that a fetch that is stopped, by whatever, goes on where it was.
`accel.core.content.bringing` makes whole files of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from accel.core.content.blockstore import Store, missing
from accel.core.content.cid import Cid
from accel.core.content.dagpb import decode
from accel.core.content.downloads import Download
from accel.core.content.leases import Lease
from accel.core.content.levels import Levels
from accel.core.content.providers import Scores
from accel.core.content.rebuild import adopt
from accel.core.content.settings import Settings
from accel.core.content.sources import LEVELS, Data, Source, SourceError
from accel.core.content.unixfs import T_DIRECTORY, T_HAMT, read_info
from accel.core.content.walk import Content, Walk
from accel.core.content.wants import Dropped, Served, Sink, Want
from accel.core.content.writing import Writer
from accel.core.errors import AccelError, TransferError

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
        self.store, self.lease, self.writer = store, lease, writer
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
        return self.writer.read(cid) or self.store.get(cid)

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
            self.writer.put(cid, block)
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
                self.writer.commit()
            raise

    def _repairing(self, want: Want) -> Sink:
        sink = want.sink

        def repair(block: Data) -> None:
            self.writer.put(want.cid, block)
            sink(block)

        return repair

    def _keep_now_and_then(self) -> None:
        if time.monotonic() - self._kept_at > _KEEP_EVERY_S:
            self.writer.commit()
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
        self.writer.commit()
        self.store.index.touch([cid.digest for cid in content.nodes], self.lease.tick)
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
                            self.writer.put(cid, data)
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

    def tell(self, count: float) -> None:
        """Reports bytes that are had."""
        if self._advance is not None:
            self._advance(float(count))
