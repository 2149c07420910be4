"""Real Kubo nodes on loopback, for tests of content. `tests/build_kubo.sh` builds the binary."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

VERSION = "v0.43.1"


def binary() -> str | None:
    """`ACCEL_TEST_IPFS`, an `ipfs` on the path, or what the build script made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / f"ipfs-accel/kubo-{VERSION}/ipfs"
    for found in (os.environ.get("ACCEL_TEST_IPFS"), shutil.which("ipfs"), str(cache)):
        if found and os.access(found, os.X_OK):
            return found
    return None


def required() -> str:
    """The binary; skips the test where there is none."""
    found = binary()
    if found is None:
        pytest.skip("there is no Kubo: run tests/build_kubo.sh (needs Go and a module proxy), or set ACCEL_TEST_IPFS")
    return found


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody uses right now."""
    with contextlib.ExitStack() as stack:
        # all are held at once: a port that was let go may be given out again
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """A port of loopback that nobody uses right now."""
    return free_ports(1)[0]


class Node:
    """One node: loopback only, no bootstrap peers, its own repository."""

    def __init__(self, repository: Path, profile: str = "unixfs-v1-2025", routing: str | None = None) -> None:
        self.binary = required()
        self.repository = repository
        self._process: subprocess.Popen[bytes] | None = None
        self.run("init", "-e", "--profile=test")
        if profile != "default":
            self.run("config", "profile", "apply", profile)
        self.api_port, self.gateway_port, self.swarm_port = free_ports(3)
        self.configure("Addresses.API", f"/ip4/127.0.0.1/tcp/{self.api_port}")
        self.configure("Addresses.Gateway", f"/ip4/127.0.0.1/tcp/{self.gateway_port}")
        self.configure("Addresses.Swarm", [f"/ip4/127.0.0.1/tcp/{self.swarm_port}"])
        self.configure("Experimental.FilestoreEnabled", True)
        if routing is not None:
            self.configure("Routing.Type", routing)

    @property
    def api(self) -> str:
        """Multiaddr of the RPC."""
        return f"/ip4/127.0.0.1/tcp/{self.api_port}"

    @property
    def gateway(self) -> str:
        """URL of the gateway."""
        return f"http://127.0.0.1:{self.gateway_port}"

    def run(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
        """Runs one `ipfs` command and returns what it prints."""
        environment = {**os.environ, "IPFS_PATH": str(self.repository), "IPFS_TELEMETRY": "off"}
        done = subprocess.run(
            [self.binary, *arguments], env=environment, input=stdin, capture_output=True, timeout=120, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"ipfs {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode(errors="surrogateescape").strip()

    def configure(self, key: str, value: object) -> None:
        """Sets a key of the node's configuration."""
        self.run("config", "--json", key, json.dumps(value))

    def start(self, *arguments: str) -> Node:
        """Starts the daemon and waits until it answers."""
        environment = {**os.environ, "IPFS_PATH": str(self.repository), "IPFS_TELEMETRY": "off"}
        log = (self.repository / "daemon.log").open("wb")
        self._process = subprocess.Popen(
            [self.binary, "daemon", *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            if self._process.poll() is not None:
                break
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{self.api_port}/api/v0/id", method="POST")
                with urllib.request.urlopen(request, timeout=2):
                    return self
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError((self.repository / "daemon.log").read_text(errors="replace"))

    def stop(self) -> None:
        """Ends the daemon."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Ends the daemon at once, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def add(self, path: Path, *arguments: str) -> str:
        """`ipfs add -r --hidden` and the CID it prints."""
        return self.run("add", "-Q", "-r", "--hidden", *arguments, str(path))

    def only_hash(self, path: Path, *arguments: str) -> str:
        """The CID that `ipfs add -r --hidden` would give."""
        return self.add(path, "--only-hash", *arguments)

    def connect(self, other: Node) -> None:
        """Connects to another node."""
        identity = json.loads(other.run("id"))["ID"]
        self.run("swarm", "connect", f"/ip4/127.0.0.1/tcp/{other.swarm_port}/p2p/{identity}")

    def __enter__(self) -> Node:
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
