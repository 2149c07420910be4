"""onnxruntime-web: fetched once with the npm client at a pinned version, checked, and kept in accel's home folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from accel.core.errors import TransferError, UnavailableError
from accel.core.locks import holding
from accel.core.paths import ensure, home
from accel.core.probe import ProbeError, run_child

VERSION = "1.30.0"
#: of the package's tarball, as the npm registry publishes it
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: what the page loads of it (sha256): `ort.wasm` with a small library, `ort.webgpu` with one that has WebGPU and WebNN
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
#: seconds that npm may take
FETCH_S = 300.0


def folder() -> Path:
    """Where the files are, or will be."""
    return home() / "web" / f"onnxruntime-web-{VERSION}"


def installed() -> bool:
    """Whether the files are here. They were checked when they came."""
    return (folder() / "complete").exists()


def npm() -> str | None:
    """The npm client's path."""
    for part in os.environ.get("PATH", "").split(os.pathsep):
        path = f"{part}/npm"
        if part and os.access(path, os.X_OK):
            return path
    return None


def missing() -> str | None:
    """Why the files are not to be had, or None."""
    if installed() or npm():
        return None
    return (
        "onnxruntime-web is not here and npm is not installed: install Node.js, or copy the folder web/ of another home"
    )


def obtain(show: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with the files, fetched on first use.

    Raises:
        UnavailableError: there is no npm client. TransferError: the registry is not reached, or sent something else.
    """
    target = folder()
    if installed():
        return target
    with holding(target.parent / f".{target.name}.lock"):
        if installed():
            return target
        client = npm()
        if client is None:
            raise UnavailableError(
                f"onnxruntime-web {VERSION} is not here, and there is no npm client to fetch it with",
                f"install Node.js, or copy {target} from a machine that has it",
            )
        # imported late, as this module is at every start that looks for engines
        import tempfile

        show(f"fetching onnxruntime-web {VERSION} with npm (33 MB, once)")
        with tempfile.TemporaryDirectory(dir=ensure(target.parent), prefix=".npm-") as scratch:
            _unpack(_pack(client, scratch), Path(scratch) / "files")
            with contextlib.suppress(FileNotFoundError):
                import shutil

                shutil.rmtree(target)
            (Path(scratch) / "files").rename(target)
    return target


def _pack(client: str, scratch: str) -> Path:
    command = [client, "pack", f"onnxruntime-web@{VERSION}", "--ignore-scripts", "--silent", "--pack-destination"]
    try:
        run_child([*command, scratch], FETCH_S, {**os.environ, "npm_config_update_notifier": "false"})
    except ProbeError as error:
        raise TransferError(
            f"npm could not fetch onnxruntime-web {VERSION}: {error}",
            f"check the network and npm's registry setting, or copy {folder()} from a machine that has it",
        ) from error
    found = list(Path(scratch).glob("*.tgz"))
    if len(found) != 1:
        raise TransferError(f"npm left no package of onnxruntime-web {VERSION}", "run npm pack by hand to see why")
    return found[0]


def check_integrity(package: Path, integrity: str = INTEGRITY) -> None:
    """Compares a package with its published hash. Raises TransferError."""
    import base64
    import hashlib

    kind, _, wanted = integrity.partition("-")
    with package.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, kind).digest()).decode()
    if found != wanted:
        raise TransferError(
            f"what npm fetched is not onnxruntime-web {VERSION}: its {kind} is {found[:16]}..., not {wanted[:16]}...",
            "check npm's registry setting (npm config get registry)",
        )


def _unpack(package: Path, target: Path) -> None:
    import hashlib
    import tarfile

    check_integrity(package)
    target.mkdir()
    with tarfile.open(package) as archive:
        for name, digest in FILES.items():
            file = archive.extractfile(f"package/dist/{name}")
            data = file.read() if file is not None else b""
            if hashlib.sha256(data).hexdigest() != digest:
                raise TransferError(f"the file {name} of onnxruntime-web {VERSION} is damaged", "run the command again")
            (target / name).write_bytes(data)
    (target / "complete").write_bytes(b"")
