"""The same cell by OpenVINO's own benchmark_app and by optimum-benchmark, with `-m perf -s`.

optimum-benchmark gets an environment of its own, made once in the folder that ACCEL_PERF_STATE names.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.program import accel, environment

pytestmark = [pytest.mark.perf, pytest.mark.timeout(3600)]

LENGTH = 32
ROUNDS = 3
#: versions that work together: optimum-benchmark 0.6.0 imports a name that transformers 5 no longer has
RIVAL = ("optimum-benchmark[openvino]==0.6.0", "optimum-intel==2.2.0", "transformers==4.57.6")
CELL = """
defaults:
  - benchmark
  - scenario: inference
  - launcher: inline
  - backend: openvino
  - _self_
name: cell
backend:
  model: {model}
  device: cpu
  library: transformers
  task: feature-extraction
  model_type: bert
  export: true
  ov_config: {{INFERENCE_PRECISION_HINT: f32, INFERENCE_NUM_THREADS: "{threads}", NUM_STREAMS: "1"}}
scenario:
  iterations: {runs}
  duration: 0
  warmup_runs: 10
  memory: false
  input_shapes: {{batch_size: 1, sequence_length: {length}}}
hydra:
  job: {{chdir: true}}
  run: {{dir: {folder}}}
"""


@pytest.fixture(scope="module")
def threads() -> int:
    """As many as this process may use."""
    return len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def minilm(state: Path) -> tuple[Path, Path]:
    """A home folder in which all-minilm is ready for OpenVINO, and the file of its graph."""
    home = state / "home-openvino"
    done = accel(
        "bench", "all-minilm", "--hw", "openvino:CPU", "--seq", LENGTH, "--no-agreement", "--max-time", "100ms",
        "--processes", "1", "--precision-target", "50%", home=home, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return home, next(home.glob("prepared/all-minilm-*/openvino-*-fp32*/model.xml"))


def ours(home: Path, threads: int) -> tuple[float, float, int]:
    """Median in ms, seconds of the whole process, and samples of one `accel bench`."""
    started = time.monotonic()
    done = accel(
        "bench", "all-minilm", "--hw", "openvino:CPU", "--seq", LENGTH, "--no-agreement", "--json", "--max-time", "3s",
        "--processes", "1", "--precision-target", "0.01%", "--threads", threads, home=home,
    )  # fmt: skip
    took = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    (cell,) = [c for c in json.loads(done.stdout)["cells"] if c["status"] == "ok"]
    return cell["latency_ms"], took, cell["samples"]


def benchmark_app(home: Path, graph: Path, threads: int, runs: int, folder: Path) -> tuple[float, float]:
    """Median in ms and seconds of the whole process of OpenVINO's own program."""
    program = Path(sys.executable).with_name("benchmark_app")
    import openvino as ov

    names = [port.get_any_name() for port in ov.Core().read_model(graph).inputs]
    started = time.monotonic()
    subprocess.run(
        [program, "-m", graph, "-d", "CPU", "-api", "sync", "-hint", "none", "-nthreads", str(threads),
         "-infer_precision", "f32", "-niter", str(runs), "-data_shape", ",".join(f"{n}[1,{LENGTH}]" for n in names),
         "-json_stats", "-report_type", "no_counters", "-report_folder", folder],
        check=True, capture_output=True, env=environment(home), timeout=600,
    )  # fmt: skip
    took = time.monotonic() - started
    stats = json.loads(next(folder.glob("*report*.json")).read_text())
    return float(stats["execution_results"]["latency (ms)"]), took


@pytest.fixture(scope="module")
def optimum_benchmark(state: Path) -> Path:
    """The program in its own environment, with the same OpenVINO and torch as here."""
    folder = state / "optimum-benchmark"
    program = folder / "bin" / "optimum-benchmark"
    if not program.exists():
        wanted = [*RIVAL, *(f"{name}=={version(name).partition('+')[0]}" for name in ("openvino", "torch"))]
        uv = shutil.which("uv")
        if uv:
            subprocess.run([uv, "venv", "--python", sys.executable, folder], check=True)
            subprocess.run([uv, "pip", "install", "--python", folder / "bin" / "python", *wanted], check=True)
        else:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([folder / "bin" / "pip", "install", "-q", *wanted], check=True)
    return program


def theirs(program: Path, model: Path, threads: int, runs: int, folder: Path) -> tuple[float, float]:
    """Median in ms and seconds of the whole process of optimum-benchmark."""
    folder.mkdir(parents=True)
    settings = {"model": model, "threads": threads, "runs": runs, "length": LENGTH, "folder": folder / "out"}
    (folder / "cell.yaml").write_text(CELL.format(**settings))
    started = time.monotonic()
    done = subprocess.run(
        [program, "--config-dir", folder, "--config-name", "cell"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    took = time.monotonic() - started
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads((folder / "out" / "benchmark_report.json").read_text())
    return 1e3 * statistics.median(report["forward"]["latency"]["values"]), took


def judged(name: str, rounds: list[tuple[float, float]]) -> tuple[float, float]:
    """The medians over the rounds of the ratio of the medians, and of the whole processes, ours to theirs."""
    ratio, whole = (statistics.median(values) for values in zip(*rounds, strict=True))
    print(f"\n{name}: ratio of the medians {ratio:.3f}, of the whole processes {whole:.2f} (ours to theirs)")
    return ratio, whole


def test_the_same_cell_by_two_others(
    minilm: tuple[Path, Path], optimum_benchmark: Path, threads: int, tmp_path: Path
) -> None:
    """Same engine, threads, precision and shape, in turn: medians within 5 %, and our whole process takes no longer
    than the faster of them for the same number of samples."""
    if not Path(sys.executable).with_name("benchmark_app").exists():
        pytest.skip("openvino's benchmark_app is not installed")
    home, graph = minilm
    from accel.core.models import resolve

    source = resolve("all-minilm").folder
    assert source is not None
    first: list[tuple[float, float]] = []
    second: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        median, took, runs = ours(home, threads)
        app, app_s = benchmark_app(home, graph, threads, runs, tmp_path)
        other, other_s = theirs(optimum_benchmark, source, threads, runs, tmp_path / f"round-{number}")
        first.append((median / app, took / app_s))
        second.append((median / other, took / other_s))
        print(
            f"\n{runs} samples: accel {median:.3f} ms in {took:.1f} s, benchmark_app {app:.3f} ms in {app_s:.1f} s, "
            f"optimum-benchmark {other:.3f} ms in {other_s:.1f} s"
        )
    found = [judged("benchmark_app", first), judged("optimum-benchmark", second)]
    assert all(0.95 <= ratio <= 1.05 for ratio, _ in found)
    assert max(whole for _, whole in found) <= 1.0
