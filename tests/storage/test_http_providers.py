"""Providers that speak HTTP, found by a real node through a delegated router, asked over real TLS."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel.core.content import getting
from accel.core.content.getting import Wish
from accel.core.content.settings import Settings
from accel.core.errors import TransferError
from tests.core.content.helpers import all_blocks, model, tree
from tests.gateway import Gateway
from tests.kubo import Node

HOST = "provider.example"
PEER = "12D3KooWGRUbf7wdGW6E9WhiPKDJRcUeaKXbd6WFnLeDiuvuHWDN"


class Router:
    """A delegated router (https://specs.ipfs.tech/routing/http-routing-v1/) that knows one provider of everything."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.asked: list[str] = []
        router = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

            def do_GET(self) -> None:
                router.asked.append(self.path)
                record = {
                    "Schema": "peer",
                    "ID": PEER,
                    "Addrs": router.addresses,
                    "Protocols": ["transport-ipfs-gateway-http"],
                }
                body = json.dumps({"Providers": [record]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Router]]:
    router = Router()
    node = Node(tmp_path_factory.mktemp("kubo") / "node")
    node.configure("Routing.Type", "delegated")
    node.configure("Routing.DelegatedRouters", [router.url])
    node.configure("Provide.Enabled", False)
    with node:
        yield node, router
    router.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for the provider's name, and its key."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    name = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([tool, "req", "-x509", *kind, *name, *files], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's name leads to this machine."""
    look_up = socket.getaddrinfo

    def here(host: Any, *rest: Any, **more: Any) -> Any:
        return look_up("127.0.0.1" if host == HOST else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)


def served(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    return tls


def test_blocks_come_from_a_provider_over_https(
    tmp_path: Path,
    network: tuple[Node, Router],
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, router = network
    source = model(tmp_path / "model", seed=900)
    root, blocks = all_blocks(source)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with Gateway(blocks, tls=served(certificate)) as provider:
        port = provider.url.rpartition(":")[2]
        router.addresses = [f"/dns4/{HOST}/tcp/{port}/https"]
        fetched = getting.fetch(Wish(str(root)), Settings((), node.api, 5.0, 4))
        assert provider.requests >= len({cid for cid, _ in blocks})
    assert fetched.level == "provider"
    assert tree(fetched.path) == tree(source)
    assert [s["name"] for s in fetched.sources] == [f"https://{HOST}:{port}"]
    assert any(PEER in note for note in fetched.notes)
    assert any(str(root) in path for path in router.asked)


def test_a_certificate_that_nobody_vouches_for(
    tmp_path: Path, network: tuple[Node, Router], certificate: tuple[Path, Path]
) -> None:
    node, router = network
    root, blocks = all_blocks(model(tmp_path / "model", seed=910))
    with Gateway(blocks, tls=served(certificate)) as provider:
        router.addresses = [f"/dns4/{HOST}/tcp/{provider.url.rpartition(':')[2]}/https"]
        with pytest.raises(TransferError, match="certificate or TLS is not right"):
            getting.fetch(Wish(str(root)), Settings((), node.api, 3.0, 4))
        assert provider.requests == 0


@pytest.mark.parametrize(
    "address", ["/dns4/{host}/tcp/{port}/http", "/ip4/127.0.0.1/tcp/{port}/https", "/dns4/localhost/tcp/{port}/https"]
)
def test_a_record_leads_neither_to_plain_http_nor_into_the_users_network(
    tmp_path: Path, network: tuple[Node, Router], address: str
) -> None:
    node, router = network
    root, blocks = all_blocks(model(tmp_path / "model", seed=920))
    with Gateway(blocks) as provider:
        router.addresses = [address.format(host=HOST, port=provider.url.rpartition(":")[2])]
        with pytest.raises(TransferError, match="no source has the block"):
            getting.fetch(Wish(str(root)), Settings((), node.api, 3.0, 4))
        assert not provider.served
