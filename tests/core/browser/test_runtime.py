"""onnxruntime-web comes by npm once, is checked, and its absence says what to do."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from accel.core.browser import runtime
from accel.core.errors import TransferError, UnavailableError
from accel.core.registry import engine
from tests.browsers import share_runtime


def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\necho run >>{tmp_path}/calls\n{text}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path / "calls"


def test_without_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError) as caught:
        runtime.obtain()
    assert "Node.js" in caught.value.hint
    assert "npm" in (engine("ort-web").missing() or "")


def test_a_registry_that_is_not_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_npm(tmp_path, monkeypatch, "echo 'network down' >&2; exit 1")
    with pytest.raises(TransferError, match="network down"):
        runtime.obtain()
    assert not runtime.installed()
    assert not list(runtime.folder().parent.glob(".npm-*"))


def test_another_package_under_the_same_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "evil.tgz"
    with tarfile.open(package, "w:gz") as archive:
        archive.add(__file__, "package/dist/ort.wasm.min.mjs")
    fake_npm(tmp_path, monkeypatch, f'for last; do :; done; cp {package} "$last/onnxruntime-web-1.30.0.tgz"')
    with pytest.raises(TransferError, match="is not onnxruntime-web"):
        runtime.obtain()
    assert not runtime.installed()


def test_what_is_there_is_used_without_npm(
    isolated_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    share_runtime(isolated_home)
    calls = fake_npm(tmp_path, monkeypatch, "exit 1")
    folder = runtime.obtain()
    assert not calls.exists()
    assert all((folder / name).stat().st_size > 1000 for name in runtime.FILES)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "package.tgz").write_bytes(b"something")
    with pytest.raises(TransferError, match="sha512"):
        runtime.check_integrity(tmp_path / "package.tgz")
