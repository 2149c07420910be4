from __future__ import annotations

from pathlib import Path

import pytest

from accel.core.content.cid import Cid
from tests.core.content.helpers import Blocks, all_blocks, model


@pytest.fixture
def content(tmp_path: Path) -> tuple[Path, Cid, Blocks]:
    """A model's folder, its root and all its blocks, none of them in the store."""
    source = model(tmp_path / "source", weights=4_500_000)
    root, blocks = all_blocks(source)
    return source, root, blocks
