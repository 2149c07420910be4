"""Hashes everything that the store holds, names what is damaged, and repairs it where there is another copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid, parse
from accel.core.content.collect import reachable
from accel.core.content.hashing import hash_spans
from accel.core.content.index import IndexDamaged, Place
from accel.core.content.job import Advance, Begin, Job
from accel.core.content.pins import Pin, Pins
from accel.core.content.settings import Settings
from accel.core.content.wants import Want
from accel.core.errors import AccelError


@dataclass
class Fault:
    """Something wrong.

    Attributes:
        kind: `damaged` (the bytes do not match), `missing` (no copy at all), `record` (a pin's file cannot be read).
        where: files and offsets; empty for missing blocks.
        pins: names or CIDs of the pins that need it; empty where none does.
    """

    kind: str
    cid: str
    where: str
    pins: list[str]
    repaired: bool = False
    by: str = ""


@dataclass
class Verified:
    """What was checked, and what was found."""

    blocks: int = 0
    bytes: int = 0
    pins: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is left that a pin lacks."""
        return all(fault.repaired or not fault.pins for fault in self.faults)


def verify(
    settings: Settings,
    *,
    what: str | None = None,
    repair: bool = False,
    begin: Begin | None = None,
    advance: Advance | None = None,
) -> Verified:
    """Reads and hashes every block, and sees that every pin is whole.

    Args:
        what: only the blocks of this pin (a name or a CID).
        repair: get damaged and missing blocks from another copy or from farther away.

    Raises:
        InputError: nothing is pinned as `what`. TransferError: the store cannot be read or written.
    """
    result = Verified()
    _mend_index(result)
    with Job(settings) as job:
        pins = Pins(job.store.root / "pins")
        chosen = [pins.find(what)] if what is not None else pins.all()
        result.pins = len(chosen)
        _records(chosen, result)
        _Check(job, chosen, result, advance, only=what is not None).run(repair, begin)
        result.notes += job.store.notes
    return result


def _mend_index(result: Verified) -> None:
    with Store() as store:
        from accel.core.content.rebuild import incomplete, rebuild

        try:
            store.index.check()
        except IndexDamaged:
            result.notes += rebuild(store.root)
        else:
            problems: list[str] = []
            needed = reachable(store, [parse(pin.cid) for pin in Pins(store.root / "pins").all()], problems)
            if (problems or len(store.index.known(list(needed))) < len(needed)) and incomplete(store):
                result.notes += rebuild(store.root, sound=True)


def _records(pins: list[Pin], result: Verified) -> None:
    for pin in pins:
        if pin.damaged:
            result.faults.append(Fault("record", pin.cid, f"pins/{pin.cid}.json", [pin.cid]))


class _Check:
    def __init__(self, job: Job, pins: list[Pin], result: Verified, advance: Advance | None, *, only: bool) -> None:
        self._job, self._store, self._pins, self._result = job, job.store, pins, result
        self._advance, self._only = advance, only
        self._bad: dict[bytes, list[Place]] = {}
        self._good: set[bytes] = set()
        self._codecs: dict[bytes, int] = {}
        #: whether every node of the pins could be read, so that what is not known to be needed is not needed
        self._all_known = True

    def run(self, repair: bool, begin: Begin | None) -> None:
        """See `verify`."""
        wanted = reachable(self._store, [parse(pin.cid) for pin in self._pins]) if self._only else None
        rows = self._rows(wanted)
        if begin is not None:
            begin(sum(place.length for places in rows.values() for _, place in places))
        for path, places in rows.items():
            self._container(path, places)
        self._faults()
        if repair:
            self._repair()

    def _rows(self, wanted: set[bytes] | None) -> dict[str, list[tuple[bytes, Place]]]:
        found: dict[str, list[tuple[bytes, Place]]] = {}
        for digest, *rest in self._store.index.read(
            "SELECT b.digest, c.id, c.kind, c.path, b.place, b.length, b.codec FROM blocks b "
            "JOIN containers c ON c.id = b.container ORDER BY c.id, b.place"
        ):
            assert isinstance(digest, bytes)
            place = Place(*rest)  # type: ignore[arg-type]
            self._codecs[digest] = place.codec
            if wanted is None or digest in wanted:
                found.setdefault(place.path, []).append((digest, place))
        return found

    def _container(self, path: str, places: list[tuple[bytes, Place]]) -> None:
        digests = [b""] * len(places)
        try:
            with (self._store.root / path).open("rb") as opened:
                spans = [(place.offset, place.length) for _, place in places]
                digests = hash_spans(opened.fileno(), spans, None, self._advance, short=True)
        except OSError as error:
            self._result.notes.append(f"{self._store.root / path} cannot be read: {error.strerror or error}")
        for (digest, place), found in zip(places, digests, strict=True):
            self._result.blocks += 1
            self._result.bytes += place.length
            if found == digest:
                self._good.add(digest)
            else:
                self._bad.setdefault(digest, []).append(place)

    def _needed_by(self) -> dict[bytes, list[str]]:
        """Which pins need which block, as far as the good nodes tell."""
        needed: dict[bytes, list[str]] = {}
        problems: list[str] = []
        for pin in self._pins:
            for digest in reachable(self._store, [parse(pin.cid)], problems):
                needed.setdefault(digest, []).append(pin.name or pin.cid)
        self._all_known = not problems
        return needed

    def _faults(self) -> None:
        needed = self._needed_by()
        for digest, places in self._bad.items():
            places = [place for place in places if not self._weak(digest, place, needed)]
            if places:
                where = "; ".join(self._store.where(place) for place in places)
                cid = Cid(self._codecs[digest], digest)
                self._result.faults.append(Fault("damaged", str(cid), where, needed.get(digest, [])))
        for digest, pins in needed.items():
            if digest not in self._good and digest not in self._bad:
                self._result.faults.append(Fault("missing", str(self._name(digest)), "", pins))

    def _weak(self, digest: bytes, place: Place, needed: dict[bytes, list[str]]) -> bool:
        """A file of the user that was only remembered as a place, and has changed since: no fault of the store."""
        if place.kind != "reference" or (digest in needed and digest not in self._good):
            return False
        if digest not in needed and not self._all_known:
            # a pin may need it below a node that is damaged itself
            return False
        self._store.index.forget([(digest, place.container)])
        return True

    def _name(self, digest: bytes) -> Cid:
        if digest in self._codecs:
            return Cid(self._codecs[digest], digest)
        roots = {parse(pin.cid).digest: parse(pin.cid) for pin in self._pins}
        if digest in roots:
            return roots[digest]
        for cid in self._links():
            if cid.digest == digest:
                return cid
        return Cid(0x55, digest)

    def _links(self) -> Iterator[Cid]:
        from accel.core.content.dagpb import decode

        for digest, codec in list(self._codecs.items()):
            if codec == 0x70 and digest in self._good:
                block = self._store.get(Cid(codec, digest))
                if block is not None:
                    for link in decode(block).links:
                        yield link.cid

    def _repair(self) -> None:
        while True:
            # nodes that are whole again show what more their pins need
            self._again()
            left = [f for f in self._result.faults if not f.repaired and f.pins and f.kind != "record"]
            for fault in left:
                digest = parse(fault.cid).digest
                if digest in self._good:
                    self._drop_bad(digest)
                    fault.repaired, fault.by = True, "another copy in the store"
                else:
                    self._get(fault)
            self._job.writer.commit()
            if not any(fault.repaired for fault in left):
                break
        for fault in self._result.faults:
            if not fault.repaired and not fault.pins:
                self._drop_bad(parse(fault.cid).digest)
                fault.repaired, fault.by = True, "left out: nothing pins it"

    def _again(self) -> None:
        needed = self._needed_by()
        known = {parse(fault.cid).digest: fault for fault in self._result.faults}
        for digest, pins in needed.items():
            if digest in known:
                known[digest].pins = pins
            elif digest not in self._good:
                self._result.faults.append(Fault("missing", str(self._name(digest)), "", pins))

    def _get(self, fault: Fault) -> None:
        cid = parse(fault.cid)
        fetcher, writer = self._job.fetcher, self._job.writer
        try:
            fetcher.supply([Want(cid, lambda block: writer.put(cid, block))])
        except AccelError as error:
            if error.message not in self._result.notes:
                self._result.notes.append(error.message)
            return
        self._good.add(cid.digest)
        self._drop_bad(cid.digest)
        fault.repaired = True
        fault.by = max(fetcher.served.values(), key=lambda s: s.blocks).name if fetcher.served else ""

    def _drop_bad(self, digest: bytes) -> None:
        self._store.index.forget((digest, place.container) for place in self._bad.pop(digest, []))
        self._store.damaged.pop(digest, None)
