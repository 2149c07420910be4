"""torch: precision, shared weights, batches in pieces, memory that runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel.core.contracts import TorchGraph
from accel.core.errors import IncompatibleError, OutOfMemoryError, UnavailableError
from accel.core.registry import engine
from accel.core.types import GraphSpec, Plan, TensorSpec
from accel.engines._torch_session import PIECES, TorchSession, explained, join, open_modules, split, worth_pieces
from tests.engines.parts import GraphSource, bert, feeds_of, one

FP32 = Plan("cpu:0", "cpu", "torch", "fp32")


def session(graphs: dict[str, TorchGraph], precision: str = "fp32") -> TorchSession:
    return TorchSession(graphs, "cpu", precision, 0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_casting_leaves_the_model_as_it_was(precision: str) -> None:
    graphs = bert()
    module = graphs["model"].module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = session(graphs, precision)
    inner = found._modules["model"]
    assert {p.dtype for p in inner.parameters()} == {getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[precision])}
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    output = found.run("model", feeds_of(graphs["model"]))["last_hidden_state"]
    assert output.dtype == np.float32


def test_weights_that_are_shared_stay_shared() -> None:
    class Tied(torch.nn.Module):
        def __init__(self, table: Any) -> None:
            super().__init__()
            self.table = table
            self.out = torch.nn.Linear(6, 6, bias=False)
            self.out.weight = table.weight

        def forward(self, x: Any) -> tuple[Any, ...]:
            return (self.out(x),)

    table = torch.nn.Embedding(6, 6)
    graphs = {name: one(Tied(table), ("batch", 6)) for name in ("model", "other")}
    placed = session(graphs, "bf16")._modules
    weights = {id(m.out.weight) for m in placed.values()} | {id(m.table.weight) for m in placed.values()}
    assert len(weights) == 1


def test_whole_numbers_are_not_cast() -> None:
    class Ids(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, ...]:
            return (x + 1,)

    graphs = {"model": one(Ids(), ("batch", "length"), "int64")}
    big = np.array([[2**40 + 1]])
    assert session(graphs, "bf16").run("model", {"x": big})["y"].tolist() == [[2**40 + 2]]


def test_memory_that_runs_out_is_said_so() -> None:
    class Greedy(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, ...]:
            return (torch.empty(2**50) + x,)

    with pytest.raises(OutOfMemoryError) as caught:
        session({"model": one(Greedy())}).run("model", {"x": np.ones((1, 2), np.float32)})
    assert "smaller batch" in caught.value.hint
    assert caught.value.exit_code == 4


def test_torchs_own_out_of_memory_error_is_recognised() -> None:
    assert isinstance(explained(torch.OutOfMemoryError("CUDA out of memory. Tried"), "x"), OutOfMemoryError)
    assert not isinstance(explained(RuntimeError("mat1 and mat2"), "x"), OutOfMemoryError)


def test_an_error_of_the_module_is_one_line_with_its_reason() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, ...]:
            raise KeyError("no such head\nand more")

    with pytest.raises(IncompatibleError, match="no such head") as caught:
        session({"model": one(Broken())}).run("model", {"x": np.ones((1, 2), np.float32)})
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("platform", ["cuda", "rocm", "mps"])
def test_a_device_that_is_not_here(platform: str, tmp_path: Path) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has an accelerator")
    plan = Plan(f"{platform}:0", platform, "torch", "fp32")
    with pytest.raises(UnavailableError, match=platform):
        open_modules(plan, GraphSource(bert(), tmp_path))


def test_a_kept_plan_alone_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="the model itself"):
        engine("torch").load(tmp_path, GraphSource({}, tmp_path).recipe, FP32)


def test_builds_without_a_platform_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import accel.engines._torch_engine as module

    monkeypatch.setattr(module, "torch_build", lambda: {"version": "9.9+cpu", "cuda": "", "hip": ""})
    for platform in ("cuda", "rocm"):
        assert f"9.9+cpu is built without {platform}" in str(engine("torch").missing_on(platform))
    assert engine("torch").missing_on("cpu") is None


SPEC = GraphSpec(
    "model",
    (TensorSpec("pixels", "float32", ("batch", 3, "side")), TensorSpec("scale", "float32", ("batch",))),
    (TensorSpec("y", "float32", ("batch", "side")),),
)


@pytest.mark.parametrize("batch", [4, 5, 7, 64])
def test_pieces_make_the_whole(batch: int) -> None:
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {
        "pixels": rng.standard_normal((batch, 3, 5), np.float32),
        "scale": rng.standard_normal(batch, np.float32),
    }

    def compute(part: dict[str, Any]) -> dict[str, Any]:
        return {"y": part["pixels"].sum(1) * part["scale"][:, None]}

    pieces = split(SPEC, feeds, PIECES)
    sizes = [len(p["scale"]) for p in pieces]
    assert len(pieces) == PIECES
    assert sum(sizes) == batch
    assert max(sizes) - min(sizes) <= 1
    np.testing.assert_array_equal(join(SPEC, [compute(p) for p in pieces])["y"], compute(feeds)["y"])


def test_only_large_batches_go_in_pieces() -> None:
    def feeds(batch: int, side: int) -> dict[str, Any]:
        return {"pixels": np.zeros((batch, 3, side), np.float32), "scale": np.zeros(batch, np.float32)}

    assert worth_pieces(SPEC, feeds(32, 50_000))
    assert not worth_pieces(SPEC, feeds(32, 50))
    assert not worth_pieces(SPEC, feeds(2, 5_000_000))
    whole = GraphSpec("model", SPEC.inputs, (TensorSpec("y", "float32", ("side",)),))
    assert not worth_pieces(whole, feeds(32, 50_000))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pieces_on_a_gpu_give_what_the_processor_gives(tmp_path: Path) -> None:
    class Picture(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.convolution = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Any) -> tuple[Any, ...]:
            return (self.convolution(x),)

    graphs = {"model": one(Picture(), ("batch", 3, 224, 224))}
    feeds = {"x": np.random.default_rng(0).standard_normal((33, 3, 224, 224), np.float32)}
    spec = graphs["model"].spec
    assert worth_pieces(spec, feeds)
    plan = Plan("cuda:0", "cuda", "torch", "fp32")
    found = open_modules(plan, GraphSource(graphs, tmp_path)).run("model", feeds)["y"]
    np.testing.assert_allclose(found, session(graphs).run("model", feeds)["y"], atol=1e-4)


@pytest.mark.slow
def test_compiled_modules_agree_in_every_shape(tmp_path: Path) -> None:
    if engine("torch-compile").missing():
        pytest.skip("no compiler here")
    graphs = bert()
    source = GraphSource(graphs, tmp_path)
    plan = Plan("cpu:0", "cpu", "torch-compile", "fp32")
    engine("torch-compile").prepare(source, plan, tmp_path)
    compiled = engine("torch-compile").load(tmp_path, source.recipe, plan, source)
    plain = session(graphs)
    for shape in ((3, 12), (2, 20), (5, 7)):
        ids = np.random.default_rng(0).integers(1, 99, shape)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        (found,), (expected,) = compiled.run("model", feeds).values(), plain.run("model", feeds).values()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_compiling_without_a_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "g++" in str(engine("torch-compile").missing())
