"""The page's server gives itself to one page of one origin with one token, and to nobody else."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from accel.core.browser.channel import ChannelClosed
from accel.core.browser.messages import pack, unpack
from accel.core.browser.serving import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def get(server: Server, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def open_socket(server: Server, token: str | None = None, origin: str | None = "own") -> object:
    own = f"http://127.0.0.1:{server.port}"
    address = f"ws://127.0.0.1:{server.port}/{server.token if token is None else token}/socket"
    return connect(address, origin=own if origin == "own" else origin, max_size=None, proxy=None)  # type: ignore[arg-type]


def test_the_page_is_a_world_of_its_own(server: Server) -> None:
    answer = get(server, f"/{server.token}/")
    assert answer.status == 200
    assert answer.getheader("Cross-Origin-Opener-Policy") == "same-origin"
    assert answer.getheader("Cross-Origin-Embedder-Policy") == "require-corp"
    policy = answer.getheader("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert f"connect-src 'self' blob: ws://127.0.0.1:{server.port}" in policy
    assert "'unsafe-eval'" not in policy
    assert b"main.js" in answer.read()


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/main.js", "//main.js", "/%00/", "/socket"])
def test_without_the_token_nothing_is_given(server: Server, path: str) -> None:
    answer = get(server, path)
    assert answer.status in (403, 426)
    assert b"WebSocket(" not in answer.read()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:80", "[::2]:80"])
def test_a_foreign_name_for_this_machine_is_refused(server: Server, host: str) -> None:
    assert get(server, f"/{server.token}/", Host=host).status == 403


def test_a_forwarded_port_is_fine(server: Server) -> None:
    assert get(server, f"/{server.token}/", Host="localhost:9999").status == 200


@pytest.mark.parametrize("name", ["../serving.py", "..%2fserving.py", "nothing.js", "ort/x.wasm", "style.css/.."])
def test_only_its_own_files(server: Server, name: str) -> None:
    assert get(server, f"/{server.token}/{name}").status == 404


def test_files_that_are_added(server: Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20000
    (tmp_path / "weights").write_bytes(data)
    server.files["models/weights"] = tmp_path / "weights"
    answer = get(server, f"/{server.token}/models/weights")
    assert answer.getheader("Content-Length") == str(len(data))
    assert answer.read() == data


def test_several_requests_of_one_connection(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for name in ("main.js", "view.js", "style.css"):
        connection.request("GET", f"/{server.token}/{name}")
        assert connection.getresponse().read()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None, "https://127.0.0.1"])
def test_a_page_of_another_origin_gets_no_socket(server: Server, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as caught:
        open_socket(server, origin=origin)
    assert caught.value.response.status_code == 403
    with pytest.raises(TimeoutError):
        server.channel(0.1)


def test_a_wrong_token_gets_no_socket(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        open_socket(server, token="guessed")
    assert caught.value.response.status_code == 403


def test_the_token_works_once(server: Server) -> None:
    with open_socket(server):  # type: ignore[attr-defined]
        server.channel(5)
        with pytest.raises(InvalidStatus):
            open_socket(server)
        assert get(server, f"/{server.token}/").status == 403


def test_messages_both_ways(server: Server) -> None:
    with open_socket(server) as client:  # type: ignore[attr-defined]
        channel = server.channel(5)
        array = np.arange(300000.0)
        channel.send(pack({"op": "echo"}, {"a": array}))
        head, tensors = unpack(client.recv())
        assert head == {"op": "echo"}
        client.ping()
        client.send(pack({"id": 1}, tensors))
        _, back = unpack(channel.receive(10))
        np.testing.assert_array_equal(back["a"], array)
        with pytest.raises(TimeoutError):
            channel.receive(0.05)
    with pytest.raises(ChannelClosed):
        channel.receive(5)


def test_garbage_and_silence_do_no_harm(server: Server) -> None:
    for text in (b"\x00\xff\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a" * 100000):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(text)
    with socket.create_connection(("127.0.0.1", server.port)):
        assert get(server, f"/{server.token}/").status == 200


def test_it_listens_on_loopback_alone(server: Server) -> None:
    assert server._listening.getsockname()[0] == "127.0.0.1"
    server.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), 1)
