"""Digests of models: what they depend on, what they cost the second time, and what they notice."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from accel.core import digest, memory
from accel.core.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    (place / "sub").mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "sub" / "weights.bin").write_bytes(bytes(range(256)) * 4000)
    return place


FILES = ("config.json", "sub/weights.bin")


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    real = digest._read_one

    def counted(path: Path, before: digest.Stamp, meter: digest._Meter) -> str:
        read.append(path.name)
        return real(path, before, meter)

    monkeypatch.setattr(digest, "_read_one", counted)
    return read


def test_is_what_it_says(folder: Path) -> None:
    expected = hashlib.sha256()
    for name in sorted(FILES):
        content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        expected.update(f"{name}\0{content}\n".encode())
    assert digest.of_files(folder, FILES) == expected.hexdigest()
    assert digest.of_files(folder, reversed(FILES)) == expected.hexdigest()


def test_depends_on_names_and_contents_but_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    first = digest.of_files(folder, FILES)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert digest.of_files(copy, FILES) == first
    (copy / "config.json").rename(copy / "renamed.json")
    assert digest.of_files(copy, ("renamed.json", "sub/weights.bin")) != first
    assert digest.of_files(folder, FILES[:1]) != first


def test_second_time_reads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    first = digest.of_files(folder, FILES)
    assert sorted(read) == ["config.json", "weights.bin"]
    assert digest.of_files(folder, FILES) == first
    assert len(read) == 2


def test_a_changed_file_changes_the_digest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digest.of_files(folder, FILES)
    read = count_reads(monkeypatch)
    path = folder / "sub" / "weights.bin"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[12345] ^= 1
    path.write_bytes(content)
    assert path.stat().st_size == before.st_size
    assert digest.of_files(folder, FILES) != first
    assert read == ["weights.bin"]


def test_a_change_that_restores_the_times_is_noticed(folder: Path) -> None:
    first = digest.of_files(folder, FILES)
    path = folder / "sub" / "weights.bin"
    before = path.stat()
    path.write_bytes(b"\xff" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert digest.of_files(folder, FILES) != first


def test_a_change_right_after_hashing_is_noticed(folder: Path) -> None:
    path = folder / "config.json"
    for turn in range(10):
        path.write_text(f'{{"a": {turn}}}')
        first = digest.of_files(folder, FILES)
        path.write_text(f'{{"b": {turn}}}')
        assert digest.of_files(folder, FILES) != first


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "sub" / "weights.bin"
    monkeypatch.setattr(digest, "BLOCK", 1 << 16)

    def write(label: str, done: int, total: int | None) -> None:
        if done < 200_000:
            with open(path, "ab") as file:
                file.write(b"more")

    with pytest.raises(InputError, match="changed while it was read"):
        digest.of_files(folder, FILES, write)


def test_missing_and_unreadable_files_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json"):
        digest.of_files(folder, ("gone.json",))
    with pytest.raises(InputError, match="sub"):
        digest.of_files(folder, ("sub",))


def test_a_home_that_cannot_be_written_costs_time_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    blocked = folder.parent / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(blocked / "home"))
    first = digest.of_files(folder, FILES)
    assert digest.of_files(folder, FILES) == first
    assert len(read) == 4
    assert not memory.keep("digests", "x", {})


def test_a_damaged_memory_is_found_out(folder: Path, isolated_home: Path) -> None:
    first = digest.of_files(folder, FILES)
    for damage in (b"", b"{", b"[]", b'{"key": 1, "value": 2}', b"\xff\xfe"):
        for path in (isolated_home / "models" / "digests").iterdir():
            path.write_bytes(damage)
        assert digest.of_files(folder, FILES) == first


def test_a_blob_of_the_hub_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"weights"
    name = hashlib.sha256(content).hexdigest()
    snapshot = tmp_path / "models--org--name" / "snapshots" / "c"
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / name).write_bytes(content)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{name}")
    read = count_reads(monkeypatch)
    assert digest.file_hashes(snapshot, ["model.safetensors"]) == {"model.safetensors": name}
    assert not read
    other = tmp_path / "blobs"
    other.mkdir()
    (other / ("0" * 64)).write_bytes(content)
    (snapshot / "other").symlink_to(f"../../../blobs/{'0' * 64}")
    assert digest.file_hashes(snapshot, ["other"]) == {"other": name}, "a name elsewhere proves nothing"
    assert read == ["other"]


def test_progress_counts_every_byte_once(folder: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    digest.of_files(folder, FILES, lambda label, done, total: seen.append((done, total)))
    size = sum((folder / name).stat().st_size for name in FILES)
    assert max(done for done, _ in seen) == size
    assert {total for _, total in seen} == {size}


def test_the_same_folder_from_two_threads(folder: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest.of_files(folder, FILES))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4


def test_known_files_cost_microseconds(folder: Path) -> None:
    digest.of_files(folder, FILES)
    start = time.perf_counter()
    for _ in range(20):
        digest.of_files(folder, FILES)
    assert (time.perf_counter() - start) / 20 < 0.005


def test_values_do_not_depend_on_the_order_of_keys() -> None:
    assert digest.of_values({"a": 1, "b": [2]}) == digest.of_values({"b": [2], "a": 1})
    assert digest.of_values({"a": 1}) != digest.of_values({"a": "1"})
    assert digest.of_values("a", "b") != digest.of_values("ab")
