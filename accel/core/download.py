"""One file over HTTP into a partial file: it goes on where it stopped, and its content is hashed before it counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from accel.core.digest import BLOCK

#: attempts in a row that may bring nothing, and the seconds to wait before the second of them (doubled each time)
ATTEMPTS = 5
WAIT_S = 1.0
#: bytes collected before they are written
CHUNK = 1 << 20
#: hosts of the public hub, which may be sent the user's token besides the one that was asked
HUB_HOSTS = ("huggingface.co", "hf.co")


class Broken(Exception):
    """The transfer failed for good; `__cause__` is the last failure. What arrived is kept.

    `refused` says that the server did not want to send the file, rather than that it could not.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class WrongContent(Exception):
    """What arrived is not the file; it is deleted."""


class Cancelled(Exception):
    """Somebody set `stop`; what arrived is kept."""


def download(url: str, partial: Path, size: int, sha256: str, stop: Event, advance: Callable[[int], None]) -> None:
    """Fills `partial` with the file and checks size and hash.

    Args:
        url: a `resolve` address of the hub.
        partial: may hold the beginning of the file from an earlier attempt.
        size, sha256: of the whole file, as the hub lists them.
        stop: ends the transfer within one chunk when set.
        advance: told about bytes; the ones that were there already count, and come back negative if they are no use.

    Raises:
        Broken: the server refuses, or sends nothing `ATTEMPTS` times in a row.
        WrongContent, Cancelled: as their names say.
        OSError: the disk is full or read-only.
    """
    partial.touch()
    resumed = partial.stat().st_size
    if resumed > size:
        partial.unlink()
        resumed = 0
    advance(resumed)
    try:
        found = _fill(url, partial, size, stop, advance)
        if found != sha256 and resumed:
            # the beginning from an earlier run was bad: once more, from nothing
            partial.unlink()
            advance(-size)
            found = _fill(url, partial, size, stop, advance)
        if found != sha256:
            raise WrongContent(f"it has the hash {found} and not {sha256}")
    except WrongContent:
        partial.unlink()
        raise


def _fill(url: str, partial: Path, size: int, stop: Event, advance: Callable[[int], None]) -> str:
    """Brings what is missing, in as many attempts as it takes, and returns the hash of the whole."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    idle = 0
    while (held := _size(partial)) < size:
        if idle:
            stop.wait(WAIT_S * 2 ** (idle - 1))
        if stop.is_set():
            raise Cancelled
        try:
            _stream(url, partial, held, size, stop, advance)
        except HTTPError as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is not None and status < 500 and status not in (408, 416, 429):
                raise Broken(f"the server refused it (status {status})", refused=True) from error
            cause: HTTPError | None = error
        else:
            cause = None
        after = _size(partial)
        idle = 0 if after > held else idle + 1
        if idle >= ATTEMPTS:
            raise Broken(f"the transfer broke off at {after} of {size} bytes, {ATTEMPTS} times in a row") from cause
    return _hash(partial, stop)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _stream(url: str, partial: Path, held: int, size: int, stop: Event, advance: Callable[[int], None]) -> None:
    """One request, from `held` on. Returns early when the server closes the connection early."""
    from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    # asked anew for each attempt, since signed addresses of storage expire
    location = get_hf_file_metadata(url).location
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if urlsplit(location)[:2] != urlsplit(url)[:2] and urlsplit(location).hostname not in HUB_HOSTS:
        headers.pop("authorization", None)
    if held:
        headers["Range"] = f"bytes={held}-"
    session = get_session()
    with session.stream("GET", location, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code == 416:
            partial.unlink(missing_ok=True)
            advance(-held)
        hf_raise_for_status(response)
        follows = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {held}-")
        if held and not follows:
            advance(-held)
            held = 0
        with open(partial, "r+b" if held else "wb", buffering=CHUNK) as file:
            file.seek(held)
            for chunk in response.iter_bytes():
                if stop.is_set():
                    raise Cancelled
                if held + len(chunk) > size:
                    raise WrongContent(f"the server sends more than the {size} bytes that it stated")
                file.write(chunk)
                held += len(chunk)
                advance(len(chunk))


def _hash(path: Path, stop: Event) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            if stop.is_set():
                raise Cancelled
            digest.update(block)
    return digest.hexdigest()
