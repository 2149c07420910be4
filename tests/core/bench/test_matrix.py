"""The matrix: every combination is a cell or is left out with its reason, and nothing is loaded for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from accel.core.bench.matrix import Axes, Matrix, World, expand, refine
from accel.core.bench.sweep import Sweep, merged, read
from accel.core.errors import InputError, UnavailableError
from accel.core.models import resolve
from accel.core.types import Device, GraphSpec, Model, PlatformReport, Recipe, TensorSpec

ROOT = Path(__file__).parents[3]
CPU = Device(
    "cpu:0", "cpu", "CPU", "x", 8 << 30, 4 << 30, 2, 4,
    precisions={"fast": ["fp32"], "possible": ["fp32", "bf16", "int8"]}, engines=("torch", "onnxruntime"),
)  # fmt: skip
REPORTS = [
    PlatformReport("cpu", True, "here", devices=(CPU,)),
    PlatformReport("cuda", False, "no card", "buy one"),
    PlatformReport("openvino", False, "not installed", "pip install openvino"),
]


def model(name: str, task: str = "") -> Model:
    if name == "gone":
        raise UnavailableError("the weights of gone are not to be had", "try another")
    config = {"max_position_embeddings": 512}
    return Model(name, "local", None, (), "transformers", config, "text-encoder", task or "fill-mask", "random", name)


def world() -> World:
    return World(model, REPORTS)


def spread(**axes: object) -> Matrix:
    return expand(Axes(**{"models": ("bert",), "hw": "cpu", "engines": ("torch",), **axes}), world())  # type: ignore[arg-type]


def reasons(matrix: Matrix) -> Counter[str]:
    return Counter(skipped.reason for skipped in matrix.skipped)


def test_every_combination_once() -> None:
    matrix = spread(engines=("torch", "onnxruntime"), batches=(1, 8), lengths=(16, 32, 16), threads=(0, 2))
    assert len(matrix.cells) == 2 * 2 * 2 * 2 and not matrix.skipped
    assert len({cell.key for cell in matrix.cells}) == len(matrix.cells)
    first = matrix.cells[0]
    assert first.key == "bert / fill-mask / cpu:0 / torch / fp32 / batch 1 / length 16"
    assert matrix.model(first).task == "fill-mask"


def test_without_a_wish_every_engine_that_is_ready_and_does_not_wait_for_its_name() -> None:
    matrix = expand(Axes(models=("bert",), hw="cpu"), world())
    engines = {cell.engine for cell in matrix.cells}
    assert {"torch", "onnxruntime"} <= engines and "torch-compile" not in engines


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"models": ("gone",)}, "the weights of gone are not to be had"),
        ({"hw": "cuda"}, "no cuda device here: no card"),
        ({"engines": ("openvino",)}, "openvino does not run on cpu"),
        ({"precisions": ("fp16",)}, "cpu:0 has no fp16"),
        ({"threads": (99,)}, "this process may use 4 threads, not 99"),
        ({"lengths": (4096,)}, "bert takes 512 tokens at most, not 4096"),
    ],
)
def test_a_cell_that_cannot_work_is_left_out_with_its_reason(axes: dict[str, object], reason: str) -> None:
    matrix = spread(**axes)
    assert matrix.cells == [] and list(reasons(matrix)) == [reason]
    assert matrix.skipped[0].hint


def test_one_missing_model_leaves_the_others() -> None:
    matrix = spread(models=("bert", "gone"), hw="cpu,cuda")
    assert [cell.model for cell in matrix.cells] == ["bert"]
    assert reasons(matrix) == {"no cuda device here: no card": 1, "the weights of gone are not to be had": 2}


def test_weights_that_cannot_fit(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(64 << 30)  # sparse

    def large(name: str, task: str) -> Model:
        return Model(name, "local", tmp_path, ("model.safetensors",), "transformers", {}, "cnn", "x", "pretrained", "d")

    matrix = expand(Axes(("huge",), "cpu", ("torch",), precisions=("fp32", "int8")), World(large, REPORTS))
    assert [s.reason.split(" take ")[0] for s in matrix.skipped] == ["its weights"] * 2
    assert "at least 17.2 GB in int8" in matrix.skipped[1].reason


def test_ten_thousand_cells_take_a_moment() -> None:
    matrix = spread(batches=tuple(range(1, 101)), lengths=tuple(range(1, 101)))
    assert len(matrix.cells) == 10_000
    assert len({cell.workload for cell in matrix.cells}) == 10_000


def test_nothing_is_loaded_to_know_the_matrix() -> None:
    code = """
import sys
from accel.core.bench.matrix import Axes, World, expand
from accel.core.models import resolve
matrix = expand(Axes(("all-minilm",), "cpu", batches=(1, 2)), World(lambda n, t: resolve(n, task=t or None)))
assert len(matrix.cells) >= 4, matrix
loaded = {"torch", "transformers", "onnxruntime", "openvino", "numpy"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_no_models_are_no_cells() -> None:
    matrix = spread(models=())
    assert matrix.cells == [] and matrix.skipped == []


@pytest.mark.parametrize(
    ("axes", "hint"),
    [
        ({"engines": ("tortch",)}, "torch"),
        ({"precisions": ("fp23",)}, "fp32"),
        ({"hw": "cdua"}, "cuda"),
        ({"batches": (0,)}, "1 or more"),
        ({"extra": ({"engine": "tortch"},)}, "torch"),
    ],
)
def test_what_nobody_can_mean_is_refused(axes: dict[str, object], hint: str) -> None:
    with pytest.raises(InputError) as caught:
        spread(**axes)
    assert hint in caught.value.hint


def test_extra_cells_and_exceptions() -> None:
    matrix = spread(
        batches=(1, 8),
        extra=({"model": "gpt2", "seq": 64}, {"engine": "onnxruntime", "batch": 4}),
        exclude=({"engine": "torch", "batch": 8}, {"hw": "cuda"}),
    )
    found = [(c.model, c.engine, c.batch, c.length) for c in matrix.cells]
    assert found == [
        ("bert", "torch", 1, None),
        ("gpt2", "torch", 1, 64),
        ("bert", "onnxruntime", 4, None),
    ]


def test_engines_say_what_they_make_of_a_precision() -> None:
    tensor = TensorSpec("input_ids", "int64", ("batch", "length"))
    recipe = Recipe("text-encoder", "fill-mask", {"model": GraphSpec("model", (tensor,), (tensor,))}, {})
    cell = spread(engines=("onnxruntime",), precisions=("int8",)).cells[0]
    refined = refine(cell, recipe)
    assert isinstance(refined, list) and {c.variant for c in refined} == {"dynamic", "weights"}
    none = refine(spread(engines=("onnxruntime",), precisions=("bf16",)).cells[0], recipe)
    assert not isinstance(none, list) and "no bf16" in none.reason
    fixed = Recipe(
        "vision", "x", {"model": GraphSpec("model", (TensorSpec("p", "float32", ("batch", 3, 8, 8)),), ())}, {}
    )
    long = refine(spread(lengths=(16,)).cells[0], fixed)
    assert not isinstance(long, list) and "have no length" in long.reason


def test_a_real_model_on_this_machine() -> None:
    found = World(lambda name, task: resolve(name, task=task or None))
    matrix = expand(Axes(("all-minilm",), "cpu", ("onnxruntime",), lengths=(8, 9999)), found)
    assert [cell.length for cell in matrix.cells] == [8]
    assert "takes 512 tokens" in matrix.skipped[0].reason


SWEEP = """
models = ["bert", "gpt2"]
hw = ["cpu", "openvino"]
batch = [1, 8]
precision = "int8"
benchmarks = ["mine.py"]
[options]
precision_target = "0.5%"
processes = 2
[[cell]]
model = "vit"
[[exclude]]
batch = 8
model = "gpt2"
"""


def test_a_sweep_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP)
    sweep = read(path)
    assert sweep.options == {"precision_target": "0.5%", "processes": 2} and sweep.benchmarks == ("mine.py",)
    axes = merged(sweep, batches=(4,), lengths=None)
    assert axes.models == ("bert", "gpt2") and axes.hw == "cpu,openvino" and axes.precisions == ("int8",)
    assert axes.batches == (4,) and axes.lengths == (None,)
    assert axes.extra == ({"model": "vit"},) and axes.exclude == ({"batch": 8, "model": "gpt2"},)
    assert merged(Sweep()).models == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modles = ['a']", "did you mean models"),
        ("batch = ['1']", "whole numbers"),
        ("batch = [true]", "whole numbers"),
        ("models = [1]", "texts"),
        ("[options]\nprocesess = 2", "did you mean processes"),
        ("[options]\nprocesses = 'two'", "as the option"),
        ("[options]\nprocesses = true", "as the option"),
        ("[cell]\nmodel = 'a'", "[[cell]]"),
        ("[[cell]]\nmodle = 'a'", "did you mean model"),
        ("[[cell]]\nbatch = 'a'", "one value"),
        ("options = 3", "[options]"),
        ("models = [", "--help"),
    ],
)
def test_a_file_that_means_nothing_names_the_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(path) in caught.value.message and says in caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "none.toml")
