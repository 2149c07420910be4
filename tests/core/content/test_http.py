"""The pooled HTTP client."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from accel.core.content.http import Client, HttpError

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@contextmanager
def server(*answers: bytes, keep: bool = True, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[int]]]:
    """Answers the requests in turn with these bytes; tells its URL and how many connections were made."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[int] = []
    left = list(answers)

    def serve() -> None:
        while left:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(1)
            try:
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                while left and connection.recv(65536):
                    connection.sendall(left.pop(0))
                    if not keep:
                        break
            except OSError:
                pass
            finally:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    scheme = "https" if tls is not None else "http"
    try:
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", connections
    finally:
        left.clear()
        listener.close()


def read(client: Client, url: str) -> bytes:
    with client.get(url, {}) as answer:
        view = memoryview(bytearray(100))
        got = 0
        while count := answer.read_into(view[got:]):
            got += count
        return bytes(view[:got])


def test_a_connection_is_used_again() -> None:
    client = Client(5)
    with server(GOOD, GOOD, GOOD) as (url, connections):
        assert [read(client, url) for _ in range(3)] == [b"hello"] * 3
        assert len(connections) == 1


def test_an_idle_connection_that_was_closed_is_made_again() -> None:
    client = Client(5)
    with server(GOOD, GOOD, keep=False) as (url, connections):
        assert [read(client, url) for _ in range(2)] == [b"hello"] * 2
        assert len(connections) == 2


def test_an_answer_that_nobody_read_does_not_spoil_the_next() -> None:
    client = Client(5)
    with server(GOOD, GOOD) as (url, _):
        with client.get(url, {}) as answer:
            assert answer.status == 200
        assert read(client, url) == b"hello"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", "cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhel", "cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", "cut short|no sense"),
        (b"nonsense\r\n\r\n", "cut short"),
        (b"", "cut short"),
    ],
)
def test_answers_that_break_off(answer: bytes, word: str) -> None:
    with server(answer, keep=False) as (url, _), pytest.raises(HttpError, match=word):
        read(Client(2), url)


def test_nobody_there() -> None:
    with pytest.raises(HttpError, match="cannot be reached"):
        read(Client(2), "http://127.0.0.1:1")
    with pytest.raises(HttpError, match="cannot be reached"):
        read(Client(2), "http://nowhere.invalid")


def test_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(HttpError, match="in time"):
        read(Client(0.2), f"http://127.0.0.1:{listener.getsockname()[1]}")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, path = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(path)], check=True, capture_output=True)
    path.write_text(path.read_text() + key.read_text())
    return path


def context(certificate: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate)
    return made


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with server(GOOD, tls=context(certificate)) as (url, _), pytest.raises(HttpError, match="certificate"):
        read(Client(5), url)


def test_a_certificate_that_the_system_trusts(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with server(GOOD, tls=context(certificate)) as (url, _):
        assert read(Client(5), url) == b"hello"


def test_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what leaves this machine goes through it."""
    with server(b"HTTP/1.1 403 Forbidden\r\n\r\n", keep=False) as (proxy, connections):
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(HttpError):
            read(Client(2), "https://gateway.invalid")
        assert len(connections) == 1
    with server(GOOD) as (url, _):
        assert read(Client(2), url) == b"hello"
