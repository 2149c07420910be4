"""`accel bench` as its user meets it: a shell, a CI job, cron, and interruptions at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.core.bench import parts
from tests.program import ACCEL, accel, environment, succeed

QUICK = ("--max-time", "300ms", "--precision-target", "50%", "--processes", "1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts.onnx_model(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH with the package of evil engines."""
    folder = parts.install(tmp_path_factory.mktemp("evil"), after=3)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def document(*arguments: object, code: int = 0, **options: Any) -> dict[str, Any]:
    """What `accel bench ... --json` prints."""
    done = accel("bench", *arguments, "--json", **options)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_json_for_scripts(tiny: Path, evil: str) -> None:
    found = document(
        tiny, "--hw", "cpu", "--engine", "onnxruntime,evil-plain", "--batch", "1,4", *QUICK, PYTHONPATH=evil
    )
    assert found["schema"] == "accel.bench/1" and found["precision_target"] == 0.5
    assert len(found["cells"]) == 4 and {cell["status"] for cell in found["cells"]} == {"ok"}
    cell = found["cells"][0]
    low, high = cell["latency_interval_ms"]
    # a third of a second on a busy machine may not bound a median
    assert (low is None or low <= cell["latency_ms"]) and (high is None or cell["latency_ms"] <= high)
    assert set(cell["quantiles"]) == {"p50", "p90", "p95", "p99"}
    assert found["environment"]["fingerprint"] and found["environment"]["versions"]["onnxruntime"]
    assert "path" not in found["environment"]
    pinned = json.loads(succeed("pin", tiny, "--json").stdout)
    assert {cell["model_cid"] for cell in found["cells"]} == {pinned["cid"]}
    assert found["comparisons"] is None and found["broken_budgets"] == []


def test_a_person_sees_what_differs_between_the_cells(tiny: Path) -> None:
    done = succeed("bench", tiny, "--hw", "cpu", "--engine", "onnxruntime", "--batch", "1,4", *QUICK)
    flowing = " ".join(done.stdout.split())  # a long path wraps where the terminal ends
    assert "cpu:0 · onnxruntime" in flowing and "batch" in flowing and "per s" in flowing
    assert "load " in flowing and "first run " in flowing and "energy" in flowing
    assert "2 cells to measure" in done.stderr and "[2/2]" in done.stderr
    bare = succeed("bench", tiny, "--hw", "cpu", "--engine", "onnxruntime", *QUICK, "--quiet")
    (line,) = bare.stdout.splitlines()
    key, value = line.split("\t")
    assert key.endswith("batch 1") and float(value) > 0
    assert all(line.startswith("warning: ") for line in bare.stderr.splitlines()), "a noisy machine is said"


def test_progress_on_a_terminal(tiny: Path, tmp_path: Path) -> None:
    """Cells done of all, the current one and the time left, on a line that replaces itself."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [*ACCEL, "bench", str(tiny), "--hw", "cpu", "--engine", "onnxruntime", "--batch", "1,2", *QUICK],
        env=environment(tmp_path / "home", TERM="xterm-256color"), stdout=subprocess.DEVNULL, stderr=slave,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while piece := os.read(master, 4096):
            shown += piece
    os.close(master)
    assert child.wait(60) == 0
    text = shown.decode()
    assert "\r\x1b[K[0/2" in text and re.search(r"\[1/2, \d+ s left\]", text) and "[2/2]" in text


def test_failed_cells_are_partial_and_the_others_are_done(tiny: Path, evil: str) -> None:
    done = accel("bench", tiny, "--hw", "cpu", "--engine", "onnxruntime,evil-crash", *QUICK, "--json", PYTHONPATH=evil)
    assert done.returncode == 7
    words = {cell["engine"]: (cell["status"], cell["cause"]) for cell in json.loads(done.stdout)["cells"]}
    assert words == {"onnxruntime": ("ok", None), "evil-crash": ("failed", "crash")}
    assert json.loads(done.stderr.splitlines()[-1])["error"] == "partial"


def test_budgets_and_files_for_ci(tiny: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    done = accel(
        "bench", tiny, "--hw", "cpu", "--engine", "onnxruntime", *QUICK,
        "--assert", "p95<1ns", "--assert", "cosine>0.9",
        "--junit", tmp_path / "out" / "junit.xml", "--markdown", tmp_path / "pr.md", "--github",
        GITHUB_STEP_SUMMARY=str(summary),
    )  # fmt: skip
    assert done.returncode == 6
    assert "p95<1ns: it is" in done.stdout and "::error title=accel bench" in done.stderr
    suite = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot().find("testsuite")
    assert suite is not None and suite.get("failures") == "1"
    assert (tmp_path / "pr.md").read_text() == summary.read_text()
    assert "p95<1ns" in summary.read_text()


def test_a_baseline_saved_and_compared(tiny: Path, tmp_path: Path, evil: str) -> None:
    home = tmp_path / "home"
    saved = document(tiny, "--hw", "cpu", "--engine", "onnxruntime", *QUICK, "--save-as", "main", home=home)
    assert saved["saved_as"].endswith("main.json")
    found = document(
        tiny, "--hw", "cpu", "--engine", "onnxruntime", "--batch", "1,2", *QUICK,
        "--baseline", "main", "--fail-on-regression", "99%", home=home,
    )  # fmt: skip
    assert found["baseline"]["name"] == "main"
    assert {difference["what"] for difference in found["baseline"]["differences"]} <= {"code"}, "a checkout may change"
    verdicts = {c["key"].partition("batch ")[2]: c["verdict"] for c in found["comparisons"]}
    assert verdicts["2"] == "new" and verdicts["1"] in ("same", "faster", "undecided")
    assert found["regression_threshold"] == pytest.approx(0.99)


def test_a_baseline_of_other_hardware(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    document(tiny, "--hw", "cpu", "--engine", "onnxruntime", *QUICK, "--save-as", file)
    data = json.loads(file.read_text())
    data["machines"] = dict.fromkeys(["0123456789abcdef"], *data["machines"].values())
    file.write_text(json.dumps(data))
    done = accel("bench", tiny, "--hw", "cpu", "--engine", "onnxruntime", *QUICK, "--baseline", file, "--json")
    assert done.returncode == 3 and done.stdout == ""
    error = json.loads(done.stderr.splitlines()[-1])
    assert "of other hardware" in error["message"] and "--save-as" in error["hint"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--baseline", "nope"], 3, "no baseline"),
        (["--fail-on-regression", "3%"], 2, "--baseline"),
        (["--save-as", "no name"], 2, "no name for a baseline"),
        (["--save-as", "./"], 2, "is a folder"),
        (["--assert", "p95"], 2, "cannot be read"),
        (["--precision-target", "300%"], 2, "is not a share"),
        (["--batch", "one"], 2, "whole numbers"),
        (["--seq", "0"], 2, "cannot be 0"),
        (["--affinity", "999"], 2, "may not use"),
        (["--budget", "soon"], 2, "is not a duration"),
        (["--engine", "tortch"], 2, "no engine is called"),
        (["--hw", "cuda"], 3, "no cuda device"),
        (["--weights", "heavy"], 2, "is unknown"),
        (["--resume"], 2, "no interrupted sweep"),
        (["--input-file", "/nowhere.txt"], 2, "no file"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    tiny: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    done = accel("bench", tiny, *arguments, "--json", home=tmp_path / "home")
    assert done.returncode == code and done.stdout == ""
    error = json.loads(done.stderr.splitlines()[-1])
    assert says in error["message"] + error["hint"] and error["hint"]
    assert not (tmp_path / "home" / "prepared").exists() and list(tmp_path.glob("home/bench/*/journal.jsonl")) == []


def test_nothing_at_all_is_wrong_usage() -> None:
    done = accel("bench")
    assert done.returncode == 2 and "accel bench all-minilm" in done.stderr


def test_a_matrix_from_a_file_with_ten_thousand_cells_that_cannot_work(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(
        f'models = ["all-minilm"]\nhw = "cpu"\nengine = "onnxruntime"\nbatch = {list(range(1, 101))}\n'
        f"seq = {list(range(1001, 1101))}\n"
    )
    done = accel("bench", "--matrix", tmp_path / "sweep.toml", "--json")
    assert done.returncode == 3 and "none of 10000 cells" in done.stderr


def test_a_cron_environment(tiny: Path, tmp_path: Path) -> None:
    """No HOME, no terminal, a minimal PATH, the C locale."""
    variables = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "IPFS_ACCELERATE_HOME": str(tmp_path / "home")}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*ACCEL, "bench", str(tiny), "--hw", "cpu", "--engine", "onnxruntime", *QUICK],
        env={**variables, "PYTHONPATH": root}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"onnxruntime" in done.stdout and b"\x1b" not in done.stdout + done.stderr
    assert (tmp_path / "home" / "results.duckdb").exists()


def long_sweep(tiny: Path) -> list[str]:
    """A sweep of six cells and some seconds."""
    return [
        "bench", str(tiny), "--hw", "cpu", "--engine", "onnxruntime", "--batch", "1,2,3,4,5,6",
        "--max-time", "600ms", "--precision-target", "0.01%", "--processes", "1", "--no-agreement",
    ]  # fmt: skip


def stored(home: Path) -> list[str]:
    """Keys of the cells in the results."""
    code = """
from accel.core import results
results.merge()
with results.open_reader() as con:
    for (key,) in con.execute("SELECT metadata->>'key' FROM benchmark_results").fetchall():
        print(key)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(home), capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")[:-1]


@pytest.fixture
def started(tiny: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [*ACCEL, *long_sweep(tiny)], env=environment(tmp_path / "home"), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    yield child
    child.kill()
    child.communicate()


def wait_for(path: Path, pattern: str, count: int) -> None:
    """Waits until journals below a folder hold a pattern so often."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        text = "".join(p.read_text(errors="replace") for p in path.glob("bench/*/journal.jsonl"))
        if text.count(pattern) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{pattern} did not come {count} times")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_and_resumed(
    tiny: Path, tmp_path: Path, started: subprocess.Popen[str], number: int, code: int
) -> None:
    home = tmp_path / "home"
    wait_for(home, '"kind":"cell"', 1)
    started.send_signal(number)
    _, err = started.communicate(timeout=30)
    assert started.returncode == code and "--resume" in err
    done = succeed("bench", "--resume", home=home)
    assert "of them finished earlier" in done.stderr
    assert len(stored(home)) == len(set(stored(home))) == 6
    assert list(home.glob("bench/*/journal.jsonl")) == []


def killed_and_resumed(tiny: Path, home: Path, moments: list[float]) -> None:
    """Kills a sweep at these moments (seconds after its start), resumes it each time, and lets it end at last."""
    seen: set[str] = set()
    arguments = long_sweep(tiny)
    for moment in moments:
        child = subprocess.Popen(
            [*ACCEL, *arguments], env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        time.sleep(moment)
        child.kill()
        _, err = child.communicate()
        assert child.returncode in (-signal.SIGKILL, 0), err
        journals = list(home.glob("bench/*/journal.jsonl"))
        if journals:
            arguments = ["bench", "--resume"]
        finished = {
            json.loads(line)["outcome"]["cell"]["batch"]
            for path in journals
            for line in path.read_text(errors="replace").splitlines()
            if line.startswith('{"kind":"cell"') and line.endswith("}")
        }
        # a journal that is gone is one of a sweep whose results are stored
        assert seen <= finished if journals else not seen or len(stored(home)) == 6
        seen |= finished
        if seen and not journals:
            break
    # all of the moments may have been too early for anything to be begun
    if list(home.glob("bench/*/journal.jsonl")) or not stored(home):
        succeed(*arguments, home=home)
    assert len(stored(home)) == len(set(stored(home))) == 6


def test_killed_at_a_few_moments(tiny: Path, tmp_path: Path) -> None:
    killed_and_resumed(tiny, tmp_path / "home", [random.Random(1).uniform(2, 5), 3.0])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("quarter", range(4))
def test_killed_at_a_hundred_moments(tiny: Path, tmp_path: Path, quarter: int) -> None:
    draws = random.Random(quarter)
    for number in range(5):
        killed_and_resumed(tiny, tmp_path / f"home-{number}", [draws.uniform(0.3, 6.0) for _ in range(5)])


def test_a_killed_sweep_leaves_no_process(tiny: Path, started: subprocess.Popen[str], tmp_path: Path) -> None:
    wait_for(tmp_path / "home", '"kind":"cell"', 1)
    started.kill()
    started.wait()
    deadline = time.monotonic() + 60
    left = [0]
    while left and time.monotonic() < deadline:
        left = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and str(tmp_path / "home").encode() in (folder / "environ").read_bytes():
                    left.append(int(folder.name))
            except OSError:
                continue
        time.sleep(0.1)
    assert left == []


def test_the_time_limit_of_the_command(tiny: Path, tmp_path: Path) -> None:
    done = accel(*long_sweep(tiny), "--timeout", "3", home=tmp_path / "home")
    assert done.returncode == 124
    assert len(stored(tmp_path / "home")) < 6


def test_inputs_of_ones_own_and_made_up_ones_of_a_length(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one short line\n" + "a much longer line of text " * 5 + "\n")
    common = ("all-minilm", "--hw", "cpu", "--engine", "onnxruntime", "--batch", "2", "--no-agreement", *QUICK)
    home = tmp_path / "home"
    (own,) = document(*common, "--input-file", tmp_path / "in.txt", home=home)["cells"]
    assert own["input_length"] > 20 and own["status"] == "ok"
    made = document(*common, "--seq", "8,24", home=home)["cells"]
    assert [cell["input_length"] for cell in made] == [8, 24]


def test_labels_are_compared_with_those_of_torch(tmp_path: Path, evil: str) -> None:
    folder = tmp_path / "tiny-resnet"
    folder.mkdir()
    stages = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32], "embedding_size": 8}
    names = {"0": "cat", "1": "dog", "2": "horse"}
    config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], **stages, "id2label": names}
    (folder / "config.json").write_text(json.dumps(config))
    arguments = (folder, "--weights", "random", "--hw", "cpu", "--engine", "onnxruntime,evil-wrong", *QUICK)
    cells = {cell["engine"]: cell for cell in document(*arguments, PYTHONPATH=evil)["cells"]}
    assert cells["onnxruntime"]["agreement"]["top1"] == 1.0
    # it answers with every score negated, so that the least likely label comes first
    assert cells["evil-wrong"]["agreement"]["top1"] == 0.0 and cells["evil-wrong"]["agreement"]["cosine"] < 0
    assert cells["onnxruntime"]["model_cid"] is None


def test_a_text_decoder_has_a_first_token_and_a_rate(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-gpt2"
    folder.mkdir()
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 300, "n_positions": 64, "n_embd": 32,
        "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (cell,) = document(
        folder, "--weights", "random", "--hw", "cpu", "--engine", "torch", "--seq", "16", "--max-new-tokens", "8",
        "--no-agreement", *QUICK,
    )["cells"]  # fmt: skip
    assert (cell["task"], cell["input_length"]) == ("text-generation", 16)
    assert 0 < cell["first_token_ms"] < cell["latency_ms"] and cell["tokens_per_s"] > 0
    # energy is a number, or it is said why not
    assert (cell["energy_j"] is None) == bool(cell["energy_note"])


def test_a_limit_of_memory_and_processors(tiny: Path, evil: str) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    found = document(
        tiny, "--hw", "cpu", "--engine", "evil-memory,onnxruntime", "--memory-limit", "1GB", "--affinity", cpu,
        "--cell-timeout", "60s", *QUICK, code=7, PYTHONPATH=evil,
    )  # fmt: skip
    words = {cell["engine"]: (cell["status"], cell["cause"]) for cell in found["cells"]}
    assert words == {"evil-memory": ("failed", "memory"), "onnxruntime": ("ok", None)}


def test_ten_thousand_cells_that_may_work_within_a_budget(tiny: Path) -> None:
    batches = ",".join(map(str, range(1, 10_001)))
    found = document(
        tiny, "--hw", "cpu", "--engine", "onnxruntime", "--batch", batches, "--no-agreement", "--budget", "4s"
    )
    words = [cell["status"] for cell in found["cells"]]
    assert len(words) == 10_000 and words.count("ok") >= 1 and set(words) == {"ok", "skipped"}
    assert "the budget of 4 s was spent" in next(c["reason"] for c in found["cells"] if c["status"] == "skipped")
