"""A tiny real model, and engines that go wrong, for the tests of `accel bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.bench import parts


@pytest.fixture(scope="session")
def evil_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed package of evil engines; their first three runs go well."""
    return parts.install(tmp_path_factory.mktemp("evil"), after=3)


@pytest.fixture
def evil(evil_package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The evil engines, as installed for this process and those it starts."""
    monkeypatch.syspath_prepend(str(evil_package))
    return evil_package


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare ONNX model of some 30 microseconds."""
    return parts.onnx_model(tmp_path_factory.mktemp("tiny") / "tiny.onnx")
