"""Small content for tests, and the blocks it is made of."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from accel.core.content import getting, importer, pinning
from accel.core.content.blockstore import Store
from accel.core.content.cid import Cid, parse
from accel.core.content.settings import Settings
from accel.core.content.transfer import blocks_of
from accel.core.content.unixfs import MODERN, Profile
from tests.gateway import Gateway

OFFLINE = Settings(offline=True)
Blocks = list[tuple[Cid, bytes]]


def random_file(path: Path, size: int, seed: int = 1) -> Path:
    """A file of random bytes, the same for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def model(folder: Path, weights: int = 3_500_000, seed: int = 1) -> Path:
    """A folder like a model's: a configuration, weights of several blocks, a folder below, a link."""
    random_file(folder / "model.safetensors", weights, seed)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    random_file(folder / "tokenizer" / "vocab.txt", 5000, seed + 1)
    (folder / "alias.json").symlink_to("config.json")
    return folder


def pinned(path: Path, profile: Profile = MODERN, **settings: Any) -> Cid:
    """Pins a path in the local store."""
    request = pinning.Request(str(path), profile, **settings)
    return parse(pinning.pin(request, OFFLINE).pin.cid)


def all_blocks(path: Path, profile: Profile = MODERN) -> tuple[Cid, list[tuple[Cid, bytes]]]:
    """The root and all blocks of a path, made in a store of its own that is gone afterwards."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store, store.writer() as writer:
        root = importer.Importer(profile, writer).run(importer.from_path(path)).cid
        writer.commit()
        return root, list(blocks_of(store, [root]))


def tree(folder: Path) -> dict[str, Any]:
    """Everything in a folder: contents of files, targets of links, None for folders."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = path.readlink() if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flips one bit of a file, whatever its rights are."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ 1 << bit]))
    path.chmod(mode)


def near(*gateways: Gateway, timeout: float = 5.0, parallel: int = 4) -> Settings:
    """Settings that ask these gateways alone."""
    return Settings(tuple(g.url for g in gateways), None, timeout, parallel)


def fetch(cid: Cid, *gateways: Gateway, timeout: float = 5.0, **wish: Any) -> getting.Fetched:
    """Fetches from these gateways alone; `wish` holds fields of `getting.Wish`."""
    return getting.fetch(getting.Wish(str(cid), **wish), near(*gateways, timeout=timeout))
