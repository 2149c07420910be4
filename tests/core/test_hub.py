"""The hub client against a local server that speaks the hub's API, and the cache as later runs find it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.core import download, hub
from accel.core.errors import AccelError, IncompatibleError, InputError, TransferError, UnavailableError
from accel.core.models import resolve
from tests.hubserver import HubServer, bert_files, safetensors

BERT = "google-bert/bert-base-uncased"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with bert-base that this process may reach; huggingface_hub reads its variables only when imported."""
    from huggingface_hub import constants

    with HubServer() as running:
        running.add(BERT, bert_files())
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
        monkeypatch.setattr(download, "WAIT_S", 0.01)
        yield running


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def blob(name: str) -> Path:
    return hub.repository_folder(BERT) / "blobs" / hashlib.sha256(bert_files()[name]).hexdigest()


def partial(name: str) -> Path:
    return blob(name).with_name(blob(name).name + ".incomplete")


def fails(error: type[AccelError], **options: object) -> AccelError:
    with pytest.raises(error) as caught:
        resolve("bert-base", **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


def test_bert_base_comes_with_only_the_files_a_run_needs(server: HubServer) -> None:
    model = resolve("bert-base")
    assert (model.source, model.layout, model.family, model.task) == (
        "hub",
        "transformers",
        "text-encoder",
        "fill-mask",
    )
    assert model.revision == server.repositories[BERT].commit
    assert model.weights == "pretrained"
    assert model.files == NEEDED
    assert model.folder is not None
    for name in NEEDED:
        assert (model.folder / name).read_bytes() == bert_files()[name]
    fetched = {request.path.rpartition("/")[2] for request in server.transfers()}
    assert fetched == set(NEEDED)


def test_the_cache_is_the_one_of_huggingface_hub(server: HubServer) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

    model = resolve("bert-base")
    assert model.folder is not None
    cache = hub.cache_folder()
    asked = len(server.requests)
    for name in NEEDED:
        assert try_to_load_from_cache(BERT, name, cache_dir=cache) == str(model.folder / name)
    offline = hf_hub_download(BERT, "model.safetensors", cache_dir=cache, local_files_only=True)
    assert offline == str(model.folder / "model.safetensors")
    assert snapshot_download(BERT, cache_dir=cache, local_files_only=True, allow_patterns=list(NEEDED)) == str(
        model.folder
    )
    assert len(server.requests) == asked
    assert not list(hub.repository_folder(BERT).rglob("*.incomplete"))


def test_second_time_asks_nobody_and_imports_nothing_slow(server: HubServer, tmp_path: Path) -> None:
    first = resolve("bert-base")
    asked = len(server.requests)
    assert resolve("bert-base") == first
    assert len(server.requests) == asked
    program = (
        "import sys, time, json\n"
        "from accel.core.models import resolve\n"
        "start = time.perf_counter()\n"
        "model = resolve('bert-base')\n"
        "print(json.dumps([time.perf_counter() - start, model.digest, sorted(sys.modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    seconds, digest, modules = json.loads(done.stdout)
    assert digest == first.digest
    assert len(server.requests) == asked
    assert not {"huggingface_hub", "transformers", "torch", "numpy", "tqdm", "importlib.metadata"} & set(modules)
    assert seconds < 0.1, "it takes 3 ms on a quiet machine"


def test_real_environment_variables_reach_the_real_client(server: HubServer, tmp_path: Path) -> None:
    program = (
        "from accel.core.models import resolve\n"
        "print(resolve('bert-base', progress=lambda label, done, total: print(label, done, total)).folder)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **server.environment(tmp_path)},
    )
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(str(tmp_path / "hf" / "hub"))
    total = sum(len(bert_files()[name]) for name in NEEDED)
    assert f"downloading {BERT} {total} {total}" in lines
    assert done.stderr == ""


def test_refresh_sees_a_new_commit_and_keeps_what_did_not_change(server: HubServer) -> None:
    first = resolve("bert-base")
    files = {**bert_files(), "vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n"}
    commit = server.add(BERT, files)
    assert resolve("bert-base").revision == first.revision
    asked = len(server.transfers())
    second = resolve("bert-base", refresh=True)
    assert second.revision == commit != first.revision
    assert second.digest != first.digest
    assert not [r for r in server.transfers()[asked:] if r.path.endswith("model.safetensors")]
    assert resolve("bert-base").revision == commit
    assert resolve(f"{BERT}@{first.revision}").revision == first.revision


def test_a_revision_can_be_a_branch_a_commit_or_the_start_of_one(server: HubServer) -> None:
    commit = server.add(BERT, bert_files(), revision="v1.0")
    assert resolve(f"{BERT}@v1.0").revision == commit
    assert resolve(BERT, revision=commit).revision == commit
    assert resolve(f"{BERT}@{commit[:8]}").revision == commit
    with pytest.raises(UnavailableError, match="no revision 'v2'"):
        resolve(f"{BERT}@v2")
    with pytest.raises(InputError, match="two revisions"):
        resolve(f"{BERT}@v1.0", revision="main")
    assert resolve(f"https://huggingface.co/{BERT}/tree/v1.0").revision == commit
    assert resolve(f"https://huggingface.co/{BERT}").name == BERT
    for bad in ("../../x", "", "-x"):
        with pytest.raises(InputError):
            resolve(f"{BERT}@{bad}")


def test_broken_download_goes_on_within_a_run(server: HubServer) -> None:
    server.faults.break_after = 100_000
    model = resolve("bert-base")
    assert model.folder is not None
    assert (model.folder / "model.safetensors").read_bytes() == bert_files()["model.safetensors"]
    ranges = [request.range for request in server.transfers("model.safetensors")]
    assert ranges[0] is None
    assert ranges[1:] == [f"bytes={100_000 * i}-" for i in range(1, len(ranges))]
    assert len(ranges) == 4


def test_broken_download_goes_on_in_the_next_run(server: HubServer) -> None:
    server.faults.break_after, server.faults.break_times, server.faults.then_status = 120_000, 1, 503
    error = fails(TransferError)
    assert error.exit_code == 5
    assert f"broke off at 120000 of {len(bert_files()['model.safetensors'])} bytes" in error.message
    assert "goes on where it stopped" in error.hint
    asked = len(server.transfers("model.safetensors"))
    assert asked == 1 + download.ATTEMPTS
    server.faults.then_status = None
    model = resolve("bert-base")
    assert [r.range for r in server.transfers("model.safetensors")[asked:]] == ["bytes=120000-"]
    assert model.folder is not None
    assert (model.folder / "model.safetensors").read_bytes() == bert_files()["model.safetensors"]
    assert not partial("model.safetensors").exists()


def test_a_transfer_that_never_brings_anything_ends(server: HubServer) -> None:
    server.faults.break_after = 0
    assert "broke off at 0 of" in fails(TransferError).message
    assert len(server.transfers("model.safetensors")) == download.ATTEMPTS


def test_killed_in_the_middle_then_goes_on(server: HubServer, tmp_path: Path) -> None:
    files = bert_files(3_000_000)
    server.add(BERT, files)
    environment = {**os.environ, **server.environment(tmp_path)}
    program = (
        "import os, signal\n"
        "from accel.core.models import resolve\n"
        "def stop(label, done, total):\n"
        "    if done > 2_200_000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "resolve('bert-base', progress=stop)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert killed.returncode == -9
    left = list((tmp_path / "hf" / "hub").rglob("*.incomplete"))
    assert len(left) == 1
    held = left[0].stat().st_size
    assert 0 < held < 3_000_000
    again = program.replace("2_200_000", "9_000_000")
    subprocess.run([sys.executable, "-c", again], env=environment, capture_output=True, check=True)
    assert server.transfers("model.safetensors")[-1].range == f"bytes={held}-"
    assert [p.read_bytes() for p in (tmp_path / "hf" / "hub").rglob("model.safetensors")] == [
        files["model.safetensors"]
    ]


def test_an_interrupt_ends_it_at_once_and_keeps_what_came(server: HubServer, tmp_path: Path) -> None:
    server.add(BERT, bert_files(3_000_000))
    server.faults.pace_s = 0.02
    program = (
        "import signal, time\n"
        "import huggingface_hub.hf_api\n"
        "from accel.core.models import resolve\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1.0)\n"
        "start = time.monotonic()\n"
        "try:\n"
        "    resolve('bert-base')\n"
        "except KeyboardInterrupt:\n"
        "    print(time.monotonic() - start)\n"
    )
    environment = {**os.environ, **server.environment(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 2.5
    (left,) = (tmp_path / "hf" / "hub").rglob("*.incomplete")
    assert 100_000 < left.stat().st_size < 3_000_000


def test_a_bad_beginning_from_an_earlier_run_is_fetched_again(server: HubServer) -> None:
    old = partial("model.safetensors")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x" * 1000)
    model = resolve("bert-base")
    assert model.folder is not None
    assert (model.folder / "model.safetensors").read_bytes() == bert_files()["model.safetensors"]
    assert [r.range for r in server.transfers("model.safetensors")] == ["bytes=1000-", None]


def test_a_server_that_ignores_ranges(server: HubServer) -> None:
    old = partial("model.safetensors")
    old.parent.mkdir(parents=True)
    old.write_bytes(bert_files()["model.safetensors"][:5000])
    server.faults.ignore_range = True
    model = resolve("bert-base")
    assert model.folder is not None
    assert (model.folder / "model.safetensors").read_bytes() == bert_files()["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_wrong_bytes_are_refused_and_deleted(server: HubServer, name: str) -> None:
    server.faults.corrupt.add(name)
    error = fails(TransferError)
    assert name in error.message
    assert "wrong bytes" in error.message
    for path in hub.cache_folder().rglob("*"):
        if path.is_file():
            assert path.read_bytes()[:1] != bytes([bert_files()[name][0] ^ 0xFF]), path
    server.faults.corrupt.clear()
    model = resolve("bert-base")
    assert model.folder is not None
    assert (model.folder / name).read_bytes() == bert_files()[name]


def test_a_part_of_a_download_is_never_taken_for_the_whole(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults.corrupt.add("model.safetensors")
    fails(TransferError)
    assert (hub.repository_folder(BERT) / "snapshots").is_dir()
    go_offline(monkeypatch)
    assert fails(UnavailableError).exit_code == 3


def test_a_file_that_vanished_is_fetched_again(server: HubServer) -> None:
    model = resolve("bert-base")
    assert model.folder is not None
    (model.folder / "vocab.txt").unlink()
    again = resolve("bert-base")
    assert again.digest == model.digest
    assert (model.folder / "vocab.txt").read_bytes() == bert_files()["vocab.txt"]


def test_gated_model(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    llama = "meta-llama/Llama-3.2-1B-Instruct"
    files = {"config.json": b'{"model_type": "llama"}', "model.safetensors": safetensors({"w": ("F32", [1], b"1234")})}
    server.add(llama, files, gated=True, tokens=("hf_accepted",))
    with pytest.raises(UnavailableError, match="gated") as caught:
        resolve("llama-3.2-1b")
    assert caught.value.exit_code == 3
    assert "HF_TOKEN" in caught.value.hint
    assert f"{server.url}/{llama}" in caught.value.hint
    assert "--weights random" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(UnavailableError, match="403"):
        resolve("llama-3.2-1b")
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    assert resolve("llama-3.2-1b").source == "hub"
    with_token = {request.server for request in server.requests if request.token}
    assert with_token == {"hub"}, "the token must not leave the hub"


def test_unknown_and_private_models(server: HubServer) -> None:
    server.add("me/secret", bert_files(), private=True)
    for name in ("me/secret", "google-bert/bert-base-uncaseed"):
        with pytest.raises(UnavailableError, match="there is no model") as caught:
            resolve(name)
        assert caught.value.exit_code == 3
    assert f"did you mean {BERT}" in caught.value.hint
    with pytest.raises(UnavailableError, match="'gpt3' is not in the catalogue") as caught:
        resolve("gpt3")
    assert "gpt2" in caught.value.hint


def test_no_network(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.close()
    error = fails(TransferError)
    assert error.exit_code == 5
    assert "cannot reach" in error.message
    assert "--weights random" in error.hint
    assert "folder" in error.hint


def test_a_server_that_does_not_answer_in_time(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    server.faults.delay_s = 1.0
    assert "took too long" in fails(TransferError).message


def test_a_server_with_a_problem_and_one_that_is_no_hub(server: HubServer) -> None:
    server.faults.status = 503
    assert "503" in fails(TransferError).message
    server.faults.status = None
    server.faults.html = True
    assert "did not answer like a hub" in fails(TransferError).message


def test_offline_says_so_and_uses_what_is_there(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    error = fails(UnavailableError)
    assert "HF_HUB_OFFLINE" in error.message
    assert not server.requests
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    first = resolve("bert-base")
    go_offline(monkeypatch)
    assert resolve("bert-base") == first
    assert fails(UnavailableError, refresh=True).exit_code == 3


def test_what_another_program_downloaded_is_used(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, isolated_home: Path
) -> None:
    resolve("bert-base")
    shutil.rmtree(isolated_home / "models")
    asked = len(server.transfers())
    assert not resolve("bert-base").notes, "online, the hub is asked and nothing is fetched again"
    assert len(server.transfers()) == asked
    shutil.rmtree(isolated_home / "models")
    go_offline(monkeypatch)
    model = resolve("bert-base")
    assert model.files == NEEDED
    assert "hub's cache" in model.notes[0]
    assert model.folder is not None
    (model.folder / "model.safetensors").unlink()
    shutil.rmtree(isolated_home / "models")
    assert fails(UnavailableError).exit_code == 3


def test_too_little_disk_names_both_numbers(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=64_200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    server.add(BERT, bert_files(8_000_000))
    error = fails(TransferError)
    assert error.details["free_bytes"] == 64_200_000
    assert int(str(error.details["needed_bytes"])) > 8_000_000
    assert "0.01 GB" in error.message
    assert "0.06 GB" in error.message
    assert not server.transfers()


def test_read_only_cache(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("HF_HUB_CACHE", str(blocked / "hub"))
    error = fails(TransferError)
    assert str(blocked) in error.message


def test_random_weights_of_a_hub_id_take_the_configuration_alone(server: HubServer) -> None:
    model = resolve(BERT, weights="random")
    assert model.weights == "random"
    assert model.source == "hub"
    assert "model.safetensors" not in model.files
    assert "vocab.txt" in model.files
    assert not server.transfers("model.safetensors")
    whole = resolve(BERT)
    assert "model.safetensors" in whole.files
    assert whole.digest != model.digest
    assert resolve(BERT, weights="random") == model


def test_random_weights_of_a_known_hub_id_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = resolve(BERT, weights="random")
    assert model.source == "catalogue"
    assert model.config["model_type"] == "bert"


def test_sharded_weights_and_pickles(server: HubServer) -> None:
    parts = {f"model-0000{i}-of-00002.safetensors": safetensors({f"w{i}": ("F32", [1], b"1234")}) for i in (1, 2)}
    index = {"weight_map": {f"w{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}}
    shared = {"config.json": bert_files()["config.json"], "model.safetensors.index.json": json.dumps(index).encode()}
    server.add("big/sharded", {**shared, **parts, "model.fp16.safetensors": b"no"})
    assert resolve("big/sharded").files == ("config.json", *sorted(parts), "model.safetensors.index.json")
    server.add("old/pickle", {"config.json": shared["config.json"], "pytorch_model.bin": b"PK", "tf_model.h5": b"no"})
    assert resolve("old/pickle").files == ("config.json", "pytorch_model.bin")
    server.add("only/tensorflow", {"config.json": shared["config.json"], "tf_model.h5": b"no"})
    with pytest.raises(UnavailableError, match="TensorFlow"):
        resolve("only/tensorflow")


def test_what_cannot_run_is_refused_before_its_weights_are_fetched(server: HubServer) -> None:
    weights = {"model.safetensors": bert_files()["model.safetensors"]}
    server.add("new/architecture", {"config.json": b'{"model_type": "qqq", "architectures": ["QqqModel"]}', **weights})
    with pytest.raises(IncompatibleError, match="qqq"):
        resolve("new/architecture")
    code = json.dumps({**json.loads(bert_files()["config.json"]), "auto_map": {"AutoModel": "code.Model"}}).encode()
    server.add("own/code", {"config.json": code, "code.py": b"print('hello')", **weights})
    with pytest.raises(IncompatibleError, match="code of its own") as caught:
        resolve("own/code")
    assert "--trust-remote-code" in caught.value.hint
    assert not server.transfers("model.safetensors")
    assert not server.transfers(".py")
    trusted = resolve("own/code", trust_remote_code=True)
    assert trusted.entry["trust_remote_code"] is True
    assert "code.py" in trusted.files


def test_one_file_of_a_repository(server: HubServer) -> None:
    from accel.core import catalogue

    package = catalogue.locate(catalogue.find("silero-vad") or {})
    assert package is not None
    assert package.file is not None
    small = (package.folder / package.file).read_bytes()
    server.add("many/files", {"a.onnx": small, "b.onnx": small, "b.onnx_data": b"weights", "config.json": b"{}"})
    with pytest.raises(InputError, match="2 ONNX models"):
        resolve("many/files")
    assert resolve("many/files/a.onnx").layout == "onnx"
    assert not server.transfers("b.onnx")
    assert resolve("many/files/a.onnx").digest
    with pytest.raises(InputError, match=r"holds no c\.onnx"):
        resolve("many/files/c.onnx")


def test_names_from_the_server_cannot_leave_the_cache(server: HubServer, tmp_path: Path) -> None:
    server.add("evil/names", {**bert_files(), "../../../../escape.json": b"{}", "1_x/../../../escape.json": b"{}"})
    assert resolve("evil/names").files == NEEDED
    assert not list(tmp_path.rglob("escape.json"))
    assert not list(hub.cache_folder().parent.rglob("escape.json"))


def test_two_processes_at_once(server: HubServer, tmp_path: Path) -> None:
    server.add(BERT, bert_files(5_000_000))
    environment = {**os.environ, **server.environment(tmp_path)}
    program = "from accel.core.models import resolve\nprint(resolve('bert-base').digest)"
    running = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    digests = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(digests) == 1
    assert len(server.transfers("model.safetensors")) == 1
