"""Predictions: laws that hold for any prices, what calibration changes, and machines large, small and unknown."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

from accel.core import planner
from accel.core.errors import AccelError, IncompatibleError, InputError, UnavailableError
from accel.core.evidence import Shape
from accel.core.fingerprint import fingerprint
from accel.core.paths import home
from accel.core.performance import calibration, machines, predict
from accel.core.performance.advice import knee, scaling
from accel.core.performance.calibrated import RESTLESS, Calibrated
from accel.core.performance.graphs import graph_of, resolve
from accel.core.performance.kernels import Kernel, kernels
from accel.core.performance.machines import Machine, catalogued
from accel.core.performance.prices import class_of
from accel.core.types import Device, Options, Plan
from tests.core.performance.figures import figures, keep, seconds_of

GB = 1 << 30


def machine(**changes: object) -> Machine:
    """The processor of this machine, as if measured at 300 GFLOP/s and 20 GB/s."""
    values: dict[str, object] = {
        "id": "cpu:0", "name": "a processor", "platform": "cpu", "gflops": {"fp32": 300.0}, "bandwidth": 20.0,
        "basis": "measured", "present": True, "engines": ("torch", "onnxruntime"), "memory_bytes": 8 * GB,
    }  # fmt: skip
    return Machine(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["roofline", "calibrated"])
def prices(request: pytest.FixtureRequest) -> str:
    """Both kinds of prices."""
    if request.param == "calibrated":
        keep(torch=1.0, onnxruntime=1.0)
    return str(request.param)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_monotone_in_batch_and_length(prices: str, engine: str) -> None:
    """More to do takes more time and never less memory; small batches hide below the peak of loading."""
    model = resolve("all-minilm")
    for sizes in ([(b, 64) for b in (1, 2, 3, 5, 8, 16, 33, 64)], [(4, n) for n in (8, 16, 31, 64, 100, 128, 256)]):
        found = [predict.latency(graph_of(model, *size), machine(), engine) for size in sizes]
        assert all(p.calibrated == (prices == "calibrated") for p in found)
        for less, more in itertools.pairwise(found):
            assert more.latency_s > less.latency_s
            assert more.memory.total >= less.memory.total
        assert found[-1].memory.total > found[0].memory.total


def test_parts_add_up_to_the_whole(prices: str) -> None:
    """Classes and phases are two divisions of the same time; the graph's totals are the sums of its operators."""
    graph = graph_of(resolve("distilgpt2"), 2, 32)
    found = predict.latency(graph, machine(), "torch")
    assert sum(s.seconds for s in found.classes.values()) == pytest.approx(found.latency_s)
    assert sum(s.share for s in found.classes.values()) == pytest.approx(1.0)
    assert sum(found.phase_s.values()) == pytest.approx(found.latency_s)
    assert graph.flops == sum(op.count * op.flops for phase in graph.phases for op in graph.of_phase(phase))
    assert found.memory.total == sum(
        (found.memory.weights, found.memory.activations, found.memory.cache, found.memory.runtime)
    )
    low, high = found.interval_s
    assert low < found.latency_s < high


def test_one_layer_more_costs_that_layer(prices: str, tmp_path: Path) -> None:
    """From six layers to seven, and from seven to eight, the same is added; it is what a layer's operators cost."""
    config = json.loads((Path(machines.CATALOGUE).parent / "configs" / "distilbert" / "config.json").read_text())

    def graph(layers: int) -> predict.OperatorGraph:
        folder = tmp_path / str(layers)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**config, "n_layers": layers}))
        return graph_of(resolve(str(folder)), 2, 64)

    six, seven, eight = (graph(n) for n in (6, 7, 8))
    times = [predict.latency(g, machine(), "torch").latency_s for g in (six, seven, eight)]
    assert times[1] - times[0] == pytest.approx(times[2] - times[1], rel=1e-6)
    counts = {op.name: 0 for op in seven.operators}
    rates = predict.rates_for(machine(), "torch", "fp32")
    before = {(op.name, op.inputs, op.outputs, op.after): op.count for op in six.operators}
    added = 0.0
    for op in seven.operators:
        more = op.count - before.get((op.name, op.inputs, op.outputs, op.after), 0)
        counts[op.name] += more
        added += more * rates.price(op).seconds
    factor = predict.learning.correction(machine(), "torch", "fp32").factors if prices == "calibrated" else {}
    assert counts["aten::addmm"] == 6
    if not factor:
        assert added == pytest.approx(times[1] - times[0], rel=1e-6)


def test_prefill_and_decode_apart() -> None:
    """Steps grow with the tokens; the prompt does not."""
    model = resolve("distilgpt2")
    few, many = (predict.latency(graph_of(model, 1, 32, new_tokens=n), machine(), "torch") for n in (9, 17))
    assert few.phase_s["prefill"] == pytest.approx(many.phase_s["prefill"])
    assert many.phase_s["decode"] == pytest.approx(2 * few.phase_s["decode"], rel=0.05)


def test_a_calibration_gives_back_what_was_measured() -> None:
    """Operators that were measured are priced as measured, within the noise that the process assumes."""
    rates = Calibrated("torch", figures("torch"))
    for kernel in kernels():
        if kernel.kind in ("linear", "conv2d", "attention", "layernorm", "add", "gather"):
            expected = (seconds_of(kernel) - 5e-6) / kernel.repeat
            found = sum(rates.price(op).seconds for op in kernel.operators) / kernel.repeat
            assert found == pytest.approx(expected, rel=0.35), kernel


def test_a_calibration_of_another_machine_or_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and the prediction is uncalibrated."""
    graph = graph_of(resolve("all-minilm"), 1, 32)
    keep(torch=1.0)
    assert predict.latency(graph, machine(), "torch").calibrated
    assert not calibration.stale("torch")
    path = home() / "calibration.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({"another machine": kept[fingerprint()]}))
    found = predict.latency(graph, machine(), "torch")
    assert not found.calibrated
    assert "uncalibrated" in found.notes[0]
    assert "another machine" in calibration.stale("torch")
    kept[fingerprint()]["torch"]["version"] = "0.1/1"
    path.write_text(json.dumps(kept))
    assert not predict.latency(graph, machine(), "torch").calibrated
    assert "another version" in calibration.stale("torch")
    path.write_text("{ damaged")
    assert not predict.latency(graph, machine(), "torch").calibrated


def test_a_calibration_is_for_its_precision_threads_and_device() -> None:
    """It says nothing about bf16, one thread of two, or a GPU."""
    keep(torch=1.0)
    assert calibration.rates(machine(), "torch", "fp32", 0) is not None
    assert calibration.rates(machine(), "torch", "fp32", 2) is not None
    assert calibration.rates(machine(), "torch", "fp32", 1) is None
    assert calibration.rates(machine(), "torch", "bf16", 0) is None
    assert calibration.rates(machine(id="cuda:0", platform="cuda"), "torch", "fp32", 0) is None


def test_a_busy_machine_is_refused_or_widens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that wanders a little widens the interval; one that wanders much is not kept at all."""

    def measured(controls: list[float]) -> None:
        monkeypatch.setattr(calibration, "_measure", lambda *_: {**figures("torch"), "controls": controls})

    graph = graph_of(resolve("all-minilm"), 1, 32)
    measured([1.0, 1.01, 1.0, 1.02])
    calibration.calibrate(["torch"], 2, lambda *_: None)
    quiet = predict.latency(graph, machine(), "torch")
    measured([1.0, 1.25, 1.2, 1.22])
    (outcome,) = calibration.calibrate(["torch"], 2, lambda *_: None)
    assert outcome.restlessness > RESTLESS
    restless = predict.latency(graph, machine(), "torch")
    assert restless.interval_s[1] / restless.interval_s[0] > quiet.interval_s[1] / quiet.interval_s[0]
    (home() / "calibration.json").unlink()
    measured([1.0, 3.0, 2.0, 2.5])
    with pytest.raises(UnavailableError, match="busy"):
        calibration.calibrate(["torch"], 2, lambda *_: None)
    assert not predict.latency(graph, machine(), "torch").calibrated


def test_the_ranking_follows_the_prices() -> None:
    """For the planner: of two calibrated engines the cheaper one comes first, whatever the table says."""
    model = resolve("all-minilm")
    plans = [Plan("cpu:0", "cpu", engine, "fp32") for engine in ("torch", "onnxruntime")]
    assert predict.for_plans(model, 1, 32, plans) == []
    for slowness, first in (
        ({"torch": 1.0, "onnxruntime": 4.0}, "torch"),
        ({"torch": 8.0, "onnxruntime": 1.0}, "onnxruntime"),
    ):
        keep(**slowness)
        assert predict.for_plans(model, 1, 32, plans)[0][0].engine == first


def test_without_a_trial_the_planner_follows_the_prediction() -> None:
    """Where two engines are calibrated; with one there is nothing to compare, and the priority table decides."""
    model, shape = resolve("all-minilm"), Shape(1, 32)
    plans = [Plan("cpu:0", "cpu", engine, "fp32") for engine in ("torch", "onnxruntime")]
    keep(torch=1.0)
    assert planner.predicted(model, Options(), shape, plans) is None
    keep(torch=1.0, onnxruntime=5.0)
    found = planner.predicted(model, Options(), shape, plans)
    assert found is not None
    assert (found.source, found.engine) == ("predicted", "torch")
    assert "predicted to be the fastest" in found.reason
    assert all("predicted" in str(one["reason"]) for one in found.candidates)


def test_what_is_expected_costs_no_more_than_reading_files() -> None:
    """For the budget of bench: nothing where the model was not profiled or the engine not calibrated; never a trace."""
    model, plan = resolve("all-minilm"), Plan("cpu:0", "cpu", "torch", "fp32", batch=2)
    assert predict.expected_s(model, plan, 32) is None
    graph_of(model, 1, 32)
    assert predict.expected_s(model, plan, 32) is None
    keep(torch=1.0)
    found = predict.expected_s(model, plan, 32)
    assert found == pytest.approx(predict.latency(graph_of(model, 2, 32), machine(), "torch").latency_s)
    assert predict.expected_s(resolve("distilbert"), plan, 32) is None


@pytest.mark.parametrize("cores", [1, 128])
def test_machines_of_1_and_of_128_cores(cores: int) -> None:
    """Without measured peaks the estimate follows the cores, is labelled so, and carries the widest interval."""
    device = Device("cpu:0", "cpu", "a processor", "x", 64 * GB, 64 * GB, cores, cores, ("avx2",), engines=("torch",))
    found = machines._present(device)
    assert found.basis == "estimated"
    assert found.gflops["fp32"] == pytest.approx(cores * 2.5 * 32)
    prediction = predict.latency(graph_of(resolve("resnet-50")), found, "torch")
    assert prediction.interval_s[1] / prediction.interval_s[0] == pytest.approx(16.0)
    assert math.isfinite(prediction.latency_s)
    assert "estimate" in prediction.notes[0]


def test_the_knee() -> None:
    """The smallest batch with nine tenths of the best throughput, among those that memory holds."""
    rows = [
        {"size": n, "throughput_per_s": t, "memory_bytes": n * GB}
        for n, t in ((1, 10.0), (4, 30.0), (16, 95.0), (64, 100.0))
    ]
    assert knee(rows, None) == 16
    assert knee(rows, 5 * GB) == 4
    assert knee(rows, GB // 2) is None


def test_scaling_stops_where_the_model_does() -> None:
    """Lengths beyond the model's positions are left out; throughput never falls by much with the batch."""
    model = resolve("all-minilm")
    graph = graph_of(model, 1, 64)
    found = scaling(predict.latency(graph, machine(), "torch"), graph, machine(), lambda b, n: graph_of(model, b, n))
    assert [one["size"] for one in found["batch"]] == [1, 2, 4, 8, 16, 32, 64]
    assert max(one["size"] for one in found["seq"]) <= 512
    assert found["knee_batch"] in (1, 2, 4, 8, 16, 32, 64)


def test_every_figure_of_the_catalogue_has_a_public_source() -> None:
    """A number without a source is a rumour."""
    data = json.loads(machines.CATALOGUE.read_text())
    platforms = {name.partition(":")[0] for name in data["devices"]}
    assert platforms >= {"cpu", "cuda", "rocm", "mps", "openvino", "qualcomm", "webgpu", "webnn"}
    for name, entry in data["devices"].items():
        assert entry["figures"], name
        for key, figure in entry["figures"].items():
            source = data["sources"][figure["source"]]
            assert "https://" in source or "Guide" in source or "Manual" in source, (name, key)
            assert figure["value"] > 0


def test_names_of_the_catalogue_are_found_however_they_are_spelt() -> None:
    """Capitals and hyphens do not matter; what nobody knows names what is near."""
    assert [m.id for m in machines.machines("cuda:H100,cuda:rtx4090")] == ["cuda:h100", "cuda:rtx-4090"]
    with pytest.raises(InputError) as error:
        machines.machines("cuda:h101")
    assert "cuda:h100" in error.value.hint
    with pytest.raises(InputError):
        machines.machines("banana:1")


def test_a_missing_figure_is_never_made_up() -> None:
    """No peak, no prediction; no figure for a precision, none for it; no power, no energy."""
    sources = {"x": "a page, https://example.org"}

    def entry(**figures_: float) -> dict[str, object]:
        made = {key: {"value": value, "source": "x"} for key, value in figures_.items()}
        return {"name": "a card", "vendor": "x", "engine": "torch", "figures": made}

    with pytest.raises(IncompatibleError, match="peak rate"):
        catalogued("cuda:x", entry(bandwidth_gb_per_s=100.0), sources)
    with pytest.raises(IncompatibleError, match="bandwidth"):
        catalogued("cuda:x", entry(fp32_gflops=1e4), sources)
    card = catalogued("cuda:x", entry(fp32_gflops=1e4, bandwidth_gb_per_s=100.0), sources)
    graph = graph_of(resolve("resnet-50"))
    with pytest.raises(IncompatibleError, match="no figure for int8"):
        predict.latency(graph, card, "torch", "int8")
    found = predict.latency(graph, card, "torch")
    assert found.energy_j is None
    assert found.interval_s == (pytest.approx(found.latency_s / 3), pytest.approx(found.latency_s * 3))
    assert "transferred" in found.notes[0]


def test_faster_figures_make_faster_predictions() -> None:
    """Half precision on a card with tensor cores, and a larger card, take less time."""
    graph = graph_of(resolve("bert-base"), 32, 128)
    h100, t4 = machines.machines("cuda:h100,cuda:t4")
    assert predict.latency(graph, h100, "torch").latency_s < predict.latency(graph, t4, "torch").latency_s
    assert predict.latency(graph, h100, "torch", "fp16").latency_s < predict.latency(graph, h100, "torch").latency_s


def test_kernels_are_what_they_say() -> None:
    """The operators of a chain have the shapes that follow from each other."""
    for kernel in kernels():
        ops = kernel.operators
        assert len(ops) == kernel.repeat
        for before, after in itertools.pairwise(ops):
            if kernel.chained:
                assert before.outputs[0].shape == after.inputs[0].shape
        assert Kernel.from_json(json.loads(json.dumps(kernel.as_json()))) == kernel
        assert class_of(ops[0])


def test_an_engine_that_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process ends early: the others are kept."""

    def measure(engine: str, *_: object) -> dict[str, object]:
        if engine == "openvino":
            raise AccelError("its process ended early")
        return figures(engine)

    monkeypatch.setattr(calibration, "_measure", measure)
    outcomes = calibration.calibrate(["torch", "openvino"], 0, lambda *_: None)
    assert [bool(one.refused) for one in outcomes] == [False, True]
    assert calibration.kept("torch") is not None
    assert calibration.kept("openvino") is None
