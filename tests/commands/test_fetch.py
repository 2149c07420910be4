"""`accel fetch` as a user meets it: whole processes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from accel.core.content.cid import of
from tests.commands.test_pin import accel, answer
from tests.core.content.helpers import all_blocks, model, tree
from tests.gateway import Gateway


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return model(tmp_path / "model")


def test_it_says_which_level_served(source: Path) -> None:
    root, blocks = all_blocks(source)
    with Gateway(blocks) as gateway:
        done = accel("fetch", str(root), IPFS_ACCELERATE_IPFS_GATEWAY=gateway.url)
        assert "from gateways" in done.stderr
        assert gateway.url in done.stderr
    path = Path(done.stdout.strip())
    assert path.is_relative_to(os.environ["IPFS_ACCELERATE_HOME"])
    assert tree(path) == tree(source)
    assert "from the local store" in accel("fetch", str(root)).stderr


def test_json_has_every_key(source: Path) -> None:
    root, blocks = all_blocks(source)
    with Gateway(blocks) as gateway:
        data = answer("fetch", f"ipfs://{root}", IPFS_ACCELERATE_IPFS_GATEWAY=gateway.url)
    assert data["schema"] == "accel.fetch/1"
    assert (data["cid"], data["level"], data["files"]) == (str(root), "gateway", 4)
    assert {"path", "size_bytes", "sources", "dropped", "repaired", "notes"} <= set(data)


def test_a_liar_is_named(source: Path) -> None:
    root, blocks = all_blocks(source)
    with Gateway(blocks, "lie", after=1) as bad, Gateway(blocks, delay=0.02) as good:
        urls = f"{bad.url},{good.url}"
        done = accel("fetch", "-q", str(root), IPFS_ACCELERATE_IPFS_GATEWAY=urls)
    assert f"warning: {bad.url} was dropped: it sent wrong bytes" in done.stderr


def test_a_part_to_a_place(source: Path, tmp_path: Path) -> None:
    root, blocks = all_blocks(source)
    with Gateway(blocks) as gateway:
        accel(
            *("fetch", str(root), "--only", "config.json, *.md", "-o", str(tmp_path / "out")),
            IPFS_ACCELERATE_IPFS_GATEWAY=gateway.url,
        )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "config.json"]


def test_a_name_of_the_lock_file(source: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    accel("pin", str(source), "--lock", cwd=project)
    text = (project / "accel.lock").read_text().replace(str(source), "my-model")
    (project / "accel.lock").write_text(text)
    shutil.rmtree(source)
    assert answer("fetch", "my-model", "--frozen", cwd=project)["level"] == "local"
    done = accel("fetch", "other", "--frozen", cwd=project, status=3)
    assert "does not name 'other'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["fetch", "nonsense"], 2, "neither a content id nor a name"),
        (["fetch", str(of(b"nobody has this")), "--offline"], 5, "not in the local store"),
        (["fetch", str(of(b"nobody has this"))], 5, "no source has the block"),
        (["fetch", str(of(b"x")), "--max-size", "big"], 2, "not a size"),
        (["fetch", str(of(b"x")), "--only", " , "], 2, "no pattern"),
        (["fetch", "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"], 4, "dag-cbor"),
        (["fetch", str(of(b"x")), "--set", "ipfs.gateway=http://example.org"], 2, "https"),
    ],
)
def test_mistakes(arguments: list[str], status: int, word: str) -> None:
    done = accel(*arguments, status=status)
    assert word in done.stderr
    assert done.stdout == ""


def test_errors_as_json() -> None:
    done = accel("fetch", str(of(b"nobody has this")), "--offline", "--json", status=5)
    error = json.loads(done.stderr)
    assert error["error"] == "transfer"
    assert error["exit_code"] == 5


def test_a_time_limit(source: Path) -> None:
    root, blocks = all_blocks(source)
    with Gateway(blocks, "stall") as gateway:
        accel("fetch", str(root), "--timeout", "2", status=124, IPFS_ACCELERATE_IPFS_GATEWAY=gateway.url)


def test_the_timeout_of_the_configuration(source: Path) -> None:
    root, blocks = all_blocks(source)
    with Gateway(blocks, "stall") as gateway:
        variables = {"IPFS_ACCELERATE_IPFS_GATEWAY": gateway.url, "IPFS_ACCELERATE_IPFS_TIMEOUT": "500ms"}
        done = accel("fetch", str(root), status=5, **variables)
    assert "silent for 0.5 s" in done.stderr or "bytes per second" in done.stderr or "in time" in done.stderr
