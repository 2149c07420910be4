"""Processes that are killed, disks that are full, and several at once: nothing that is pinned is lost."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel.core import paths
from accel.core.content import getting, importer, pinning, verify
from accel.core.content.cid import Cid, parse
from accel.core.errors import TransferError
from tests import disks
from tests.core.content.helpers import OFFLINE, all_blocks, model, pinned, random_file, tree
from tests.gateway import Gateway

MIB = 1 << 20
ACCEL = [sys.executable, "-m", "accel"]


def start(*arguments: str, gateway: str = "", **more: Any) -> subprocess.Popen[bytes]:
    """An `accel` process that asks this gateway alone."""
    environment = {
        **os.environ,
        "IPFS_ACCELERATE_IPFS_LOCAL_NODE": "null",
        "IPFS_ACCELERATE_IPFS_GATEWAY": gateway or "http://127.0.0.1:1",
    }
    return subprocess.Popen(
        [*ACCEL, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


def home(cid: Cid) -> Path:
    return getting.fetch(getting.Wish(str(cid)), OFFLINE).path


def sound() -> bool:
    found = verify.verify(OFFLINE)
    assert found.sound, [vars(fault) for fault in found.faults]
    return found.pins > 0


@pytest.mark.slow
def test_killed_at_fifty_moments(tmp_path: Path) -> None:
    generator = random.Random(11)
    kept = model(tmp_path / "kept", weights=6 * MIB)
    keep = pinned(kept)
    distant = model(tmp_path / "distant", weights=12 * MIB, seed=40)
    root, blocks = all_blocks(distant)
    with Gateway(blocks, delay=0.02) as gateway:
        for number in range(50):
            kind = ("pin", "fetch", "gc")[number % 3]
            if kind == "pin":
                data = bytearray((kept / "model.safetensors").read_bytes())
                position = generator.randrange(len(data) - MIB)
                data[position : position + MIB] = generator.randbytes(MIB)
                revision = tmp_path / f"revision-{number}"
                revision.write_bytes(data * (1 + number % 2))
                process = start("pin", str(revision))
            elif kind == "fetch":
                process = start("fetch", str(root), gateway=gateway.url)
            else:
                for item in pinning.listing():
                    if parse(item.pin.cid) not in (keep, root):
                        pinning.unpin(item.pin.cid)
                process = start("pin", "gc")
            time.sleep(generator.uniform(0.05, 1.0))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert sound()
            assert tree(home(keep)) == tree(kept)
        finish(start("fetch", str(root), gateway=gateway.url))
        finish(start("pin", str(root), gateway=gateway.url))
        finish(start("pin", "gc"))
    assert sound()
    assert tree(home(keep)) == tree(kept)
    assert tree(home(root)) == tree(distant)
    content = paths.home() / "content"
    assert not list((content / "files").glob("part-*"))
    recorded = sum(1 for _ in (content / "packs").iterdir()) + sum(1 for _ in (content / "files").iterdir())
    assert recorded < 12


def test_a_killed_fetch_goes_on_where_it_was(tmp_path: Path) -> None:
    source = model(tmp_path / "model", weights=16 * MIB)
    root, blocks = all_blocks(source)
    with Gateway(blocks, delay=0.1) as gateway:
        process = start("fetch", str(root), gateway=gateway.url)
        while len(gateway.served) < 10 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.15)
        process.kill()
        process.communicate()
        # the last answers may have been on their way
        first = set(list(gateway.asked)[:6])
        gateway.asked.clear()
        finish(start("fetch", str(root), gateway=gateway.url))
        assert not set(gateway.asked) & first
    assert tree(home(root)) == tree(source)


def test_an_interrupted_fetch_ends_at_once_and_goes_on(tmp_path: Path) -> None:
    source = model(tmp_path / "model", weights=16 * MIB)
    root, blocks = all_blocks(source)
    with Gateway(blocks, delay=0.1) as gateway:
        process = start("fetch", str(root), "--output", str(tmp_path / "out"), gateway=gateway.url)
        while len(gateway.served) < 10 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        process.communicate(timeout=20)
        assert process.returncode == 130
        assert time.monotonic() - started < 5
        assert not (tmp_path / "out").exists()
        finish(start("fetch", str(root), "--output", str(tmp_path / "out"), gateway=gateway.url))
        assert max(gateway.asked.values()) <= 2
    assert tree(tmp_path / "out") == tree(source)


def test_two_processes_pin_the_same_at_once(tmp_path: Path) -> None:
    source = model(tmp_path / "model", weights=20 * MIB)
    both = [start("pin", "-q", str(source)) for _ in range(2)]
    cids = {finish(process) for process in both}
    assert cids == {str(importer.cid_of(source))}
    assert sound()
    assert tree(home(parse(cids.pop()))) == tree(source)
    pinning.collect_garbage()
    assert sound()


def test_many_processes_do_different_things_at_once(tmp_path: Path) -> None:
    sources = [model(tmp_path / f"model-{n}", weights=4 * MIB, seed=10 * n) for n in range(3)]
    processes = [start("pin", "-q", str(source)) for source in sources]
    processes += [start("pin", "gc"), start("pin", "ls"), start("pin", "verify")]
    for process in processes:
        finish(process)
    assert sound()
    assert len(pinning.listing()) == 3
    for source in sources:
        assert tree(home(importer.cid_of(source))) == tree(source)


def limited(size: int) -> object:
    """Lets a process write no file larger than this, which fails as a full disk does."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return limit


@pytest.mark.parametrize("size", [100_000, 3 * MIB])
def test_a_file_that_cannot_grow(tmp_path: Path, size: int) -> None:
    kept = model(tmp_path / "kept", weights=MIB)
    keep = pinned(kept)
    process = start("pin", str(random_file(tmp_path / "large", 8 * MIB)), preexec_fn=limited(size))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert b"cannot write" in err
    assert sound()
    assert tree(home(keep)) == tree(kept)
    files = paths.home() / "content" / "files"
    assert not [path for path in files.glob("*") if path.stat().st_size > MIB]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.mounted(tmp_path / "disk", "24m") as folder:
        yield folder


def test_a_full_disk(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(small_disk / "home"))
    kept = model(tmp_path / "kept", weights=4 * MIB)
    keep = pinned(kept)
    drop = pinned(random_file(tmp_path / "drop", 10 * MIB, 3))
    with pytest.raises(TransferError, match="disk is full"):
        pinned(random_file(tmp_path / "large", 30 * MIB, 4))
    assert sound()
    distant = random_file(tmp_path / "distant", 12 * MIB, 5)
    root, blocks = all_blocks(distant)
    with Gateway(blocks) as gateway:
        from accel.core.content.settings import Settings
        from accel.core.errors import AccelError

        near = Settings((gateway.url,), None, 5.0, 4)
        with pytest.raises(AccelError, match=r"free space of the disk|disk is full"):
            getting.fetch(getting.Wish(str(root)), near)
        assert sound()
        pinning.unpin(str(drop))
        assert pinning.collect_garbage().bytes > 9 * MIB
        assert getting.fetch(getting.Wish(str(root)), near).path.read_bytes() == distant.read_bytes()
    assert sound()
    assert tree(home(keep)) == tree(kept)


def test_a_collection_on_a_full_disk(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(small_disk / "home"))
    drop = pinned(random_file(tmp_path / "drop", 10 * MIB, 3))
    pinning.unpin(str(drop))
    filler = small_disk / "filler"
    with filler.open("wb") as out:
        try:
            while True:
                out.write(bytes(1 << 16))
                out.flush()
        except OSError:
            pass
    try:
        freed = pinning.collect_garbage().bytes
    except TransferError as error:
        # not even the index can be written: one file of room is what it takes
        assert "index" in error.message or "disk" in error.message
        filler.write_bytes(b"")
        freed = pinning.collect_garbage().bytes
    assert freed > 9 * MIB
