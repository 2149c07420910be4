"""Fetching: levels, names, several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.core.content import getting, materialise, verify
from accel.core.content.cid import Cid
from accel.core.content.collect import collect
from accel.core.content.getting import Fetched, Wish
from accel.core.content.settings import Settings
from accel.core.errors import AccelError, InputError, TransferError, UnavailableError
from tests.core.content.helpers import OFFLINE, Blocks, fetch, near, pinned, tree
from tests.gateway import Gateway

MIB = 1 << 20


def test_from_a_gateway(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    with Gateway(blocks) as gateway:
        done = fetch(root, gateway)
        assert tree(done.path) == tree(source)
        assert done.level == "gateway"
        assert done.dropped == []
        assert sum(s["blocks"] for s in done.sources) == len({cid for cid, _ in blocks})
        asked = gateway.requests
        again = fetch(root, gateway)
        assert again.level == "local"
        assert gateway.requests == asked
    assert verify.verify(OFFLINE).sound


def test_collecting_while_fetching(content: tuple[Path, Cid, Blocks]) -> None:
    from accel.core.content.blockstore import Store

    _, root, blocks = content
    stop = threading.Event()
    errors: list[BaseException] = []

    def gather() -> None:
        while not stop.wait(0.01):
            try:
                with Store() as store:
                    collect(store)
            except BaseException as error:
                errors.append(error)
                return

    with Gateway(blocks, delay=0.05) as gateway:
        thread = threading.Thread(target=gather)
        thread.start()
        try:
            done = fetch(root, gateway)
            assert set(gateway.asked.values()) == {1}
        finally:
            stop.set()
            thread.join()
    assert not errors
    assert done.level == "gateway"


def test_two_that_fetch_the_same_do_not_get_it_twice(content: tuple[Path, Cid, Blocks]) -> None:
    source, root, blocks = content
    results: list[Fetched] = []
    with Gateway(blocks, delay=0.05) as gateway:
        threads = [threading.Thread(target=lambda: results.append(fetch(root, gateway))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(gateway.asked.values()) == {1}
    assert [tree(done.path) == tree(source) for done in results] == [True, True]


def test_a_model_by_its_cid(content: tuple[Path, Cid, Blocks], monkeypatch: pytest.MonkeyPatch) -> None:
    source, root, blocks = content
    with Gateway(blocks) as gateway:
        monkeypatch.setenv("IPFS_ACCELERATE_IPFS_GATEWAY", gateway.url)
        monkeypatch.setenv("IPFS_ACCELERATE_IPFS_LOCAL_NODE", "null")
        assert tree(materialise(str(root))) == tree(source)
    assert tree(materialise(str(root), offline=True)) == tree(source)


def test_offline_asks_nobody(content: tuple[Path, Cid, Blocks]) -> None:
    _, root, blocks = content
    with Gateway(blocks) as gateway:
        alone = Settings((gateway.url,), None, 5.0, 4, offline=True)
        with pytest.raises(TransferError, match="not in the local store"):
            getting.fetch(Wish(str(root)), alone)
        assert gateway.requests == 0


def test_names(content: tuple[Path, Cid, Blocks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root, _ = content
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="neither a content id nor a name"):
        getting.find("bert-base")
    pinned(source)
    assert getting.find(str(source))[0] == root
    with pytest.raises(UnavailableError, match="--frozen"):
        getting.find(str(source), frozen=True)


@pytest.mark.parametrize("make", [lambda: 0, lambda: -1], ids=["again", "never"])
def test_progress_adds_up(content: tuple[Path, Cid, Blocks], make: Callable[[], int]) -> None:
    _, root, blocks = content
    totals: list[int] = []
    done: list[float] = []
    with Gateway(blocks) as gateway:
        result = getting.fetch(Wish(str(root)), near(gateway), totals.append, done.append)
    assert totals == [result.size_bytes]
    assert sum(done) >= result.size_bytes


def test_errors_know_their_exit_status(content: tuple[Path, Cid, Blocks]) -> None:
    with pytest.raises(AccelError) as caught:
        getting.fetch(Wish(str(content[1])), OFFLINE)
    assert caught.value.exit_code == 5
