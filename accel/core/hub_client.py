"""Fetches a model from the hub into the hub's own cache, through huggingface_hub.

Cold path only: importing huggingface_hub takes a third of a second. What this adds to the library: only the files that
a run needs; size and free disk checked before; a broken download goes on where it stopped, also in a later run; and
every file is compared with the hash that the hub states for it, where the library compares sizes.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Lock
from typing import Any

from accel.core import hub
from accel.core.digest import BLOCK, SHA256, Report
from accel.core.download import Broken, Cancelled, WrongContent, download
from accel.core.errors import AccelError, TransferError, UnavailableError
from accel.core.locks import holding
from accel.core.paths import write_atomic
from accel.core.selection import Selection, select

#: files fetched at the same time
STREAMS = 4
#: bytes of the disk that a download leaves free
RESERVE = 64 << 20
AGAIN = "run the same command again; it goes on where it stopped"


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it: exactly one of `sha256` (large files) and `git_sha1` identifies its content."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    @property
    def etag(self) -> str:
        """Name of the file's blob in the cache."""
        return self.sha256 or self.git_sha1 or ""


def fetch(
    repository: str,
    revision: str,
    *,
    weights: bool,
    code: bool = False,
    only: str | None = None,
    check: Callable[[Path], None] | None = None,
    progress: Report | None = None,
) -> hub.Snapshot:
    """Brings the files of a model that are not in the cache yet, and notes that the snapshot is whole.

    Args:
        repository: `org/name`, or a canonical `name`.
        revision: branch, tag or commit.
        weights: False brings configuration and tokenizer alone.
        code: also the model's own Python files.
        only: one file of a repository that holds several models.
        check: called with the snapshot's folder when the small files are there, before the weights are fetched.
        progress: told about downloaded bytes.

    Raises:
        UnavailableError: not found, gated or private, without weights, or the network is forbidden.
        TransferError: no network, a broken or wrong transfer, or too little disk.
        InputError: the repository is not a model that can be read.
    """
    if hub.offline():
        raise UnavailableError(
            f"{repository} is not in the hub's cache, and HF_HUB_OFFLINE forbids the network", "unset HF_HUB_OFFLINE"
        )
    commit, licence, listed = _list(repository, revision)
    selection = select(listed, repository, code=code, only=only)
    if weights and not selection.weights:
        raise UnavailableError(f"{repository} cannot be run: {selection.reason}", "choose a model that has safetensors")
    if not weights:
        selection = Selection(selection.layout, selection.without_weights, (), selection.reason)
    transfer = _Transfer(repository, commit, progress)
    transfer.expect([listed[name] for name in selection.files])
    snapshot = hub.Snapshot(transfer.folder / "snapshots" / commit, commit, selection, licence)
    transfer.bring([listed[name] for name in selection.without_weights])
    if check is not None:
        check(snapshot.folder)
    transfer.bring([listed[name] for name in selection.weights])
    if revision != commit:
        with contextlib.suppress(TransferError):
            write_atomic(transfer.folder / "refs" / revision, commit.encode("ascii"), durable=False)
    hub.remember(snapshot, weights=weights, code=code, only=only)
    return snapshot


def _list(repository: str, revision: str) -> tuple[str, str | None, dict[str, RemoteFile]]:
    """Asks the hub for commit, licence and files of a revision."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        info = HfApi(endpoint=hub.endpoint()).model_info(
            repository, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        files = {
            s.rfilename: RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None, s.blob_id)
            for s in info.siblings or ()
            if _is_relative(s.rfilename)
        }
    except (HTTPError, OSError) as error:
        raise explain(error, repository, revision) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TransferError(
            f"{hub.endpoint()} did not answer like a hub when asked for {repository}: {error}",
            "check HF_ENDPOINT and your proxy",
        ) from error
    if not info.sha or not re.fullmatch(hub.COMMIT, info.sha):
        raise TransferError(f"{hub.endpoint()} states no commit for {repository}", "check HF_ENDPOINT")
    licence = getattr(info.card_data, "license", None)
    return info.sha, licence if isinstance(licence, str) else None, files


def _is_relative(name: str) -> bool:
    return not name.startswith("/") and "\\" not in name and ".." not in name.split("/")


def explain(error: Exception, repository: str, revision: str) -> AccelError:
    """The error of the project for one of huggingface_hub or its HTTP client."""
    from huggingface_hub import errors

    address = hub.endpoint()
    status = getattr(getattr(error, "response", None), "status_code", None)
    log_in = "set HF_TOKEN or run: hf auth login"
    if isinstance(error, errors.GatedRepoError):
        return UnavailableError(
            f"{repository} is gated: its owner asks you to accept terms first (status {status})",
            f"accept them at {address}/{repository}, then {log_in}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UnavailableError(
            f"{repository} has no revision {revision!r}", "leave it out, or name a branch or commit"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UnavailableError(
            f"there is no model {repository} at {address}, or it is private",
            f"check the name; if it is private, {log_in}",
        )
    if isinstance(error, errors.EntryNotFoundError) and status is not None:
        return TransferError(f"{address} lists a file of {repository} that it does not have", "try another revision")
    if status in (401, 403):
        return UnavailableError(
            f"{address} refused access to {repository} (status {status})", f"check your token: {log_in}"
        )
    if status is not None:
        return TransferError(f"{address} answered with status {status} for {repository}", "try again later")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UnavailableError(
            f"{repository} is not here, and offline mode forbids the network", "unset HF_HUB_OFFLINE"
        )
    reason = "the answer took too long" if "Timeout" in type(error).__name__ else str(error) or type(error).__name__
    return TransferError(f"cannot reach {address} for {repository}: {reason}", "check your network and HF_ENDPOINT")


class _Transfer:
    """One snapshot on its way into the cache."""

    def __init__(self, repository: str, commit: str, progress: Report | None) -> None:
        self.repository, self.commit, self.progress = repository, commit, progress
        self.folder = hub.repository_folder(repository)
        self.stop = Event()
        self._lock = Lock()
        self._done = self._total = 0

    def _absent(self, files: list[RemoteFile]) -> list[RemoteFile]:
        return [file for file in files if not (self.folder / "snapshots" / self.commit / file.name).is_file()]

    def expect(self, files: list[RemoteFile]) -> None:
        """Prepares for these files: adds up what has to come, and refuses what the disk cannot take."""
        absent = self._absent(files)
        self._check_disk(absent)
        self._total = sum(file.size for file in absent)

    def bring(self, files: list[RemoteFile]) -> None:
        """Fetches what is absent; on an error or an interrupt the running streams end soon and what came is kept."""
        absent = self._absent(files)
        if not absent:
            return
        pool = ThreadPoolExecutor(max_workers=STREAMS)
        try:
            for future in [pool.submit(self._bring, file) for file in sorted(absent, key=lambda file: file.size)]:
                future.result()
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _check_disk(self, files: list[RemoteFile]) -> None:
        needed = sum(file.size - self._held(file) for file in files)
        place = self.folder
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if needed + RESERVE > free:
            raise TransferError(
                f"{self.repository} needs {needed / 1e9:.2f} GB more on the disk of {place}, "
                f"which has {free / 1e9:.2f} GB free ({RESERVE / 1e6:.0f} MB stay free)",
                "free space, or point HF_HOME at a larger disk",
                {"needed_bytes": needed, "free_bytes": free, "reserve_bytes": RESERVE},
            )

    def _held(self, file: RemoteFile) -> int:
        blob = self.folder / "blobs" / file.etag
        if blob.is_file():
            return file.size
        partial = _partial(blob)
        return min(file.size, partial.stat().st_size) if partial.is_file() else 0

    def advance(self, count: int) -> None:
        """Counts bytes that arrived."""
        with self._lock:
            self._done += count
            if self.progress is not None:
                self.progress(f"downloading {self.repository}", min(self._done, self._total), self._total)

    def _bring(self, file: RemoteFile) -> None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        if self.stop.is_set():
            return
        try:
            streamed = self._stream(file) if file.sha256 and re.fullmatch(SHA256, file.sha256) else False
            path = hf_hub_download(
                self.repository,
                file.name,
                revision=self.commit,
                endpoint=hub.endpoint(),
                cache_dir=hub.cache_folder(),
                tqdm_class=_silent_bar(self),
            )
        except Cancelled:
            return
        except Broken as error:
            raise self._broken(file, error) from error
        except (HTTPError, OSError) as error:
            raise self._failed(file, error) from error
        except WrongContent as error:
            raise self._wrong(file, str(error)) from error
        if not streamed:
            self._verify(file, Path(path))

    def _broken(self, file: RemoteFile, error: Broken) -> AccelError:
        cause = error.__cause__
        if error.refused and isinstance(cause, Exception):
            return explain(cause, self.repository, self.commit)
        status = getattr(getattr(cause, "response", None), "status_code", None)
        reason = f" (status {status})" if status else f" ({type(cause).__name__}: {cause})" if cause else ""
        return TransferError(f"{file.name} of {self.repository}: {error}{reason}", AGAIN)

    def _failed(self, file: RemoteFile, error: Exception) -> AccelError:
        if isinstance(error, OSError) and error.errno is not None:
            return TransferError(
                f"cannot write {file.name} of {self.repository} into {self.folder}: {error.strerror or error}",
                "free space or rights there, or point HF_HOME at another folder",
            )
        # the library hides what happened behind an error about its cache
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
        return explain(cause if isinstance(cause, Exception) else error, self.repository, self.commit)

    def _stream(self, file: RemoteFile) -> bool:
        """Brings a large file into its blob, going on from what an earlier run left. False: leave it to the library.

        Files that the hub stores in Xet come faster through the library, which then uses hf_xet; a broken transfer of
        that kind starts anew.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        blob = self.folder / "blobs" / file.etag
        lock = hub.cache_folder() / ".locks" / self.folder.name / f"{file.etag}.lock"
        url = hf_hub_url(self.repository, file.name, revision=self.commit, endpoint=hub.endpoint())
        xet = find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET
        # the same lock as huggingface_hub takes for this blob
        with holding(lock):
            if blob.exists():
                self.advance(file.size)
                return True
            if xet and get_hf_file_metadata(url, endpoint=hub.endpoint()).xet_file_data is not None:
                return False
            blob.parent.mkdir(parents=True, exist_ok=True)
            download(url, _partial(blob), file.size, file.etag, self.stop, self.advance)
            _partial(blob).replace(blob)
        return True

    def _verify(self, file: RemoteFile, path: Path) -> None:
        """Compares a file that the library brought with the hash that the hub states for it."""
        size = path.stat().st_size
        if file.sha256:
            expected, digest = file.sha256, hashlib.sha256()
        elif file.git_sha1:
            # git names a file by the SHA-1 of this header and its content
            expected, digest = file.git_sha1, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        else:
            return
        with open(path, "rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() != expected:
            with contextlib.suppress(OSError):
                path.resolve().unlink()
            with contextlib.suppress(OSError):
                path.unlink()
            raise self._wrong(file, f"it has the hash {digest.hexdigest()} and not {expected}")

    def _wrong(self, file: RemoteFile, reason: str) -> TransferError:
        return TransferError(
            f"{hub.endpoint()} sent wrong bytes for {file.name} of {self.repository}, which were deleted: {reason}",
            "try again; if it happens again, the server or a proxy in between alters files",
        )


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _silent_bar(transfer: _Transfer) -> Any:
    """A progress bar class for the library that draws nothing and counts bytes for us."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Xet transfers have a second bar, for bytes on the wire
            self._counts = not str(options.get("desc", "")).endswith("downloading bytes")
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts:
                transfer.advance(int(n or 0))
            return None

    return Bar
