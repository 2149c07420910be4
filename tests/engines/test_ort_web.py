"""onnxruntime-web in real browsers: torch's answer, the truth about where it was computed, and what goes wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.browser import pool
from accel.core.contracts import Session, TorchGraph
from accel.core.errors import AccelError, IncompatibleError, InputError, OutOfMemoryError, UnavailableError
from accel.core.registry import engine
from accel.core.types import GraphSpec, Plan, Recipe, TensorSpec
from tests.browsers import SHELL, browser, main_process, share_runtime
from tests.engines import parts
from tests.engines.parts import GraphSource, cosine, feeds_of, worst

#: device, and the browser that has it
PLACES = [("cpu:0", ""), ("webgpu:chromium", "chromium"), ("webgpu:firefox", "firefox"), ("webnn:chromium", "shell")]
IDS = ["wasm", "webgpu-chromium", "webgpu-firefox", "webnn"]
MODELS: dict[str, tuple[Callable[[], dict[str, TorchGraph]], str]] = {
    "bert": (parts.bert, "text-encoder"),
    "resnet": (parts.cnn, "cnn"),
    "llama": (parts.decoder, "text-decoder"),
}


@pytest.fixture(autouse=True)
def home(isolated_home: Path) -> Path:
    share_runtime(isolated_home)
    return isolated_home


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], GraphSource]]:
    """Models by name, each loaded and exported once; browsers end with the module."""
    made: dict[str, GraphSource] = {}

    def get(kind: str) -> GraphSource:
        if kind not in made:
            make, family = MODELS[kind]
            made[kind] = GraphSource(make(), tmp_path_factory.mktemp(kind), family)
        return made[kind]

    yield get
    pool.close()


def plan_for(device: str) -> Plan:
    return Plan(device, device.partition(":")[0], "ort-web", "fp32")


def choose(monkeypatch: pytest.MonkeyPatch, device: str, kind: str) -> Plan:
    """The plan for a device; the shell has to be named, since it is not installed."""
    if kind:
        browser(kind)
    if kind == "shell":
        monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_BROWSER", str(SHELL))
    return plan_for(device)


def opened(source: GraphSource, plan: Plan, name: str = "") -> Any:
    folder = source.folder / f"{plan.key}{name}"
    if not folder.exists():
        folder.mkdir()
        engine("ort-web").prepare(source, plan, folder)
    return engine("ort-web").load(folder, source.recipe, plan)


def torch_session(source: GraphSource) -> Session:
    return engine("torch").load(source.folder, source.recipe, Plan("cpu:0", "cpu", "torch", "fp32"), source)


@pytest.mark.parametrize(("device", "kind"), PLACES, ids=IDS)
@pytest.mark.parametrize("model", ["bert", "resnet"])
def test_agrees_with_torch(models: Any, monkeypatch: pytest.MonkeyPatch, model: str, device: str, kind: str) -> None:
    source = models(model)
    session = opened(source, choose(monkeypatch, device, kind))
    feeds = feeds_of(source.graphs["model"])
    expected, found = torch_session(source).run("model", feeds), session.run("model", feeds)
    assert list(found) == list(expected)
    for name, array in found.items():
        assert array.dtype == np.float32
        assert np.abs(array - expected[name]).max() <= 1e-4, name
        assert cosine(array, expected[name]) >= 0.9999, name
    facts = session.execution()
    provider = {"cpu": "wasm"}.get(device.partition(":")[0], device.partition(":")[0])
    assert facts["nodes"][provider] > 0
    assert facts["fallback"] == ""
    assert facts["browser"] == {"shell": "chromium", "": facts["browser"]}.get(kind, kind)
    assert str(facts["nodes"][provider]) in facts["summary"]
    if provider == "webgpu" and not Path("/dev/dri").exists():
        assert facts["adapter"]["software"]
        assert "software adapter" in facts["summary"]
    if provider == "webnn":
        # every node, with the shapes that it was told; and on the processor, whatever was asked for
        assert set(facts["nodes"]) == {"webnn"}
        assert facts["webnn_devices"] == ["cpu"]
    session.close()


@pytest.mark.parametrize(("device", "kind"), [PLACES[0], PLACES[1], PLACES[3]], ids=[IDS[0], IDS[1], IDS[3]])
def test_other_shapes_and_repetition(models: Any, monkeypatch: pytest.MonkeyPatch, device: str, kind: str) -> None:
    source = models("bert")
    session, torch = opened(source, choose(monkeypatch, device, kind)), torch_session(source)
    rng = np.random.default_rng(0)
    kept = []
    shapes = ((1, 1), (4, 33), (1, 64), (2, 7), (4, 33), (3, 17))
    # shaders of a software renderer take seconds
    for batch, length in shapes[:2] if kind == "chromium" else shapes:
        ids = rng.integers(1, 99, (batch, length))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        (expected,), (found,) = torch.run("model", feeds).values(), session.run("model", feeds).values()
        assert found.shape == expected.shape
        assert worst(found, expected) < 1e-5, (batch, length)
        kept.append((found, found.copy()))
    for found, copy in kept:
        np.testing.assert_array_equal(found, copy)


@pytest.mark.parametrize(("device", "kind"), PLACES, ids=IDS)
def test_decoding_keeps_its_cache_in_the_page(
    models: Any, monkeypatch: pytest.MonkeyPatch, device: str, kind: str
) -> None:
    source = models("llama")
    spec = source.recipe.graphs["model"]
    session, torch = opened(source, choose(monkeypatch, device, kind)), torch_session(source)
    ids, mask = np.array([[5, 6, 7, 8], [9, 8, 7, 6]]), np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    more = np.array([[11], [12]])
    expected = torch.decode(spec, {}, 32).step(
        np.concatenate([ids, more], axis=1), np.concatenate([mask, np.ones_like(more)], axis=1)
    )
    first, second = session.decode(spec, {}, 32), session.decode(spec, {}, 32)
    first.step(ids, mask)
    second.step(np.array([[3, 4, 5]]))
    assert worst(first.step(more), expected) < 1e-4
    alone = second.step(np.array([[7]]))
    assert worst(alone, torch.decode(spec, {}, 32).step(np.array([[3, 4, 5, 7]]))) < 1e-4
    del first
    assert session.dropped


def test_decoding_goes_on_after_a_crash_once(models: Any) -> None:
    source = models("llama")
    spec = source.recipe.graphs["model"]
    session, torch = opened(source, plan_for("cpu:0")), torch_session(source)
    decoding = session.decode(spec, {}, 32)
    decoding.step(np.array([[3, 4, 5]]))
    kill(session)
    found = decoding.step(np.array([[7]]))
    assert worst(found, torch.decode(spec, {}, 32).step(np.array([[3, 4, 5, 7]]))) < 1e-4
    kill(session)
    with pytest.raises(UnavailableError):
        decoding.step(np.array([[8]]))


def test_webnn_takes_a_cache_only_where_empty_places_are_masked(models: Any) -> None:
    unmasked = GraphSpec("model", (TensorSpec("input_ids", "int64", ("batch", "length")),), (), cache=True)
    recipe = Recipe("text-decoder", "t", {"model": unmasked}, {})
    assert engine("ort-web").plans("webnn:chromium", recipe, ["fp32"]) == []
    assert engine("ort-web").plans("webgpu:chromium", recipe, ["fp32"])
    assert engine("ort-web").plans("webnn:chromium", models("llama").recipe, ["fp32"])


def test_a_cache_of_fixed_size_that_is_full(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models("llama")
    spec = source.recipe.graphs["model"]
    session, torch = opened(source, choose(monkeypatch, *PLACES[3])), torch_session(source)
    decoding = session.decode(spec, {}, 16)
    ids = np.arange(1, 16)[None]
    decoding.step(ids)
    more = np.array([[7]])
    expected = torch.decode(spec, {}, 16).step(np.concatenate([ids, more], axis=1))
    assert worst(decoding.step(more), expected) < 1e-4
    with pytest.raises(InputError, match="more tokens than the 16"):
        decoding.step(more)
    # where it ran
    assert set(session.execution()["nodes"]) <= {"webnn", "wasm"}
    assert session.execution()["fallback"] == ""


def kill(session: Any) -> None:
    """Kills the browser that a session's page is in; its page may answer one more call before it follows."""
    os.kill(main_process(session._page.pid), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while session._page._launched.running and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_killed_browser_is_replaced_once(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models("bert")
    session = opened(source, plan_for("cpu:0"))
    feeds = feeds_of(source.graphs["model"])
    (before,) = session.run("model", feeds).values()
    pid = session._page.pid
    kill(session)
    (after,) = session.run("model", feeds).values()
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert session._page.pid != pid
    # one that cannot be started again is an error that says so
    kill(session)
    monkeypatch.setattr(pool, "Page", lambda *_: (_ for _ in ()).throw(session_lost()))
    with pytest.raises(UnavailableError, match="no use") as caught:
        session.run("model", feeds)
    assert caught.value.hint


def session_lost() -> Exception:
    from accel.core.browser.control import BrowserLost

    return BrowserLost("it does not start")


def test_sessions_share_a_page_and_leave_it_warm(models: Any) -> None:
    first = opened(models("bert"), plan_for("cpu:0"))
    second = opened(models("resnet"), plan_for("cpu:0"))
    assert first._page is second._page
    page = first._page
    first.close()
    (found,) = second.run("model", feeds_of(models("resnet").graphs["model"])).values()
    assert np.isfinite(found).all()
    second.close()
    assert opened(models("bert"), plan_for("cpu:0"))._page is page


@pytest.mark.parametrize(("device", "kind"), [PLACES[0], PLACES[3]], ids=[IDS[0], IDS[3]])
def test_wrong_inputs_are_errors_of_accel(models: Any, monkeypatch: pytest.MonkeyPatch, device: str, kind: str) -> None:
    source = models("bert")
    session = opened(source, choose(monkeypatch, device, kind))
    ids = np.ones((2, 5), np.int64)
    for wrong in (ids[..., None, None], np.zeros((2, 0), np.int64)):
        with pytest.raises(AccelError) as caught:
            session.run("model", {"input_ids": wrong, "attention_mask": ids})
        assert "\n" not in caught.value.message
        assert caught.value.hint
    assert np.isfinite(session.run("model", {"input_ids": ids, "attention_mask": ids})["last_hidden_state"]).all()


def test_memory_that_runs_out_in_the_page(tmp_path: Path) -> None:
    """A tensor of 6 GB does not fit into WebAssembly; the next call finds a page that works."""
    import onnx
    from onnx import helper, numpy_helper

    info = helper.make_tensor_value_info
    size = numpy_helper.from_array(np.array([1], np.int64), "one")
    nodes = [
        helper.make_node("Concat", ["n", "one"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["y"], keepdims=0),
    ]
    inputs, outputs = [info("n", onnx.TensorProto.INT64, [1])], [info("y", onnx.TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    source = GraphSource({}, tmp_path)
    spec = GraphSpec("model", (TensorSpec("n", "int64", (1,)),), (TensorSpec("y", "float32", ()),))
    source.recipe = Recipe("text-encoder", "t", {"model": spec}, {})
    session = opened(source, plan_for("cpu:0"))
    with pytest.raises(OutOfMemoryError):
        session.run("model", {"n": np.array([1_500_000_000])})
    assert session.run("model", {"n": np.array([1000])})["y"] == 0
    pool.close()


def test_an_operator_that_nobody_knows(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    node = helper.make_node("Teleport", ["x"], ["y"], domain="nobody.knows")
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("nobody.knows", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
    source = GraphSource({}, tmp_path)
    specs = [TensorSpec(name, "float32", ("batch", 4)) for name in "xy"]
    source.recipe = Recipe("text-encoder", "t", {"model": GraphSpec("model", (specs[0],), (specs[1],))}, {})
    with pytest.raises(IncompatibleError, match="Teleport"):
        opened(source, plan_for("webgpu:chromium"))


def test_damaged_files(models: Any, tmp_path: Path) -> None:
    source, plan = models("bert"), plan_for("cpu:0")
    opened(source, plan).close()
    for path in (source.folder / plan.key).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IncompatibleError):
        engine("ort-web").load(tmp_path, source.recipe, plan)
    (tmp_path / "graphs.json").write_bytes((source.folder / plan.key / "graphs.json").read_bytes())
    with pytest.raises(IncompatibleError) as caught:
        engine("ort-web").load(tmp_path, source.recipe, plan)
    assert "\n" not in caught.value.message


def test_a_browser_that_is_no_longer_here(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models("bert")
    opened(source, plan_for("webgpu:chromium")).close()
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_BROWSER", "/nowhere/chromium")
    with pytest.raises(UnavailableError, match="no longer here"):
        opened(source, plan_for("webgpu:chromium"))
    assert "no browser is here" in (engine("ort-web").missing_on("webgpu") or "")


def test_a_browser_without_webnn_says_so(models: Any) -> None:
    browser("chromium")
    session = opened(models("bert"), plan_for("webnn:chromium"))
    with pytest.raises(UnavailableError, match="no WebNN"):
        session.run("model", feeds_of(models("bert").graphs["model"]))
