from __future__ import annotations

import pytest

from accel.core.content import cid
from accel.core.errors import IncompatibleError, InputError

EMPTY = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def test_the_cid_of_nothing() -> None:
    assert str(cid.of(b"")) == EMPTY


@pytest.mark.parametrize(
    "text",
    [
        EMPTY,
        EMPTY.upper(),
        "zb2rhmy65F3REf8SZp7De11gxtECBGgUKaLdiDj7MCGCHxbDW",
        "f01551220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
)
def test_every_base_means_the_same(text: str) -> None:
    assert str(cid.parse(text)) == EMPTY


def test_version_0_is_shown_as_version_1() -> None:
    # the empty folder, in both forms as Kubo prints them
    old = cid.parse("QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn")
    assert str(old) == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    assert old.link_bytes[:2] == b"\x12\x20"


def test_base36() -> None:
    number = int.from_bytes(cid.parse(EMPTY).v1_bytes, "big")
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    assert str(cid.parse("k" + digits)) == EMPTY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bert-base",
        EMPTY[:-1],
        EMPTY + "a",
        EMPTY[:30] + "1" + EMPTY[31:],
        EMPTY[:20] + EMPTY[20:].upper(),
        "x" + EMPTY[1:],
        "Qm" + "0" * 44,
        "b" * 5000,
        "ünïcødé-" * 8,
    ],
)
def test_what_is_no_cid_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        cid.parse(text)
    assert not cid.is_cid(text)


def test_other_hash_functions_and_codecs_are_named() -> None:
    blake = b"\x01\x55\xa0\xe4\x02\x20" + bytes(32)
    sha512 = b"\x01\x55\x13\x40" + bytes(64)
    cbor = b"\x01\x71\x12\x20" + bytes(32)
    for data, word in ((blake, "blake2b"), (sha512, "sha2-512"), (cbor, "dag-cbor")):
        with pytest.raises(IncompatibleError, match=word):
            cid.parse("f" + data.hex())
        assert cid.is_cid("f" + data.hex())


def test_a_short_digest_is_refused() -> None:
    with pytest.raises(InputError, match="digest of 20 bytes"):
        cid.parse("f" + (b"\x01\x55\x12\x14" + bytes(20)).hex())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (EMPTY, ()),
        (f"{EMPTY}/a/b", ("a", "b")),
        (f"ipfs://{EMPTY}/a%20b", ("a b",)),
        (f"/ipfs/{EMPTY}//c/", ("c",)),
    ],
)
def test_references(text: str, names: tuple[str, ...]) -> None:
    found, inside = cid.parse_reference(text)
    assert str(found) == EMPTY
    assert inside == names


def test_a_reference_cannot_climb() -> None:
    with pytest.raises(InputError, match=r"'\.\.'"):
        cid.parse_reference(f"ipfs://{EMPTY}/../x")
    with pytest.raises(InputError):
        cid.parse_reference(f"ipfs://{EMPTY}/%2e%2e/x")


def test_varints_have_bounds() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        cid.read_varint(b"\xff" * 10 + b"\x01", 0)
    with pytest.raises(ValueError, match="past the end"):
        cid.read_varint(b"\x80", 0)
    for value in (0, 127, 128, 2**63, 2**64 - 1):
        assert cid.read_varint(cid.varint(value), 0)[0] == value
