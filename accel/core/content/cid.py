"""Content identifiers: what a CID says, how it is written, and how a reference to content is read.

Supported are CIDv0 and CIDv1 with the codecs `raw` and `dag-pb` and the hash function sha2-256, which is what UnixFS
content on IPFS is made of. Format: https://github.com/multiformats/cid.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from accel.core.errors import IncompatibleError, InputError

RAW = 0x55
DAG_PB = 0x70
_SHA2_256 = 0x12
_CODEC_NAMES = {RAW: "raw", DAG_PB: "dag-pb", 0x71: "dag-cbor", 0x0129: "dag-json", 0x72: "libp2p-key", 0x78: "git-raw"}
_HASH_NAMES = {
    0x00: "identity",
    0x11: "sha1",
    0x13: "sha2-512",
    0x16: "sha3-256",
    0x1E: "blake3",
    0xB220: "blake2b-256",
}
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
#: text longer than this is no CID of ours in any base
_LONGEST = 256


def read_varint(data: bytes | memoryview, offset: int, end: int | None = None) -> tuple[int, int]:
    """An unsigned LEB128 number and the offset behind it.

    Raises:
        ValueError: it runs past the end or past 64 bits.
    """
    value = shift = 0
    end = len(data) if end is None else end
    while True:
        if offset >= end:
            raise ValueError("a number runs past the end")
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise ValueError("a number has more than 64 bits")
            return value, offset
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def varint(value: int) -> bytes:
    """The unsigned LEB128 form of a number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Cid:
    """The name of a block: its codec and the SHA-256 of its bytes.

    `version` only says how the name was written; two CIDs with the same digest name the same bytes.
    """

    codec: int
    digest: bytes
    version: int = 1

    def __str__(self) -> str:
        """CIDv1 in base32, whatever form it was read from."""
        return "b" + base64.b32encode(self.v1_bytes).decode().lower().rstrip("=")

    @property
    def v1_bytes(self) -> bytes:
        """The binary CIDv1."""
        return bytes((1, self.codec, _SHA2_256, 32)) + self.digest

    @property
    def link_bytes(self) -> bytes:
        """The binary form as links carry it: a CIDv0 stays one."""
        return bytes((_SHA2_256, 32)) + self.digest if self.version == 0 else self.v1_bytes

    @property
    def is_raw(self) -> bool:
        """Whether the block is plain bytes."""
        return self.codec == RAW

    def matches(self, data: bytes | bytearray | memoryview) -> bool:
        """Whether these bytes are the block of this name."""
        return hashlib.sha256(data).digest() == self.digest


def of(data: bytes | bytearray | memoryview, codec: int = RAW) -> Cid:
    """The CIDv1 of a block."""
    return Cid(codec, hashlib.sha256(data).digest())


def read(data: bytes | memoryview, offset: int = 0) -> tuple[Cid, int]:
    """A binary CID and the offset behind it.

    Raises:
        ValueError: damaged. IncompatibleError: a codec or hash function that is not supported.
    """
    if len(data) >= offset + 2 and data[offset] == _SHA2_256 and data[offset + 1] == 32:
        end = offset + 34
        if len(data) < end:
            raise ValueError("a CID is cut short")
        return Cid(DAG_PB, bytes(data[offset + 2 : end]), 0), end
    version, offset = read_varint(data, offset)
    if version != 1:
        raise ValueError(f"there is no CID version {version}")
    codec, offset = read_varint(data, offset)
    function, offset = read_varint(data, offset)
    length, offset = read_varint(data, offset)
    if len(data) < offset + length:
        raise ValueError("a CID is cut short")
    if function != _SHA2_256:
        raise IncompatibleError(
            f"the content is named by the hash function {_HASH_NAMES.get(function, hex(function))}, and only sha2-256 "
            "can be checked",
            "import the content again with sha2-256 (ipfs add --hash=sha2-256)",
            {"hash_function": function},
        )
    if length != 32:
        raise ValueError(f"a sha2-256 digest of {length} bytes")
    if codec not in (RAW, DAG_PB):
        raise IncompatibleError(
            f"the content has the codec {_CODEC_NAMES.get(codec, hex(codec))}, which holds no files",
            "give the CID of a file or a folder (codec raw or dag-pb)",
            {"codec": codec},
        )
    return Cid(codec, bytes(data[offset : offset + 32])), offset + 32


def _from_alphabet(text: str, alphabet: str) -> bytes:
    number = 0
    for character in text:
        number = number * len(alphabet) + alphabet.index(character)
    zeros = len(text) - len(text.lstrip(alphabet[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _decode(text: str) -> bytes:
    if text.startswith("Qm") and len(text) == 46:
        return _from_alphabet(text, _BASE58)
    base, body = text[0], text[1:]
    if base in "bB":
        if body != (body.lower() if base == "b" else body.upper()):
            raise ValueError("mixed upper and lower case")
        return base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    if base == "z":
        return _from_alphabet(body, _BASE58)
    if base in "kK":
        return _from_alphabet(body.lower(), _BASE36)
    if base in "fF":
        return bytes.fromhex(body)
    raise ValueError(f"the multibase letter {base!r} is not known")


def parse(text: str) -> Cid:
    """Reads a CID in base32, base58, base36 or hexadecimal.

    Raises:
        InputError: not a CID. IncompatibleError: a codec or hash function that is not supported.
    """
    try:
        if not 32 <= len(text) <= _LONGEST:
            raise ValueError("not as long as a CID")
        data = _decode(text)
        cid, end = read(data)
        if end != len(data):
            raise ValueError(f"{len(data) - end} bytes too many")
    except (ValueError, binascii.Error, IndexError) as error:
        raise InputError(
            f"{shown(text)} is not a content id: {error}",
            "a content id looks like bafybeih... or Qm..., without spaces",
        ) from error
    return cid


def shown(text: str) -> str:
    """A text from outside, quoted and shortened for a message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def is_cid(text: str) -> bool:
    """Whether a text is written as a CID, supported or not."""
    try:
        parse(text)
    except IncompatibleError:
        return True
    except InputError:
        return False
    return True


def is_reference(text: str) -> bool:
    """Whether a text names content: `ipfs://...`, `/ipfs/...`, `CID` or `CID/path`."""
    return text.startswith(("ipfs://", "/ipfs/")) or is_cid(text.split("/", 1)[0])


def parse_reference(text: str) -> tuple[Cid, tuple[str, ...]]:
    """Reads `CID`, `CID/path`, `ipfs://CID/path` or `/ipfs/CID/path`.

    Returns:
        The CID and the names of the path below it.

    Raises:
        InputError: not a reference to content, or a path with `..`.
    """
    for prefix in ("ipfs://", "/ipfs/"):
        if text.startswith(prefix):
            body = text.removeprefix(prefix)
            break
    else:
        body = text
    if prefix == "ipfs://" and body != text and "%" in body:
        from urllib.parse import unquote

        body = unquote(body, errors="surrogateescape")
    first, _, rest = body.partition("/")
    names = tuple(name for name in rest.split("/") if name)
    if any(name in (".", "..") for name in names):
        raise InputError(f"{shown(text)}: a path below a content id cannot have '.' or '..'", "name the file directly")
    return parse(first), names
