"""What users and disks do to content that nobody would do on purpose."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from accel.core import paths
from accel.core.content import getting, importer, pinning, verify
from accel.core.content.getting import Wish
from accel.core.content.pins import AmbiguousName
from accel.core.errors import InputError, TransferError
from tests.core.content.helpers import OFFLINE, model, pinned, random_file, tree

MIB = 1 << 20
NAMES = (
    *(b"\xff\xfe", b"new\nline", b"-rf", b" space ", b"a" * 255, b"tab\t", b".hidden", b"x\\y", b"*"),
    "\u202eevil".encode(),
)


def odd(folder: Path) -> Path:
    folder.mkdir()
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(name)
    return folder


@pytest.mark.parametrize("reference", [False, True])
def test_names_of_any_bytes(tmp_path: Path, reference: bool) -> None:
    source = odd(tmp_path / "odd")
    cid = pinned(source, reference=reference)
    for _ in range(2):
        done = getting.fetch(Wish(str(cid), tmp_path / "out"), OFFLINE)
        assert tree(done.path) == tree(source)
    assert importer.cid_of(done.path) == cid
    assert verify.verify(OFFLINE).sound
    pinning.unpin(str(cid))
    pinning.collect_garbage()
    assert pinned(source, reference=reference) == cid


@pytest.mark.parametrize("what", ["/dev/null", "fifo", "folder"])
def test_special_files(tmp_path: Path, what: str) -> None:
    (tmp_path / "folder").mkdir()
    for place in ("fifo", "folder/fifo"):
        os.mkfifo(tmp_path / place)
    with pytest.raises(InputError, match="neither a file, a folder nor a link"):
        pinned(tmp_path / what)


def test_an_empty_name() -> None:
    with pytest.raises(InputError, match="is empty"):
        pinning.pin(pinning.Request(""), OFFLINE)


def test_folders_too_deep_to_be_fetched_are_not_pinned(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    (deep / Path(*["d"] * 199)).mkdir(parents=True)
    cid = pinned(deep)
    assert tree(getting.fetch(Wish(str(cid)), OFFLINE).path) == tree(deep)
    (deep / Path(*["d"] * 200)).mkdir()
    with pytest.raises(InputError, match="nested 200 deep"):
        pinned(deep)


def test_links_that_will_not_be_fetched_are_named(tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    assert pinning.pin(pinning.Request(str(source)), OFFLINE).notes == []
    (source / "self").symlink_to("self")
    (source / "up").symlink_to("../elsewhere")
    (note,) = pinning.pin(pinning.Request(str(source)), OFFLINE).notes
    assert "and 1 more links lead out of it or in circles" in note


def test_the_store_itself_is_not_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "a" / "home"))
    pinned(random_file(tmp_path / "f", 100))
    for folder in (tmp_path, tmp_path / "a" / "home" / "content"):
        with pytest.raises(InputError, match="own content store"):
            pinned(folder)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("size", [5 * MIB, 6 * MIB, 7 * MIB], ids=["shorter", "rewritten", "longer"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, reference: bool, size: int) -> None:
    path = random_file(tmp_path / "file", 6 * MIB)

    def change(_: float) -> None:
        with path.open("r+b") as out:
            out.truncate(size)
            out.write(b"x" * 100)

    with pytest.raises(TransferError, match=r"changed while|became shorter"):
        pinning.pin(pinning.Request(str(path), reference=reference), OFFLINE, advance=change)
    assert pinning.listing() == []
    assert verify.verify(OFFLINE).sound


def test_a_name_that_two_pins_have(tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    first = pinned(source)
    (source / "config.json").write_text("{}")
    second = pinned(source)
    with pytest.raises(AmbiguousName, match="is pinned 2 times") as caught:
        getting.find(str(source))
    assert str(first) in caught.value.hint
    pinning.unpin(str(first))
    assert getting.find(str(source)).root == second


def test_a_pin_by_another_spelling_of_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    cid = pinned(Path("model"))
    for name in ("model", "./model", str(source), "model/"):
        assert getting.find(name).root == cid, name


def damage(kind: str, index: Path) -> None:
    for suffix in ("-wal", "-shm"):
        index.with_name(index.name + suffix).unlink(missing_ok=True)
    data = index.read_bytes()
    if kind == "no tables":
        con = sqlite3.connect(index)
        con.execute("DROP TABLE blocks")
        con.commit()
        con.close()
    else:
        index.write_bytes(
            {
                "garbage": os.urandom(len(data)),
                "half": data[: len(data) // 2],
                "empty": b"",
                "middle": data[:8192] + os.urandom(8192) + data[16384:],
            }[kind]
        )


@pytest.mark.parametrize("kind", ["garbage", "half", "empty", "middle", "no tables"])
def test_a_damaged_index(tmp_path: Path, kind: str) -> None:
    source = model(tmp_path / "model")
    cid = pinned(source)
    damage(kind, paths.home() / "content" / "index.sqlite")
    assert verify.verify(OFFLINE).sound
    assert tree(getting.fetch(Wish(str(cid)), OFFLINE).path) == tree(source)


def test_an_index_of_another_time(tmp_path: Path) -> None:
    """Such as one that was put back from a backup: it knows less than there is."""
    index = paths.home() / "content" / "index.sqlite"
    pinned(model(tmp_path / "one"))
    old = subprocess.run(["cat", str(index)], capture_output=True, check=True).stdout
    source = model(tmp_path / "two", seed=50)
    cid = pinned(source)
    for suffix in ("-wal", "-shm"):
        index.with_name(index.name + suffix).unlink(missing_ok=True)
    index.write_bytes(old)
    assert verify.verify(OFFLINE).sound
    assert tree(getting.fetch(Wish(str(cid)), OFFLINE).path) == tree(source)


def test_pins_that_cannot_be_read_are_not_no_pins(tmp_path: Path) -> None:
    cid = pinned(model(tmp_path / "model"))
    folder = paths.home() / "content" / "pins"
    folder.rename(folder.with_name("aside"))
    folder.write_text("a file in the way")
    with pytest.raises(TransferError, match="cannot read"):
        pinning.collect_garbage()
    folder.unlink()
    folder.with_name("aside").rename(folder)
    assert verify.verify(OFFLINE).sound
    assert getting.fetch(Wish(str(cid)), OFFLINE).level == "local"


def test_strangers_in_the_store(tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    cid = pinned(source)
    content = paths.home() / "content"
    (content / "pins" / "junk.json").write_text("{")
    (content / "packs" / "evil.car").write_bytes(os.urandom(1000))
    (content / "files" / "x-y-z-w").mkdir()
    (content / "leases" / "junk").touch()
    (content / "trees").mkdir(exist_ok=True)
    (content / "trees" / "junk").write_text("x")
    (content / "providers.json").write_text("[]")
    assert [item.pin.cid for item in pinning.listing()] == [str(cid)]
    pinning.collect_garbage()
    assert verify.verify(OFFLINE).sound
    assert tree(getting.fetch(Wish(str(cid)), OFFLINE).path) == tree(source)
