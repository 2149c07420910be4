"""Where what is fetched goes, and what part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.core.content import getting, pinning
from accel.core.content.cid import Cid, of
from accel.core.content.getting import Wish
from accel.core.errors import IncompatibleError, InputError, TransferError
from tests.core.content.helpers import OFFLINE, Blocks, all_blocks, fetch, near, random_file, tree
from tests.gateway import Gateway

MIB = 1 << 20


class TestOutput:
    def test_a_file(self, tmp_path: Path) -> None:
        source = random_file(tmp_path / "file", 3 * MIB)
        root, blocks = all_blocks(source)
        with Gateway(blocks) as gateway:
            done = fetch(root, gateway, output=tmp_path / "deep" / "er" / "copy.bin")
        assert done.path.read_bytes() == source.read_bytes()

    def test_twice_is_no_harm(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        source, root, blocks = content
        with Gateway(blocks) as gateway:
            fetch(root, gateway, output=tmp_path / "out")
            done = fetch(root, gateway, output=tmp_path / "out")
        assert done.level == "local"
        assert tree(tmp_path / "out") == tree(source)

    def test_other_files_stay(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        _, root, blocks = content
        out = tmp_path / "out"
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        with Gateway(blocks) as gateway:
            fetch(root, gateway, output=out)
            (out / "config.json").write_text("changed")
            with pytest.raises(InputError, match=r"config\.json is there already"):
                fetch(root, gateway, output=out)
        assert (out / "mine.txt").read_text() == "mine"
        assert (out / "config.json").read_text() == "changed"

    def test_nothing_is_written_through_a_link(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        _, root, blocks = content
        out, outside = tmp_path / "out", tmp_path / "outside"
        out.mkdir()
        outside.mkdir()
        (out / "tokenizer").symlink_to(outside)
        with Gateway(blocks) as gateway, pytest.raises((InputError, TransferError)):
            fetch(root, gateway, output=out)
        assert list(outside.iterdir()) == []

    def test_a_part(self, content: tuple[Path, Cid, Blocks], tmp_path: Path) -> None:
        source, root, blocks = content
        with Gateway(blocks) as gateway:
            done = fetch(root, gateway, only=("*.json",), output=tmp_path / "out")
            assert done.size_bytes == (source / "config.json").stat().st_size
            leaves = {str(cid) for cid, data in blocks if len(data) > 100_000}
            assert not leaves & set(gateway.asked)
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["alias.json", "config.json"]

    def test_a_car(self, content: tuple[Path, Cid, Blocks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source, root, blocks = content
        with Gateway(blocks) as gateway:
            fetch(root, gateway, car=True, output=tmp_path / "model.car")
        monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "other"))
        pinning.import_car(tmp_path / "model.car", OFFLINE)
        assert tree(fetch(root).path) == tree(source)

    def test_too_large(self, content: tuple[Path, Cid, Blocks]) -> None:
        _, root, blocks = content
        with Gateway(blocks) as gateway:
            with pytest.raises(IncompatibleError, match="--max-size"):
                fetch(root, gateway, max_size=1_000_000)
            assert sum(gateway.asked.values()) <= 6

    def test_a_small_file_that_claims_to_be_smaller(self, tmp_path: Path) -> None:
        from accel.core.content.cid import DAG_PB
        from accel.core.content.dagpb import Link, encode
        from accel.core.content.unixfs import FOLDER_DATA

        big = random_file(tmp_path / "big", MIB).read_bytes()
        block = encode([Link(of(big), b"big", 10)], FOLDER_DATA)
        made = [(of(big), big), (of(block, DAG_PB), block)]
        with Gateway(made) as gateway, pytest.raises(IncompatibleError, match="--max-size"):
            fetch(of(block, DAG_PB), gateway, max_size=1000)


def test_a_path_below_a_cid(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    with Gateway(blocks) as gateway:
        wish = Wish(f"ipfs://{root}/tokenizer/vocab.txt")
        done = getting.fetch(wish, near(gateway))
        assert done.path.read_bytes() == (source / "tokenizer" / "vocab.txt").read_bytes()
        with pytest.raises(InputError, match="no 'vocab'"):
            getting.fetch(Wish(f"{root}/tokenizer/vocab"), near(gateway))


def test_content_larger_than_the_disk_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    from accel.core.content.cid import DAG_PB
    from accel.core.content.dagpb import Link, encode
    from accel.core.content.unixfs import file_data

    leaf = b"x" * MIB
    count = 1000
    made = [(of(leaf), leaf)]
    link, size = Link(of(leaf), b"", MIB), MIB
    for _ in range(2):
        block = encode([link] * count, file_data([size] * count))
        made.append((of(block, DAG_PB), block))
        link, size = Link(of(block, DAG_PB), b"", size * count), size * count
    with Gateway(made) as gateway, pytest.raises(IncompatibleError, match="free space of the disk"):
        fetch(made[-1][0], gateway, output=tmp_path / "out")
    assert str(of(leaf)) not in gateway.asked
    assert not (tmp_path / "out").exists()
