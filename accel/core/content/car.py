"""CAR v1: blocks one after the other in a file or a stream.

Format: https://ipld.io/specs/transport/car/carv1/. Every block that is read is hashed against its CID; what the header
claims as roots is reported and never trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from accel.core.content.cid import Cid, read, varint
from accel.core.errors import AccelError, IncompatibleError, TransferError

#: a block above this is refused: IPFS nodes exchange at most 2 MiB
LARGEST_BLOCK = 4 << 20
_LARGEST_HEADER = 1 << 20


class Stream(Protocol):
    """Something to read bytes from."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


def header(roots: Sequence[Cid]) -> bytes:
    """The header of a CAR file with its length: DAG-CBOR of `{"roots": [...], "version": 1}`."""
    links = b"".join(b"\xd8\x2a" + _cbor_head(2, len(r.link_bytes) + 1) + b"\x00" + r.link_bytes for r in roots)
    body = b"\xa2\x65roots" + _cbor_head(4, len(roots)) + links + b"\x67version\x01"
    return varint(len(body)) + body


def section_head(cid: Cid, length: int) -> bytes:
    """What stands before the bytes of a block."""
    name = cid.link_bytes
    return varint(len(name) + length) + name


def write(blocks: Iterable[tuple[Cid, bytes]], roots: Sequence[Cid], put: Callable[[bytes], object]) -> int:
    """Writes a whole CAR and returns its bytes. The blocks must already be checked."""
    head = header(roots)
    put(head)
    total = len(head)
    for cid, data in blocks:
        head = section_head(cid, len(data))
        put(head)
        put(data)
        total += len(head) + len(data)
    return total


def _cbor_head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes((major << 5 | value,))
    size, code = (1, 24) if value < 1 << 8 else (2, 25) if value < 1 << 16 else (4, 26)
    return bytes((major << 5 | code,)) + value.to_bytes(size, "big")


class _Cbor:
    """Reads the little DAG-CBOR that a CAR header is made of."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def head(self) -> tuple[int, int]:
        """Kind and value of the next item."""
        first = self.take(1)[0]
        major, low = first >> 5, first & 31
        if low < 24:
            return major, low
        if low > 27:
            raise ValueError("an item of unbounded length")
        return major, int.from_bytes(self.take(1 << (low - 24)), "big")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if self.at + count > len(self.data):
            raise ValueError("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def item(self, depth: int = 0) -> object:
        """The next item: int, bytes, str, list, dict or Cid."""
        major, value = self.head()
        if depth > 4:
            raise ValueError("it is nested too deeply")
        if major == 0:
            return value
        if major in (2, 3):
            body = self.take(value)
            return body if major == 2 else body.decode("utf-8")
        if major == 4 and value <= len(self.data):
            return [self.item(depth + 1) for _ in range(value)]
        if major == 5 and value <= len(self.data):
            return {self.item(depth + 1): self.item(depth + 1) for _ in range(value)}
        if major == 6 and value == 42:
            link = self.item(depth + 1)
            if not isinstance(link, bytes) or not link.startswith(b"\x00"):
                raise ValueError("a link that is no CID")
            cid, end = read(link, 1)
            if end != len(link):
                raise ValueError("a link with bytes too many")
            return cid
        raise ValueError(f"an item of kind {major}")


class Reader:
    """Reads a CAR from a stream, block by block.

    Args:
        source: named in errors.

    Raises:
        TransferError: from the constructor and from iterating: damaged, cut short, or a block that does not match.
        IncompatibleError: a block whose codec or hash function is not supported.
    """

    def __init__(self, stream: Stream, source: str) -> None:
        self._stream, self._source = stream, source
        self._at = 0
        length = self._length("header")
        if length is None:
            raise self._bad("it is empty")
        if not 0 < length <= _LARGEST_HEADER:
            raise self._bad(f"its header claims {length} bytes, so it is no CAR file")
        body = self._exactly(length, "its header")
        try:
            parsed = _Cbor(body).item()
            if not isinstance(parsed, dict):
                raise ValueError("it is no map")
            if parsed.get("version") != 1:
                raise ValueError(f"version {parsed.get('version')!r}, and only CAR v1 is read")
            roots = parsed.get("roots")
            if not isinstance(roots, list) or not all(isinstance(root, Cid) for root in roots):
                raise ValueError("no list of roots")
        except (ValueError, TypeError) as error:
            raise self._bad(f"its header is not that of a CAR v1 file: {error}") from error
        #: the roots that it claims
        self.roots: tuple[Cid, ...] = tuple(roots)
        #: offset in the stream of the bytes of the block read last
        self.offset = self._at
        #: what was wrong with the last block that was not good
        self.trouble: AccelError = self._bad("nothing")

    def _bad(self, what: str) -> TransferError:
        return TransferError(
            f"{self._source}: {what}",
            "get it again, or from another place",
            {"source": self._source, "offset": self._at},
        )

    def _exactly(self, count: int, what: str) -> bytes:
        parts: list[bytes] = []
        missing = count
        while missing:
            part = self._stream.read(missing)
            if not part:
                raise self._bad(f"it is cut short in {what}, at byte {self._at}")
            parts.append(part)
            missing -= len(part)
            self._at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _length(self, what: str) -> int | None:
        value = shift = 0
        while True:
            byte = self._stream.read(1)
            if not byte:
                if shift:
                    raise self._bad(f"it is cut short in the length of a {what}, at byte {self._at}")
                return None
            self._at += 1
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
            shift += 7
            if shift > 35:
                raise self._bad(f"a {what} has no sensible length, at byte {self._at}")

    def unchecked(self) -> Iterator[tuple[Cid | None, bytes, bool]]:
        """Every block with its CID and whether the bytes match it; for damaged files.

        A name that cannot be read, or is of a kind that is not supported, gives None with the whole section, and why it
        is so in `trouble`.
        """
        while (length := self._length("block")) is not None:
            if not 34 <= length <= LARGEST_BLOCK + 64:
                raise self._bad(f"a block claims {length} bytes, at byte {self._at}")
            self.offset = start = self._at
            section = self._exactly(length, "a block")
            try:
                cid, behind = read(section)
            except ValueError as error:
                self.trouble = self._bad(f"a block has a damaged name ({error}), at byte {start}")
                yield None, section, False
                continue
            except IncompatibleError as error:
                self.trouble = error
                yield None, section, False
                continue
            data = section[behind:]
            self.offset = start + behind
            good = cid.matches(data)
            if not good:
                self.trouble = self._bad(f"the block {cid} does not match its name, at byte {self.offset}")
            yield cid, data, good

    def __iter__(self) -> Iterator[tuple[Cid, bytes]]:
        for cid, data, good in self.unchecked():
            if cid is None or not good:
                raise self.trouble
            yield cid, data
