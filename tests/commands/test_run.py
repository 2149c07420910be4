"""`accel run` as its user meets it: real processes, a real model, good and bad days."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.program import ACCEL, accel, answers, environment, succeed

MODEL = "all-minilm"


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which all-minilm was tried out and is ready."""
    home = tmp_path_factory.mktemp("warm-home")
    first = succeed("run", MODEL, "--input", "hello world", home=home)
    assert "trial:" in first.stderr
    return home


@pytest.fixture
def own(warm: Path, tmp_path: Path) -> Path:
    """A copy of the warm home that a test may damage."""
    return Path(shutil.copytree(warm, tmp_path / "home"))


def embedding(text: str, home: Path, *more: str) -> np.ndarray[Any, Any]:
    (answer,) = answers("run", MODEL, "--input", text, *more, home=home)
    return np.asarray(answer["output"]["embedding"])


def test_similar_sentences_are_near_and_others_are_not(warm: Path) -> None:
    cat, kitten, tax = (
        embedding(t, warm)
        for t in ("A cat sits on the mat.", "A kitten is resting on a rug.", "The tax return is due in April.")
    )
    assert cat @ kitten > 0.5
    assert cat @ tax < 0.2


def test_the_answer_is_that_of_transformers(warm: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from accel.core.models import resolve

    folder = str(resolve(MODEL).folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        encoded = tokenizer(["hello world"], return_tensors="pt")
        pooled = model(**encoded).last_hidden_state.mean(1)
    expected = torch.nn.functional.normalize(pooled, dim=1)[0].numpy()
    assert np.abs(embedding("hello world", warm) - expected).max() < 1e-5


def test_json_has_every_promised_key_with_its_type(warm: Path) -> None:
    (answer,) = answers("run", MODEL, "--input", "hello", home=warm)
    expected: dict[str, type | tuple[type, ...]] = {
        "schema": str, "model": str, "revision": (str, type(None)), "family": str, "task": str, "device": str,
        "platform": str, "engine": str, "precision": str, "batch": int, "latency_ms": float, "output": dict,
        "weights": str, "plan": dict,
    }  # fmt: skip
    for key, kind in expected.items():
        assert isinstance(answer[key], kind), key
    assert answer["weights"] == "pretrained"
    assert answer["latency_ms"] > 0
    assert answer["plan"]["source"] == "measured"
    assert {c["engine"] for c in answer["plan"]["candidates"]} >= {"torch", "onnxruntime"}


def test_a_prepared_run_loads_neither_torch_nor_transformers(warm: Path) -> None:
    code = (
        "import sys; from accel.cli import main\n"
        f"sys.argv = ['accel', 'run', {MODEL!r}, '--input', 'hello', '--quiet']\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(warm), check=True
    )
    loaded = set(json.loads(done.stderr.splitlines()[-1].replace("'", '"')))
    assert loaded & {"numpy", "tokenizers"} == {"numpy", "tokenizers"}
    assert not loaded & {"torch", "transformers", "onnx", "huggingface_hub", "duckdb", "rich", "optimum", "psutil"}


def test_no_input_shows_the_tasks_own_example(warm: Path) -> None:
    assert "384 numbers" in succeed("run", MODEL, home=warm).stdout


def test_quiet_prints_the_bare_numbers(warm: Path) -> None:
    done = succeed("run", MODEL, "--input", "hello", "--quiet", home=warm)
    assert len(done.stdout.split()) == 384
    assert done.stderr == ""


def test_standard_input_answers_line_by_line_and_objects(warm: Path) -> None:
    found = answers("run", MODEL, home=warm, stdin='hello world\n{"text": "hello world"}\n')
    assert [a["index"] for a in found] == [0, 1]
    assert np.allclose(found[0]["output"]["embedding"], found[1]["output"]["embedding"], atol=1e-6)


def test_one_line_says_where_and_why(warm: Path) -> None:
    line = succeed("run", MODEL, "--input", "x", home=warm).stderr.strip()
    assert "measured:" in line and "fp32" in line and "tried" in line
    assert "\n" not in line


def test_explain_ranks_every_candidate(warm: Path) -> None:
    lines = succeed("run", MODEL, "--input", "x", "--explain", home=warm).stderr.splitlines()
    assert any("torch" in line for line in lines) and any("onnxruntime" in line for line in lines)


def test_every_run_leaves_its_measurement_in_the_results(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accel.core import results

    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(own))
    with results.open_reader() as con:
        before = con.execute("select count(*) from benchmark_results").fetchall()[0][0]
    succeed("run", MODEL, "--input", "x", home=own)
    with results.open_reader() as con:
        rows = con.execute(
            "select model_name, hardware_type, engine, inference_time from benchmark_results order by timestamp"
        ).fetchall()
    assert len(rows) == before + 1
    assert rows[-1][0] == MODEL and rows[-1][3] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "all-minilmm"], {3, 5}, "all-minilm"),
        (["run", MODEL, "--hw", "cuda"], {3}, "cuda"),
        (["run", MODEL, "--hw", "gpuu"], {2}, "gpuu"),
        (["run", MODEL, "--engine", "onnxruntim"], {2}, "onnxruntime"),
        (["run", MODEL, "--precision", "fp8"], {2}, "fp8"),
        (["run", MODEL, "--batch", "0"], {2}, "batch"),
        (["run", MODEL, "--task", "no-such-task"], {2, 4}, "no-such-task"),
        (["run", MODEL, "--input", "@/no/such/file"], {2}, "/no/such/file"),
        (["run", MODEL, "--input-file", "/no/such.jsonl"], {2}, "/no/such.jsonl"),
        (["run", MODEL, "--resume"], {2}, "--output"),
        (["run", MODEL, "--weights", "heavy"], {2}, "heavy"),
        (["run", "/no/such/folder"], {2, 3}, "/no/such/folder"),
        (["run", MODEL, "--no-such-option"], {2}, "--no-such-option"),
        (["run"], {2}, "model"),
    ],
)
def test_wrong_use_is_told_with_a_way_on(warm: Path, arguments: list[str], code: set[int], said: str) -> None:
    done = accel(*arguments, home=warm)
    assert done.returncode in code, done.stderr
    assert said in done.stderr
    assert "\n  " in done.stderr, "no hint"
    assert done.stdout == ""


def test_an_error_with_json_is_one_object_on_stderr(warm: Path) -> None:
    done = accel("run", MODEL, "--hw", "cuda", "--json", home=warm)
    error = json.loads(done.stderr)
    assert error["exit_code"] == done.returncode == 3
    assert error["message"] and error["hint"]


def test_an_overlong_input_is_refused_unless_truncated(warm: Path) -> None:
    text = "word " * 100_000
    done = accel("run", MODEL, home=warm, stdin=json.dumps({"text": text}) + "\n")
    assert done.returncode == 7
    assert "100002 tokens" in done.stderr and "--truncate" in done.stderr
    (answer,) = answers("run", MODEL, "--truncate", home=warm, stdin=json.dumps({"text": text}) + "\n")
    assert len(answer["output"]["embedding"]) == 384


def damage(home: Path, how: str) -> None:
    (graph,) = home.glob("prepared/*/onnxruntime-*/*.data")
    if how == "truncated":
        os.truncate(graph, graph.stat().st_size // 2)
    elif how == "gone":
        graph.unlink()
    elif how == "flipped":
        with graph.open("r+b") as file:
            file.seek(graph.stat().st_size // 2)
            file.write(b"\xff" * 64)
    elif how == "manifest":
        (graph.parent / "manifest.json").write_text("{")
    elif how == "recipe":
        (graph.parent.parent / "recipe.json").write_text("nothing")


@pytest.mark.parametrize("how", ["truncated", "gone", "flipped", "manifest", "recipe"])
def test_a_damaged_ready_plan_is_built_again(own: Path, how: str) -> None:
    expected = embedding("hello world", own)
    damage(own, how)
    assert np.abs(embedding("hello world", own) - expected).max() < 1e-5
    line = succeed("run", MODEL, "--input", "hello world", home=own).stderr
    assert "measured:" in line


def test_prepared_plans_are_shown_and_cleared(own: Path) -> None:
    listed = succeed("config", "prepared", "--json", home=own).stdout
    assert "onnxruntime" in listed
    succeed("config", "clear", home=own)
    assert not list((own / "prepared").glob("*/*/manifest.json"))
    assert embedding("hello world", own).shape == (384,)


def test_a_home_that_cannot_be_written_still_answers(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the home folder should be")
    done = accel("run", MODEL, "--input", "x", "--hw", "cpu", "--engine", "onnxruntime", home=blocked / "home")
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stderr
    assert "384 numbers" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_home_says_so(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        done = accel("run", MODEL, "--input", "x", "--engine", "onnxruntime", "--hw", "cpu", home=small)
        assert done.returncode == 5, done.stderr
        assert "No space left" in done.stderr
        assert not list(small.glob("prepared/*/*/manifest.json"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_two_first_runs_at_once_both_answer(tmp_path: Path) -> None:
    home = tmp_path / "home"
    arguments = [*ACCEL, "run", MODEL, "--input", "hello", "--hw", "cpu", "--engine", "onnxruntime", "--json"]
    runs = [
        subprocess.Popen(arguments, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    first, second = (np.asarray(json.loads(out)["output"]["embedding"]) for out, _ in outputs)
    assert np.abs(first - second).max() < 1e-6
    assert not [p for p in (home / "prepared").rglob(".*") if p.is_dir()]


def test_timeout_ends_a_slow_run_with_124(tmp_path: Path) -> None:
    started = time.monotonic()
    done = accel("run", MODEL, "--input", "x", "--timeout", "1.5", home=tmp_path / "home")
    assert done.returncode == 124, done.stderr
    assert time.monotonic() - started < 10


def lines_file(path: Path, count: int) -> Path:
    words = "the quick brown fox jumps over a lazy dog while it rains in the old town"
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(words.split(), generator.integers(2, 60))) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bulk_answers_in_order_and_as_single_runs_do(warm: Path, tmp_path: Path) -> None:
    source, out = lines_file(tmp_path / "in.txt", 100), tmp_path / "out.jsonl"
    succeed("run", MODEL, "--input-file", source, "--output", out, home=warm)
    found = rows(out)
    assert [r["index"] for r in found] == list(range(100))
    for k in (0, 57, 99):
        alone = embedding(source.read_text().splitlines()[k], warm)
        assert np.abs(np.asarray(found[k]["output"]["embedding"]) - alone).max() < 1e-5


def test_bad_lines_are_reported_and_the_rest_is_done(warm: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "good"}\nbroken\n{"text": "also good"}\n')
    done = accel("run", MODEL, "--input-file", source, "--output", out, home=warm)
    assert done.returncode == 7
    assert "input 2" in done.stderr
    assert [r["output"] is not None for r in rows(out)] == [True, False, True]
    assert "not valid JSON" in rows(out)[1]["error"]["message"]


@pytest.fixture
def slow_bulk(warm: Path, tmp_path: Path) -> Iterator[tuple[list[str], Path]]:
    """A bulk run that takes some seconds, and the file it writes."""
    source, out = lines_file(tmp_path / "in.txt", 3000), tmp_path / "out.jsonl"
    yield ["run", MODEL, "--input-file", str(source), "--output", str(out), "--batch", "4"], out


def start_and_wait_for_results(arguments: list[str], out: Path, home: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*ACCEL, *arguments], env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (out.exists() and out.stat().st_size):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_bulk_run_goes_on_where_it_was(
    slow_bulk: tuple[list[str], Path], warm: Path, how: signal.Signals, code: int
) -> None:
    arguments, out = slow_bulk
    process = start_and_wait_for_results(arguments, out, warm)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == code
    raw = out.read_bytes()
    kept = [json.loads(line) for line in raw.splitlines()] if how != signal.SIGKILL else []
    assert 0 < len(raw.splitlines()) < 3000
    assert [r["index"] for r in kept] == list(range(len(kept)))
    succeed(*arguments, "--resume", home=warm)
    assert [r["index"] for r in rows(out)] == list(range(3000))
    assert out.read_bytes().startswith(raw[: raw.rindex(b"\n") + 1])


def test_an_empty_file_is_an_error(warm: Path, tmp_path: Path) -> None:
    empty = tmp_path / "in.txt"
    empty.touch()
    done = accel("run", MODEL, "--input-file", empty, home=warm)
    assert done.returncode == 2
    assert "no input" in done.stderr


def test_a_reader_that_goes_away_is_no_error(warm: Path, tmp_path: Path) -> None:
    feed = "\n".join(["hello"] * 3000)
    script = f"{' '.join(ACCEL)} run {MODEL} --json 2>err.txt | head -n1; echo ${{PIPESTATUS[0]}}; cat err.txt"
    done = subprocess.run(
        ["bash", "-c", script], input=feed, capture_output=True, text=True, env=environment(warm), cwd=tmp_path,
        timeout=120, check=True,
    )  # fmt: skip
    status = done.stdout.splitlines()[1]
    assert status in ("0", "141"), done.stdout[-2000:]
    assert "Traceback" not in done.stdout
