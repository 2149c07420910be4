"""What a cell has to meet, on devices and workloads that are made up."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from accel.core import cpu
from accel.core.compatibility import drivers, judging, need, supply
from accel.core.compatibility.changes import smallest
from accel.core.compatibility.judging import Bounds, Way, judge
from accel.core.compatibility.targets import find
from accel.core.errors import InputError
from accel.core.registry import engine as engine_named
from accel.core.types import Device
from tests.core.compatibility.parts import MIB, MODEL, graph, target

GIB = 1 << 30


def kinds(judged: judging.Judgement) -> list[str]:
    return [one.kind for one in judged.failing]


def test_it_runs_where_everything_is_met() -> None:
    """The score is near one, and the reasons name need and supply."""
    judged = judge(MODEL, graph(), target(), Way("onnxruntime"), Bounds())
    assert judged.runs and judged.score > 0.99
    assert any("8 GiB free on this machine" in r.reason for r in judged.requirements)


def test_memory_that_is_not_free() -> None:
    """The same device with little left."""
    judged = judge(MODEL, graph(), target(free=100 * MIB), Way("onnxruntime"), Bounds())
    assert "memory" in kinds(judged) and judged.score < 0.05


def test_more_memory_is_never_worse() -> None:
    """Scores grow with what is free, and shrink with batch and length."""
    scores = [judge(MODEL, graph(), target(free=f * MIB), Way("torch"), Bounds()).score for f in (300, 900, 1500, 4000)]
    assert scores == sorted(scores) and scores[0] < scores[-1]
    needs = [need.of(graph(b, n), "onnxruntime", "fp32", "cpu") for b, n in ((1, 64), (1, 128), (4, 128), (64, 512))]
    for low, high in itertools.pairwise(needs):
        assert low.resident <= high.resident and low.private <= high.private


def test_bounds_are_above_predictions() -> None:
    """On every platform and for every engine."""
    for engine, platform in (("torch", "cpu"), ("onnxruntime", "cpu"), ("openvino", "openvino"), ("torch", "cuda")):
        for precision in ("fp32", "fp16", "int8"):
            found = need.of(graph(), engine, precision, platform)
            assert 0 < found.resident < found.resident_bound
            assert 0 < found.private < found.private_bound


def test_threads_take_stacks_of_private_memory() -> None:
    """A machine of 128 cores needs more of a limit than one of a single core, and no more resident memory."""
    one, many = (need.of(graph(), "onnxruntime", "fp32", "cpu", threads) for threads in (1, 128))
    assert many.private - one.private >= 120 * need.STACK
    assert many.resident == one.resident


def test_one_core_and_many(tmp_path: Path) -> None:
    """What is free and how many threads there are comes from the machine as this process may use it."""
    for cores, total in ((1, 2), (128, 512)):
        root = tmp_path / str(cores)
        (root / "proc").mkdir(parents=True)
        (root / "proc/meminfo").write_text(f"MemTotal: {total * 2**20} kB\nMemAvailable: {total * 2**19} kB\n")
        assert cpu.limits(str(root), set(range(cores))) == (cores, cores)
        found = supply.of_host(str(root))
        assert (found.total, found.free) == (total * GIB, total * GIB // 2)


def test_a_cgroup_is_seen(tmp_path: Path) -> None:
    """A container's limit counts, not the machine's memory."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {64 * 2**20} kB\nMemAvailable: {60 * 2**20} kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    (tmp_path / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    box = tmp_path / "sys/fs/cgroup/box"
    box.mkdir(parents=True)
    (box / "memory.max").write_text(f"{GIB}\n")
    (box / "memory.current").write_text(f"{GIB // 4}\n")
    (box / "memory.stat").write_text("inactive_file 0\n")
    found = supply.of_host(str(tmp_path))
    assert (found.total, found.free) == (GIB, GIB - GIB // 4)


def test_holders_of_a_card_are_named() -> None:
    """Processes on a GPU are part of the reason."""
    card = Device("cuda:0", "cuda", "card", "NVIDIA", 16 * GIB, 2 * GIB)
    found = supply.of_device(card, lambda _: ("process 7 holds 14.0 GiB",))
    assert (found.free, found.holders) == (2 * GIB, ("process 7 holds 14.0 GiB",))


def test_a_limit_bounds_private_memory() -> None:
    """Plenty is free, and the user allows less."""
    judged = judge(MODEL, graph(), target(), Way("torch"), Bounds(memory=150 * MIB))
    assert "limit" in kinds(judged) and "memory" not in kinds(judged)


def test_latency_is_judged_by_its_prediction() -> None:
    """Half of the predicted time fails, twice of it holds with a probability that its interval gives."""
    seconds = judge(MODEL, graph(), target(), Way("torch"), Bounds()).prediction
    assert seconds is not None
    slow = judge(MODEL, graph(), target(), Way("torch"), Bounds(latency_s=seconds.latency_s / 2))
    good = judge(MODEL, graph(), target(), Way("torch"), Bounds(latency_s=seconds.latency_s * 2))
    assert kinds(slow) == ["latency"] and good.runs and 0.5 < good.score < 0.95


def test_precisions_and_engines_that_are_not_there() -> None:
    """Each fails with its own reason, and nothing is said about memory."""
    judged = judge(MODEL, graph(), target(), Way("torch", "int8"), Bounds())
    assert kinds(judged) == ["precision"] and judged.score == 0.0
    assert kinds(judge(MODEL, graph(), target(), Way("openvino"), Bounds())) == ["engine"]
    cached = replace(MODEL, family="text-decoder", task="text-generation")
    webnn = target("webnn", present=False, engines=("ort-web",))
    judged = judge(cached, graph(cache=True), webnn, Way("ort-web"), Bounds())
    assert "no way to run a text-decoder on webnn" in judged.failing[0].reason


@pytest.mark.parametrize(
    ("driver", "card", "build", "met"),
    [
        ("580.82.07, CUDA 13.0", "sm_90", "13.0", [True, True]),
        ("550.54.15, CUDA 12.4", "sm_90", "13.0", [False, True]),
        ("580.82.07, CUDA 13.0", "sm_70", "13.0", [True, False]),
        ("550.54.15, CUDA 12.4", "sm_70", "12.8", [True, True]),
        (None, "", "13.0", []),
        ("580.82.07", "sm_90", "", []),
    ],
)
def test_drivers(driver: str | None, card: str, build: str, met: list[bool]) -> None:
    """A driver that is too old, a card that libraries have no code for; nothing is made up where nothing is known."""
    device = Device("cuda:0", "cuda", "card", "NVIDIA", driver=driver, features=(card,) if card else ())
    assert [one.met for one in drivers.cuda(device, build)] == met


def test_a_missing_figure_is_not_made_up() -> None:
    """Of this NPU nobody publishes fp32, nor the memory; with a limit of the user's there is something to go by."""
    (npu,) = find("webnn:npu-155h")
    judged = judge(MODEL, graph(), npu, Way("ort-web"), Bounds())
    assert kinds(judged) == ["precision"] and judged.score <= 0.5 and "nobody publishes" in judged.failing[0].reason
    bare = replace(npu, machine=None)
    assert kinds(judge(MODEL, graph(), bare, Way("ort-web"), Bounds())) == ["memory"]
    assert judge(MODEL, graph(), bare, Way("ort-web"), Bounds(memory=8 * GIB)).runs


def test_a_precision_that_nobody_publishes_is_not_counted_on() -> None:
    """torch offers bf16 on every CUDA card, and a V100 has no arithmetic for it."""
    volta, ampere = find("cuda:v100,cuda:a100")
    assert kinds(judge(MODEL, graph(), volta, Way("torch", "bf16"), Bounds())) == ["precision"]
    assert judge(MODEL, graph(), ampere, Way("torch", "bf16"), Bounds()).runs


def test_a_device_without_a_rate_is_judged_on_memory_alone() -> None:
    """Its latency is no number, and a limit of it is not met."""
    (apple,) = find("mps:m4")
    judged = judge(MODEL, graph(), apple, Way("torch"), Bounds())
    assert judged.prediction is None and judged.runs
    late = judge(MODEL, graph(), apple, Way("torch"), Bounds(latency_s=10))
    assert kinds(late) == ["latency"] and "does not publish" in late.failing[0].reason


def test_unknown_devices_have_near_names() -> None:
    """As everywhere."""
    with pytest.raises(InputError, match="cuda:h10"):
        find("cuda:h10")
    with pytest.raises(InputError):
        find("cpu,,cpu")


def change(free: int, asked: Way, bounds: Bounds | None = None, **about: object):  # type: ignore[no-untyped-def]
    where = target("cuda", free, present=False, engines=("torch",))
    cache = bool(about.get("cache"))
    return smallest(
        MODEL, lambda b, n, t: graph(b, n or 128, t, cache=cache), where, asked, ["torch"], bounds or Bounds(), None
    )


def test_the_smallest_change_is_the_smallest() -> None:
    """A smaller batch before a lower precision, and not smaller than it has to be; the changed way really fits."""
    asked = Way("torch", batch=64, length=128)
    most = need.of(graph(32, 128), "torch", "fp32", "cuda").resident_bound
    found = change(most + MIB, asked)
    assert found is not None and found.kinds == ("batch",) and found.judgement.way.batch == 32
    assert found.judgement.runs and "--batch 32" in found.command
    assert change(most - 50 * MIB, asked).judgement.way.batch < 32


def test_a_lower_precision_where_nothing_smaller_helps() -> None:
    """Weights alone are too large for fp32 at batch 1."""
    short = need.of(graph(1, 16), "torch", "fp32", "cuda").resident_bound
    half = need.of(graph(1, 16), "torch", "fp16", "cuda").resident_bound
    found = change((short + half) // 2, Way("torch", length=16))
    assert found is not None and found.kinds == ("precision",) and found.judgement.way.precision == "fp16"
    assert change(100 * MIB, Way("torch", length=16)) is None


def test_a_model_too_large_for_webassembly_does_not_run_in_a_browser_with_memory_to_spare() -> None:
    """onnxruntime-web refuses it when it is prepared, whatever the card has."""
    most = engine_named("ort-web").largest_weights
    assert most is not None
    card = target("webgpu", 64 * GIB, present=False, engines=("ort-web",))
    for size, said in ((most - 4096, []), (2 * most, ["size"])):
        judged = judge(MODEL, replace(graph(), weights_bytes=size), card, Way("ort-web"), Bounds())
        assert kinds(judged) == said


def test_what_lies_between_operators_is_less_sure_than_weights() -> None:
    """The bound of a large batch is further above its need than that of a single input."""
    for engine, platform in (("onnxruntime", "cpu"), ("openvino", "openvino"), ("torch", "cpu")):
        small, large = (need.of(graph(batch), engine, "fp32", platform) for batch in (1, 512))
        assert large.private_bound / large.private > small.private_bound / small.private


def test_what_a_browser_computes_on_is_said() -> None:
    """A software adapter runs the model; that it is one, or that nobody looked, stands among the reasons."""
    for feature, said in (("software", "by the processor"), ("unproven", "detect --deep"), ("fp16", "")):
        device = Device("webgpu:chromium", "webgpu", "made up", "nobody", features=(feature,))
        reasons = [one.reason for one in drivers.adapter(device)]
        assert all(one.met for one in drivers.adapter(device))
        assert len(reasons) == bool(said) and said in " ".join(reasons)
