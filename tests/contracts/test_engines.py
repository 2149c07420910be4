"""Every engine in the folder keeps the contract: what it offers it does, in the precision it says, as torch does it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.contracts import EnginePlugin, Session, TorchGraph
from accel.core.errors import AccelError, IncompatibleError
from accel.core.registry import builtin_names, engine, plugin_class
from accel.core.types import PLATFORMS, PRECISIONS, GraphSpec, Plan, Recipe, TensorSpec
from tests.engines import parts
from tests.engines.parts import GraphSource, cosine, feeds_of, worst

NAMES = builtin_names("engines")
ROOT = Path(__file__).parents[2]
#: one device per platform that this machine can be expected to have
DEVICES = {"cpu": "cpu:0", "openvino": "openvino:CPU", "qualcomm": "qualcomm:0"}
#: largest relative difference from torch fp32, and lowest cosine, by precision
TOLERANCE = {"fp32": (1e-5, 0.99999), "fp16": (1e-2, 0.9999), "bf16": (6e-2, 0.998), "int8": (None, 0.97)}
#: engines whose tests take long or need a process of their own; their own test files hold them
ELSEWHERE = ("torch-compile", "qnn", "ort-web")
MODELS: dict[str, tuple[Callable[[], dict[str, TorchGraph]], str]] = {
    "bert": (parts.bert, "text-encoder"),
    "resnet": (parts.cnn, "cnn"),
    "llama": (parts.decoder, "text-decoder"),
}
SPEC = GraphSpec("model", (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 4)),))


def recipe_of(family: str) -> Recipe:
    spec = dataclasses.replace(SPEC, cache=family == "text-decoder")
    return Recipe(family, "task", {spec.name: spec}, {})


def offers(name: str, family: str = "text-encoder") -> list[Plan]:
    """Every plan of an engine on the devices of this machine."""
    chosen = engine(name)
    found = []
    for platform, device in DEVICES.items():
        if platform in chosen.platforms and chosen.missing_on(platform) is None:
            found += chosen.plans(device, recipe_of(family), PRECISIONS)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_class(name: str) -> None:
    plugin = plugin_class("engines", name)
    assert issubclass(plugin, EnginePlugin)
    assert plugin.name == name
    assert plugin.platforms
    assert set(plugin.platforms) <= set(PLATFORMS)
    assert set(plugin.on_request) <= set(plugin.platforms)
    assert plugin.__doc__
    assert engine(name).version()


def test_nothing_is_imported_to_ask_what_there_is() -> None:
    script = f"""
import sys
from accel.core.registry import engine
from accel.core.types import Recipe
for name in {NAMES!r}:
    offer = engine(name)
    offer.version(), offer.missing()
    for platform in offer.platforms:
        offer.missing_on(platform)
        offer.plans(platform + ":0", Recipe("text-encoder", "t", {{}}, {{}}), ("fp32", "fp16", "bf16", "int8"))
heavy = ("torch", "onnxruntime", "openvino", "numpy", "onnx", "nncf", "transformers", "importlib.metadata")
print([m for m in heavy if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_missing_says_what_to_install() -> None:
    script = f"""
import sys
sys.path[:] = [p for p in sys.path if "site-packages" not in p] + [{str(ROOT)!r}]
from accel.core.registry import engine
import json
print(json.dumps({{name: engine(name).missing() for name in {NAMES!r}}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    for name, reason in json.loads(done.stdout).items():
        assert reason, name
        assert "install" in reason, name
        assert "\n" not in reason


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["text-encoder", "text-decoder", "cnn", "audio"])
def test_plans(name: str, family: str) -> None:
    chosen = engine(name)
    for platform in chosen.platforms:
        device = DEVICES.get(platform, f"{platform}:0")
        plans = chosen.plans(device, recipe_of(family), PRECISIONS)
        assert plans or (platform, family) in (("qualcomm", "text-decoder"), ("webnn", "text-decoder"))
        assert len({p.key for p in plans}) == len(plans)
        for plan in plans:
            assert (plan.device, plan.platform, plan.engine) == (device, platform, name)
            assert "/" not in plan.key and ":" not in plan.key
            assert plan.threads == 0
        exact = [p.precision == "fp32" for p in plans]
        assert not any(exact) or exact[0]
        assert chosen.plans(device, recipe_of(family), []) == []
        for precision in PRECISIONS:
            assert {p.precision for p in chosen.plans(device, recipe_of(family), [precision])} <= {precision}


class Ready:
    """A model, its torch session, and an export that all engines share."""

    def __init__(self, kind: str, folder: Path) -> None:
        make, family = MODELS[kind]
        self.graphs = make()
        self.folder = folder
        self.source = GraphSource(self.graphs, folder, family)
        self.torch = engine("torch").load(
            folder, self.source.recipe, Plan("cpu:0", "cpu", "torch", "fp32"), self.source
        )

    def open(self, plan: Plan) -> Session:
        """Prepares once, loads."""
        chosen = engine(plan.engine)
        folder = self.prepared(plan)
        return chosen.load(folder, self.source.recipe, plan, self.source if chosen.needs_framework else None)

    def prepared(self, plan: Plan) -> Path:
        folder = self.folder / plan.key
        if not folder.exists():
            folder.mkdir()
            engine(plan.engine).prepare(self.source, plan, folder)
        return folder


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ready]:
    """Models by name, each loaded and exported once."""
    made: dict[str, Ready] = {}

    def get(kind: str) -> Ready:
        if kind not in made:
            made[kind] = Ready(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


HERE = [n for n in NAMES if n not in ELSEWHERE and engine(n).missing() is None]
CASES = [(kind, plan) for kind in MODELS for name in HERE for plan in offers(name, MODELS[kind][1])]


@pytest.mark.parametrize(("kind", "plan"), CASES, ids=[f"{k}-{p.key}" for k, p in CASES])
def test_agrees_with_torch(ready: Callable[[str], Ready], kind: str, plan: Plan) -> None:
    model = ready(kind)
    session = model.open(plan)
    assert session.effective_precision == plan.precision
    feeds = feeds_of(model.graphs["model"])
    expected, found = model.torch.run("model", feeds), session.run("model", feeds)
    assert list(found) == list(expected)
    largest, lowest = TOLERANCE[plan.precision]
    for name, array in found.items():
        assert array.dtype == np.float32
        assert array.shape == expected[name].shape
        assert cosine(array, expected[name]) >= lowest, name
        assert largest is None or worst(array, expected[name]) <= largest, name
    if plan.precision != "fp32":
        # something was really computed in fewer bits
        assert max(worst(found[n], expected[n]) for n in found) > 1e-5
    session.close()


def exact(names: list[str]) -> list[Plan]:
    return [plan for name in names for plan in offers(name) if plan.precision == "fp32"]


@pytest.mark.parametrize("plan", exact(HERE), ids=lambda p: p.engine)
def test_other_shapes_and_repetition(ready: Callable[[str], Ready], plan: Plan) -> None:
    model = ready("bert")
    session = model.open(plan)
    rng = np.random.default_rng(0)
    kept = []
    for batch, length in ((1, 1), (4, 33), (1, 64), (2, 7), (4, 33)):
        ids = rng.integers(1, 99, (batch, length))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        (expected,), (found,) = model.torch.run("model", feeds).values(), session.run("model", feeds).values()
        assert worst(found, expected) < 1e-5, (batch, length)
        kept.append((found, found.copy()))
    # what was handed out is not written over by later calls
    for found, copy in kept:
        np.testing.assert_array_equal(found, copy)


@pytest.mark.parametrize("plan", exact(HERE), ids=lambda p: p.engine)
def test_arrays_as_they_come(ready: Callable[[str], Ready], plan: Plan) -> None:
    """Views, read-only and column-major arrays are fine, and are left as they are."""
    model = ready("bert")
    session = model.open(plan)
    wide = np.arange(1, 61).reshape(3, 20)
    ids = wide[:, ::2]
    mask = np.asfortranarray(np.ones((3, 10), np.int64))
    mask.flags.writeable = False
    before = wide.copy()
    (found,) = session.run("model", {"input_ids": ids, "attention_mask": mask}).values()
    (expected,) = model.torch.run("model", {"input_ids": ids.copy(), "attention_mask": mask.copy()}).values()
    assert worst(found, expected) < 1e-5
    np.testing.assert_array_equal(wide, before)


@pytest.mark.parametrize("plan", exact(HERE), ids=lambda p: p.engine)
def test_wrong_inputs_are_errors_of_accel(ready: Callable[[str], Ready], plan: Plan) -> None:
    session = ready("bert").open(plan)
    ids = np.ones((2, 5), np.int64)
    with pytest.raises(AccelError) as caught:
        session.run("model", {"input_ids": ids[..., None, None], "attention_mask": ids})
    assert "\n" not in caught.value.message
    assert caught.value.hint
    good = session.run("model", {"input_ids": ids, "attention_mask": ids})
    assert np.isfinite(good["last_hidden_state"]).all()


@pytest.mark.parametrize("plan", exact(HERE), ids=lambda p: p.engine)
def test_decoding_keeps_its_cache(ready: Callable[[str], Ready], plan: Plan) -> None:
    """Step by step, with padded prompts, and two texts at once through one session, as the whole text at once."""
    model = ready("llama")
    spec = model.source.recipe.graphs["model"]
    session = model.open(plan)
    ids = np.array([[5, 6, 7, 8], [9, 8, 7, 6]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    more = np.array([[11], [12]])
    whole = np.concatenate([ids, more], axis=1)
    seen = np.concatenate([mask, np.ones_like(more)], axis=1)
    expected = model.torch.decode(spec, {}, 32).step(whole, seen)
    first, second = session.decode(spec, {}, 32), session.decode(spec, {}, 32)
    first.step(ids, mask)
    second.step(np.array([[3, 4, 5]]))
    found = first.step(more)
    assert found.shape == expected.shape
    assert worst(found, expected) < 1e-4
    alone = second.step(np.array([[7]]))
    assert worst(alone, model.torch.decode(spec, {}, 32).step(np.array([[3, 4, 5, 7]]))) < 1e-4


HOT = [plan for name in HERE if not engine(name).needs_framework for plan in offers(name)]


@pytest.mark.parametrize("plan", HOT, ids=lambda p: p.key)
def test_a_second_process_needs_no_framework(ready: Callable[[str], Ready], plan: Plan) -> None:
    model = ready("bert")
    folder = model.prepared(plan)
    np.savez(model.folder / "feeds.npz", **feeds_of(model.graphs["model"]))
    (model.folder / "recipe.json").write_text(json.dumps(model.source.recipe.as_json()))
    script = f"""
import json, sys
from pathlib import Path
from accel.core.registry import engine
from accel.core.types import Plan, Recipe
recipe = Recipe.from_json(json.loads(Path("recipe.json").read_text()))
session = engine({plan.engine!r}).load(Path({str(folder)!r}), recipe, Plan(**{plan_fields(plan)!r}), single=True)
import numpy as np
feeds = dict(np.load("feeds.npz"))
np.save("found.npy", session.run("model", feeds)["last_hidden_state"])
heavy = ("torch", "onnx", "nncf", "transformers", "huggingface_hub", "openvino_telemetry", "importlib.metadata")
print([m for m in heavy if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=model.folder, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
    (expected,) = model.torch.run("model", feeds_of(model.graphs["model"])).values()
    assert cosine(np.load(model.folder / "found.npy"), expected) >= TOLERANCE[plan.precision][1]


def plan_fields(plan: Plan) -> dict[str, Any]:
    return {
        "device": plan.device,
        "platform": plan.platform,
        "engine": plan.engine,
        "precision": plan.precision,
        "variant": plan.variant,
    }


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("plan", [p for p in HOT if p.precision == "fp32"], ids=lambda p: p.key)
def test_threads_are_kept_to(ready: Callable[[str], Ready], plan: Plan) -> None:
    """With one thread, a process cannot use more processor time than passes on the clock."""
    model = ready("bert")
    session = engine(plan.engine).load(
        model.prepared(plan), model.source.recipe, Plan(**{**plan_fields(plan), "threads": 1})
    )
    ids = np.ones((64, 64), np.int64)
    feeds = {"input_ids": ids, "attention_mask": ids}
    session.run("model", feeds)
    wall, used = time.perf_counter(), time.process_time()
    for _ in range(5):
        session.run("model", feeds)
    assert time.process_time() - used <= 1.2 * (time.perf_counter() - wall)


@pytest.mark.parametrize("plan", [p for p in HOT if p.precision == "fp32"], ids=lambda p: p.key)
def test_damaged_files_are_errors_of_accel(ready: Callable[[str], Ready], plan: Plan, tmp_path: Path) -> None:
    model = ready("bert")
    for path in model.prepared(plan).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AccelError) as caught:
        engine(plan.engine).load(tmp_path, model.source.recipe, plan)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("plan", [p for p in HOT if p.precision == "fp32"], ids=lambda p: p.key)
def test_an_operator_that_the_engine_does_not_know(plan: Plan, tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    def info(name: str) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4])

    node = helper.make_node("Teleport", ["x"], ["y"], domain="nobody.knows")
    graph = helper.make_graph([node], "g", [info("x")], [info("y")])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("nobody.knows", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
    source = GraphSource({}, tmp_path)
    source.recipe = recipe_of("text-encoder")
    folder = tmp_path / "prepared"
    folder.mkdir()
    with pytest.raises(IncompatibleError, match="Teleport") as caught:
        engine(plan.engine).prepare(source, plan, folder)
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("plan", [p for p in HOT if p.precision == "fp32"], ids=lambda p: p.key)
def test_the_bridge_costs_little(ready: Callable[[str], Ready], plan: Plan) -> None:
    """`Session.run` over the engine's own call: under 0.05 ms, taking the quickest of many of both, in turns."""
    model = ready("bert")
    session: Any = model.open(plan)
    ids = np.ones((1, 4), np.int64)
    feeds = {"input_ids": ids, "attention_mask": ids}
    if plan.engine == "onnxruntime":
        inner = session.sessions["model"]

        def bare() -> Any:
            return inner.run(None, feeds)

    else:
        request = session._compiled["model"].create_infer_request()

        def bare() -> Any:
            return request.infer([ids, ids], share_inputs=True)

    times: dict[str, list[float]] = {"bare": [], "run": []}
    for _ in range(400):
        for name, call in (("bare", bare), ("run", lambda: session.run("model", feeds))):
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    assert min(times["run"]) - min(times["bare"]) < 0.05e-3


def test_torch_refuses_a_model_that_is_onnx_only(tmp_path: Path) -> None:
    plan = Plan("cpu:0", "cpu", "torch", "fp32")
    for name in ("torch", "torch-compile"):
        with pytest.raises(IncompatibleError, match="ONNX only"):
            engine(name).prepare(GraphSource({}, tmp_path), plan, tmp_path)
