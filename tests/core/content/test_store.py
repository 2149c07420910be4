"""The local store: pins, revisions, references, damage, garbage, limits, and an index that can be made again."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from accel.core import paths
from accel.core.content import getting, importer, materialise, pinning, verify
from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid, of, parse
from accel.core.content.collect import collect, keep_within
from accel.core.content.settings import Settings
from accel.core.errors import InputError, TransferError
from tests.core.content.helpers import OFFLINE, flip, model, pinned, random_file, tree

MIB = 1 << 20


def home(cid: Cid) -> Path:
    return getting.fetch(getting.Wish(str(cid)), OFFLINE).path


def disk() -> int:
    root = paths.home() / "content"
    seen: dict[int, int] = {}
    for folder in ("packs", "files", "trees"):
        for path in (root / folder).rglob("*"):
            info = path.lstat()
            seen[info.st_ino] = info.st_blocks * 512
    return sum(seen.values())


def check() -> verify.Verified:
    return verify.verify(OFFLINE)


def test_what_is_pinned_comes_back_the_same(tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    cid = pinned(source)
    assert cid == importer.cid_of(source)
    assert tree(home(cid)) == tree(source)
    assert check().sound


def test_large_files_are_on_the_disk_once(tmp_path: Path) -> None:
    source = random_file(tmp_path / "weights", 8 * MIB)
    cid = pinned(source)
    path = home(cid)
    assert path.read_bytes() == source.read_bytes()
    assert disk() < 8.5 * MIB


def test_the_record_of_a_pin(tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    done = pinning.pin(pinning.Request(str(source)), OFFLINE)
    assert done.pin.size_bytes == sum(p.stat().st_size for p in source.rglob("*") if p.is_file() and not p.is_symlink())
    assert done.pin.licence == "apache-2.0"
    assert done.pin.profile == "unixfs-v1-2025"
    assert done.files == 4
    assert pinning.listing()[0].pin == done.pin


def test_pinning_again_stores_nothing(tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    pinned(source)
    before = disk()
    done = pinning.pin(pinning.Request(str(source)), OFFLINE)
    assert done.new_bytes == 0
    assert disk() == before


def test_a_revision_stores_only_what_differs(tmp_path: Path) -> None:
    size = 40 * MIB
    first = random_file(tmp_path / "weights", size)
    pinned(first)
    before = disk()
    data = bytearray(first.read_bytes())
    start = size // 3 + 12345
    data[start : start + size // 20] = random.Random(9).randbytes(size // 20)
    second = tmp_path / "revision"
    second.write_bytes(data)
    cid = pinned(second)
    assert disk() - before < 0.08 * size
    assert home(cid).read_bytes() == bytes(data)
    listed = {Path(item.pin.name).name: item for item in pinning.listing()}
    assert listed["revision"].own_bytes < 0.08 * size
    assert listed["revision"].shared_bytes > 0.9 * size


def test_a_revision_survives_the_collection_of_the_first(tmp_path: Path) -> None:
    first = random_file(tmp_path / "one", 10 * MIB)
    one = pinned(first)
    data = bytearray(first.read_bytes())
    data[5 * MIB] ^= 1
    second = tmp_path / "two"
    second.write_bytes(data)
    two = pinned(second)
    pinning.unpin(str(one))
    pinning.collect_garbage()
    assert check().sound
    assert home(two).read_bytes() == bytes(data)
    with pytest.raises(TransferError):
        home(one)


def test_chunks_that_repeat_within_a_file(tmp_path: Path) -> None:
    source = tmp_path / "zeros"
    source.write_bytes(bytes(5 * MIB) + b"end" + bytes(5 * MIB))
    cid = pinned(source)
    assert home(cid).read_bytes() == source.read_bytes()
    assert check().sound


def test_ten_thousand_files(tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(10_000):
        (source / f"file-{number}").write_bytes(b"%d" % number)
    cid = pinned(source)
    assert check().blocks > 10_000
    assert tree(home(cid)) == tree(source)


def test_executable_files_and_odd_names(tmp_path: Path) -> None:
    source = tmp_path / "model"
    for name in ("a b", "ünï", "new\nline", "-x", "..x"):
        random_file(source / name, 10)
    (source / "run.sh").write_text("#!/bin/sh")
    (source / "run.sh").chmod(0o755)
    assert tree(home(pinned(source))) == tree(source)


class TestReference:
    def test_the_bytes_stay_where_they_are(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "weights", 50 * MIB)
        cid = pinned(source, reference=True)
        assert disk() < 0.02 * 50 * MIB
        assert cid == importer.cid_of(source)
        path = home(cid)
        assert path.read_bytes() == source.read_bytes()
        assert disk() < 0.02 * 50 * MIB

    def test_a_change_is_noticed_on_use_and_named(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "weights", 5 * MIB)
        cid = pinned(source, reference=True)
        assert materialise(str(cid), offline=True).read_bytes() == source.read_bytes()
        flip(source, 3 * MIB + 17)
        with pytest.raises(TransferError, match=f"{source} at byte {3 * MIB}"):
            materialise(str(cid), offline=True)
        found = check()
        assert not found.sound
        assert found.faults[0].where == f"{source} at byte {3 * MIB}"

    def test_every_flipped_bit_is_found_and_named(self, tmp_path: Path) -> None:
        size = MIB + 1000
        source = random_file(tmp_path / "weights", size)
        pinned(source, reference=True)
        generator = random.Random(6)
        for _ in range(200):
            position, bit = generator.randrange(size), generator.randrange(8)
            flip(source, position, bit)
            found = check()
            assert [fault.where for fault in found.faults] == [f"{source} at byte {position // MIB * MIB}"]
            assert not found.sound
            flip(source, position, bit)
        assert check().sound

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        source = model(tmp_path / "model")
        cid = pinned(source, reference=True)
        shutil.rmtree(source)
        with pytest.raises(TransferError):
            home(cid)
        assert not check().sound

    def test_pinning_by_copy_afterwards_copies(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "weights", 5 * MIB)
        data = source.read_bytes()
        pinned(source, reference=True)
        cid = pinned(source)
        source.unlink()
        assert home(cid).read_bytes() == data

    def test_a_changed_file_pinned_again(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "weights", 5 * MIB)
        pinned(source, reference=True)
        random_file(source, 6 * MIB, 2)
        cid = pinned(source, reference=True)
        assert home(cid).read_bytes() == source.read_bytes()


class TestDamage:
    def test_every_flipped_bit_is_found_and_named(self, tmp_path: Path) -> None:
        pinned(model(tmp_path / "model"))
        content = paths.home() / "content"
        files = [p for folder in ("packs", "files") for p in (content / folder).iterdir()]
        rows = Store().index.read(
            "SELECT c.path, b.place, b.length FROM blocks b JOIN containers c ON c.id = b.container"
        )
        generator = random.Random(5)
        for _ in range(200):
            path = generator.choice(files)
            spans = [(int(o), int(n)) for name, o, n in rows if content / str(name) == path and n]  # type: ignore[call-overload]
            offset, length = generator.choice(spans)
            position, bit = offset + generator.randrange(length), generator.randrange(8)
            flip(path, position, bit)
            found = check()
            assert [fault.where for fault in found.faults] == [f"{path} at byte {offset}"]
            assert not found.sound
            flip(path, position, bit)
        assert check().sound

    def test_damage_is_repaired_from_another_copy(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "weights", 3 * MIB)
        cid = pinned(source, reference=True)
        pinned(source)
        flip(source, 100)
        found = verify.verify(OFFLINE, repair=True)
        assert found.sound
        assert home(cid).read_bytes()[100] != source.read_bytes()[100]

    def test_a_touched_tree_is_made_again(self, tmp_path: Path) -> None:
        source = model(tmp_path / "model")
        cid = pinned(source)
        path = materialise(str(cid), offline=True)
        (path / "config.json").chmod(0o644)
        (path / "config.json").write_text("{}")
        (path / "tokenizer" / "vocab.txt").unlink()
        assert tree(materialise(str(cid), offline=True)) == tree(source)

    def test_a_lost_container(self, tmp_path: Path) -> None:
        cid = pinned(model(tmp_path / "model"))
        for path in (paths.home() / "content" / "files").iterdir():
            path.unlink()
        assert not check().sound
        with pytest.raises(TransferError):
            home(cid)

    def test_a_damaged_record_of_a_pin_still_pins(self, tmp_path: Path) -> None:
        cid = pinned(model(tmp_path / "model"))
        (paths.home() / "content" / "pins" / f"{cid}.json").write_text("{nonsense")
        pinning.collect_garbage()
        found = check()
        assert [fault.kind for fault in found.faults] == ["record"]
        assert home(cid).is_dir()

    @pytest.mark.parametrize("how", ["lost", "garbage", "cut"])
    def test_the_index_is_made_again(self, tmp_path: Path, how: str) -> None:
        source = model(tmp_path / "model")
        other = random_file(tmp_path / "elsewhere", 3 * MIB, 4)
        cid, by_reference = pinned(source), pinned(other, reference=True)
        index = paths.home() / "content" / "index.sqlite"
        for extra in index.parent.glob("index.sqlite-*"):
            extra.unlink()
        if how == "lost":
            index.unlink()
        elif how == "garbage":
            index.write_bytes(random.Random(1).randbytes(50_000))
        else:
            data = bytearray(index.read_bytes())
            data[4096 : len(data) // 2] = bytes(len(data) // 2 - 4096)
            index.write_bytes(data)
        found = check()
        assert found.sound, found.faults
        assert tree(home(cid)) == tree(source)
        assert home(by_reference).read_bytes() == other.read_bytes()
        pinning.collect_garbage()
        assert check().sound

    def test_a_newer_index_is_left_alone(self) -> None:
        Store().close()
        con = sqlite3.connect(paths.home() / "content" / "index.sqlite")
        con.execute("UPDATE meta SET value = 99 WHERE key = 'version'")
        con.commit()
        con.close()
        with pytest.raises(TransferError, match="newer accel"):
            Store()


class TestGarbage:
    def test_only_what_nothing_pins_goes(self, tmp_path: Path) -> None:
        keep = pinned(model(tmp_path / "keep", seed=1))
        drop = pinned(model(tmp_path / "drop", seed=50))
        home(drop)
        pinning.unpin(str(drop))
        before = disk()
        would = pinning.collect_garbage(dry_run=True)
        assert disk() == before
        done = pinning.collect_garbage()
        assert done.blocks == would.blocks > 0
        assert done.bytes > 3 * MIB
        assert would.bytes > 3 * MIB
        assert disk() < before - 3 * MIB
        assert check().sound
        assert home(keep).is_dir()

    def test_unpinning_can_be_tried(self, tmp_path: Path) -> None:
        cid = pinned(model(tmp_path / "model"))
        pinning.unpin(str(cid), dry_run=True)
        assert len(pinning.listing()) == 1
        pinning.unpin(str(tmp_path / "model"))
        assert pinning.listing() == []
        with pytest.raises(InputError, match="nothing is pinned"):
            pinning.unpin(str(cid))

    def test_shared_blocks_stay(self, tmp_path: Path) -> None:
        one = pinned(model(tmp_path / "one"))
        two_path = model(tmp_path / "two")
        (two_path / "more.txt").write_text("more")
        two = pinned(two_path)
        pinning.unpin(str(one))
        pinning.collect_garbage()
        assert check().sound
        assert tree(home(two)) == tree(two_path)

    def test_work_in_progress_is_left_alone(self, tmp_path: Path) -> None:
        data = [random.Random(n).randbytes(100_000) for n in range(20)]
        with Store() as store, store.writer() as writer:
            writer.put_new((of(block), block) for block in data)
            collect(Store())
            writer.commit()
            collect(Store())
            assert store.has(of(block) for block in data)
        collect(Store())
        assert not Store().has([of(data[0])])

    def test_what_work_relies_on_is_left_alone(self) -> None:
        data = b"known already" * 1000
        with Store() as store, store.writer() as writer:
            writer.put_new([(of(data), data)])
            writer.commit()
        with Store() as store, store.writer() as writer:
            writer.put_new([(of(data), data)])
            assert writer.written == 0
            collect(Store())
            assert store.get(of(data)) == data

    def test_a_materialised_model_is_in_use_until_the_process_ends(self, tmp_path: Path) -> None:
        source = model(tmp_path / "model")
        cid = pinned(source)
        path = materialise(str(cid), offline=True)
        pinning.unpin(str(cid))
        pinning.collect_garbage()
        assert tree(path) == tree(source)

    def test_leftovers_of_killed_processes_go(self, tmp_path: Path) -> None:
        pinned(model(tmp_path / "model"))
        content = paths.home() / "content"
        (content / "packs" / "1-deadbeef-1.car").write_bytes(b"half of a pack")
        (content / "files" / "1-deadbeef-2").write_bytes(b"half of a file")
        (content / "trees" / ".1-deadbeef-tree").mkdir(parents=True)
        collect(Store())
        assert list(content.rglob("*deadbeef*")) == []
        assert check().sound

    def test_nothing_goes_while_a_pin_is_not_whole(self, tmp_path: Path) -> None:
        pinned(model(tmp_path / "model"))
        other = pinned(model(tmp_path / "other", seed=9))
        pinning.unpin(str(other))
        (pack,) = list((paths.home() / "content" / "packs").glob("2-*.car"))
        data = pack.read_bytes()
        pack.write_bytes(data[: len(data) // 2])
        before = disk()
        assert pinning.collect_garbage().problems
        assert disk() == before

    def test_a_mostly_empty_container_is_written_anew(self, tmp_path: Path) -> None:
        big = random_file(tmp_path / "big", 20 * MIB)
        one = pinned(big)
        small = tmp_path / "small"
        small.write_bytes(big.read_bytes()[: 2 * MIB])
        two = pinned(small)
        assert disk() < 21 * MIB
        pinning.unpin(str(one))
        pinning.collect_garbage()
        assert disk() < 3 * MIB
        assert check().sound
        assert home(two).read_bytes() == small.read_bytes()


class TestLimit:
    def settings(self, size: int) -> Settings:
        return Settings(offline=True, cache_bytes=size)

    def test_the_least_recently_used_goes_first(self, tmp_path: Path) -> None:
        cids = [pinned(random_file(tmp_path / f"m{n}", 4 * MIB, n)) for n in range(4)]
        for cid in cids:
            pinning.unpin(str(cid))
        home(cids[0])
        keep_within(Store(), 9 * MIB)
        assert home(cids[0]).is_file()
        assert home(cids[3]).is_file()
        for cid in cids[1:3]:
            with pytest.raises(TransferError):
                home(cid)
        assert disk() < 9 * MIB

    def test_pins_are_never_evicted(self, tmp_path: Path) -> None:
        cids = [pinned(random_file(tmp_path / f"m{n}", 4 * MIB, n)) for n in range(3)]
        keep_within(Store(), MIB)
        for cid in cids:
            assert home(cid).is_file()

    def test_the_setting_has_an_effect(self, tmp_path: Path) -> None:
        first = pinned(random_file(tmp_path / "first", 4 * MIB, 1))
        pinning.unpin(str(first))
        request = pinning.Request(str(random_file(tmp_path / "second", 4 * MIB, 2)))
        pinning.pin(request, self.settings(6 * MIB))
        with pytest.raises(TransferError):
            home(first)


class TestCar:
    def test_out_and_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from accel.core.content.transfer import write_car

        source = model(tmp_path / "model")
        cid = pinned(source)
        write_car(Store(), [cid], tmp_path / "model.car")
        monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "other home"))
        (pin,) = pinning.import_car(tmp_path / "model.car", OFFLINE).pins
        assert parse(pin.cid) == cid
        assert check().sound
        assert tree(home(cid)) == tree(source)

    def test_every_flipped_bit_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from accel.core.content.transfer import write_car

        cid = pinned(model(tmp_path / "model", weights=200_000))
        size = write_car(Store(), [cid], tmp_path / "model.car")
        monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "other home"))
        generator = random.Random(3)
        for _ in range(200):
            position, bit = generator.randrange(size), generator.randrange(8)
            flip(tmp_path / "model.car", position, bit)
            with pytest.raises((TransferError, InputError)) as caught:
                pinning.import_car(tmp_path / "model.car", OFFLINE)
            assert "model.car" in caught.value.message
            assert pinning.listing() == []
            # the good blocks are here now, and would complete the next one
            pinning.collect_garbage()
            flip(tmp_path / "model.car", position, bit)
        assert pinning.import_car(tmp_path / "model.car", OFFLINE).pins

    def test_a_car_that_is_cut_short(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from accel.core.content.transfer import write_car

        cid = pinned(model(tmp_path / "model"))
        size = write_car(Store(), [cid], tmp_path / "model.car")
        monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "other home"))
        data = (tmp_path / "model.car").read_bytes()
        for length in (0, 1, 30, 60, size // 2, size - 1):
            (tmp_path / "cut.car").write_bytes(data[:length])
            with pytest.raises((TransferError, InputError)):
                pinning.import_car(tmp_path / "cut.car", OFFLINE)

    def test_a_car_of_no_sense(self, tmp_path: Path) -> None:
        for data in (b"", b"hello world, this is text", bytes(100), b"\xff" * 100, b"\x0a\xa1gversion\x02"):
            (tmp_path / "bad.car").write_bytes(data)
            with pytest.raises((TransferError, InputError)):
                pinning.import_car(tmp_path / "bad.car", OFFLINE)


def test_a_read_only_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(TransferError, match="cannot make the folder"):
        pinned(model(tmp_path / "model"))
