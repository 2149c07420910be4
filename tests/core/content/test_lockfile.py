from __future__ import annotations

from pathlib import Path

import pytest

from accel.core.content import getting, lockfile, pinning
from accel.core.content.lockfile import Locked
from accel.core.errors import InputError, TransferError, UnavailableError
from tests.core.content.helpers import OFFLINE, model

CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
OTHER = "bafkreieub662kk3up7lguix5t3gozylsy3cxxfitx5htmw2bbg2dux7lw4"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".git").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_what_is_written_is_read(project: Path) -> None:
    odd = Locked('a "name"\\ with\nünïcødé\x7f', CID, 5, revision="main")
    plain = Locked("bert-base", OTHER, 440_000_000, "86b5e09", "apache-2.0")
    assert lockfile.write(odd) == project / "accel.lock"
    lockfile.write(plain)
    assert lockfile.read(project / "accel.lock") == {odd.name: odd, plain.name: plain}
    assert (project / "accel.lock").stat().st_mode & 0o777 == 0o644


def test_an_entry_is_replaced(project: Path) -> None:
    lockfile.write(Locked("m", CID, 1))
    lockfile.write(Locked("m", OTHER, 2))
    assert lockfile.entry("m") == Locked("m", OTHER, 2)


def test_it_is_found_from_a_folder_below(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lockfile.write(Locked("m", CID, 1))
    (project / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(project / "a" / "b")
    assert lockfile.entry("m") is not None
    lockfile.write(Locked("n", OTHER, 1))
    assert set(lockfile.read(project / "accel.lock")) == {"m", "n"}


def test_another_repository_does_not_count(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lockfile.write(Locked("m", CID, 1))
    inner = project / "inner"
    (inner / ".git").mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert lockfile.entry("m") is None


def test_names_with_a_revision() -> None:
    lockfile.write(Locked("m", CID, 1, revision="v1"))
    assert lockfile.entry("m@v1") is not None
    assert lockfile.entry("m@v2") is None
    assert lockfile.entry("m") is not None


def test_frozen_allows_only_what_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"there is no accel\.lock"):
        lockfile.entry("m", frozen=True)
    lockfile.write(Locked("m", CID, 1))
    assert lockfile.entry("m", frozen=True) is not None
    with pytest.raises(UnavailableError, match="does not name 'n'"):
        lockfile.entry("n", frozen=True)
    lockfile.require(CID)
    lockfile.require(f"ipfs://{CID}/config.json")
    with pytest.raises(UnavailableError, match=r"no accel\.lock here names"):
        lockfile.require(OTHER)


@pytest.mark.parametrize(
    "text",
    [
        "not toml [",
        "version = 2",
        "",
        "version = 1\nmodel = 5",
        'version = 1\n[[model]]\nname = "m"',
        f'version = 1\n[[model]]\nname = "m"\ncid = "{CID}"\nsize_bytes = 1\nsurprise = 2',
        'version = 1\n[[model]]\nname = "m"\ncid = "nonsense"\nsize_bytes = 1',
        f'version = 1\n[[model]]\nname = "m"\ncid = "{CID}"\nsize_bytes = 1\n' * 2,
    ],
)
def test_a_damaged_file_is_an_error(project: Path, text: str) -> None:
    (project / "accel.lock").write_text(text)
    with pytest.raises(InputError, match=r"accel\.lock cannot be used"):
        lockfile.entry("m")
    with pytest.raises(InputError):
        lockfile.write(Locked("n", CID, 1))


def test_pinning_writes_it_and_fetching_reads_it(tmp_path: Path, project: Path) -> None:
    source = model(tmp_path / "model")
    done = pinning.pin(pinning.Request(str(source), lock=True), OFFLINE)
    assert done.lock_file == project / "accel.lock"
    locked = lockfile.entry(str(source))
    assert locked is not None
    assert (locked.cid, locked.size_bytes, locked.licence) == (done.pin.cid, done.pin.size_bytes, "apache-2.0")
    assert getting.fetch(getting.Wish(str(source), frozen=True), OFFLINE).cid == done.pin.cid
    assert getting.fetch(getting.Wish(done.pin.cid, frozen=True), OFFLINE).cid == done.pin.cid
    with pytest.raises(UnavailableError):
        getting.fetch(getting.Wish(CID, frozen=True), OFFLINE)


def test_a_path_means_the_same_from_every_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = project / "models"
    below.mkdir()
    lockfile.write(Locked("models/bert", CID, 1), is_path=True)
    assert set(lockfile.read(project / "accel.lock")) == {"./models/bert"}
    for name in ("models/bert", "./models/bert", "models//bert/", str(project / "models" / "bert")):
        assert lockfile.entry(name) is not None, name
    monkeypatch.chdir(below)
    for name in ("bert", "./bert", "../models/bert"):
        assert lockfile.entry(name) is not None, name
    assert lockfile.entry("models/bert") is None
    lockfile.write(Locked("../../elsewhere", OTHER, 1), is_path=True)
    assert lockfile.entry(str(project.parent / "elsewhere")) is not None


def test_a_branch_that_was_asked_for(project: Path) -> None:
    lockfile.write(Locked("org/m", CID, 1, revision="86b5e09", requested="main"))
    assert lockfile.entry("org/m") == lockfile.entry("org/m@main") == lockfile.entry("org/m@86b5e09") is not None
    assert lockfile.entry("org/m@other") is None


def test_another_size_than_the_content_has(tmp_path: Path, project: Path) -> None:
    source = model(tmp_path / "model")
    done = pinning.pin(pinning.Request(str(source), lock=True), OFFLINE)
    path = project / "accel.lock"
    path.write_text(path.read_text().replace(str(done.pin.size_bytes), "12345"))
    with pytest.raises(TransferError, match="12,345 bytes"):
        getting.fetch(getting.Wish(str(source)), OFFLINE)
