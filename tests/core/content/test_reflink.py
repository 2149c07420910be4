"""File systems that can share the bytes of two files: a copy that is pinned takes no room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.core.content import importer, verify
from accel.core.content.getting import Wish
from accel.core.content.getting import fetch as get
from tests.core.content.helpers import OFFLINE, flip, pinned, random_file

MIB = 1 << 20


@pytest.fixture(params=["btrfs", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of its own that can share bytes, with accel's home folder on it."""
    make = shutil.which(f"mkfs.{request.param}") or shutil.which(f"/usr/sbin/mkfs.{request.param}")
    if make is None:
        pytest.skip(f"there is no mkfs.{request.param}: install btrfs-progs and xfsprogs")
    image, folder = tmp_path / "image", tmp_path / "disk"
    image.touch()
    os.truncate(image, 400 * MIB)
    folder.mkdir()
    subprocess.run([make, "-q", str(image)], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a {request.param} image cannot be mounted here: {done.stderr.strip()}")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(folder / "home"))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def used(folder: Path) -> int:
    os.sync()
    info = os.statvfs(folder)
    return (info.f_blocks - info.f_bfree) * info.f_frsize


@pytest.mark.parametrize("size", [60 * MIB, 60 * MIB + 12345])
def test_a_pinned_copy_shares_its_bytes(disk: Path, size: int) -> None:
    source = random_file(disk / "weights", size)
    data = source.read_bytes()
    before = used(disk)
    cid = pinned(source)
    assert used(disk) - before < 6 * MIB
    assert cid == importer.cid_of(source)
    # what happens to the user's file later does not reach the store
    flip(source, 30 * MIB)
    assert verify.verify(OFFLINE).sound
    assert get(Wish(str(cid)), OFFLINE).path.read_bytes() == data


def test_two_hundred_megabytes_fit_twice_on_a_disk_with_room_for_one(disk: Path) -> None:
    source = random_file(disk / "weights", 200 * MIB)
    cid = pinned(source)
    assert get(Wish(str(cid)), OFFLINE).path.stat().st_size == 200 * MIB
