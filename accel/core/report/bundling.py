"""Runs as bundles: a folder with results, environment and the content ids of the models, itself content by CID.

    bundle.json       `accel.bundle/1`: runs, environments, models, and the SHA-256 of the results
    results.jsonl     one record per line, sorted by id, with all samples

The same results always make the same bytes and so the same CID. What is fetched is hashed against the CID block by
block; the manifest then has to fit the results, and every record has to be one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core import paths, results
from accel.core.errors import InputError, TransferError
from accel.core.records import fault
from accel.core.report import exporting
from accel.core.report.runs import Run

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from accel.core.content.pins import Pins
    from accel.core.report.joining import Joined

SCHEMA = "accel.bundle/1"
MANIFEST = "bundle.json"
RECORDS = "results.jsonl"
#: what is of no use elsewhere, or nobody else's business
_PRIVATE = ("interpreter", "path")


@dataclass(frozen=True)
class Bundle:
    """What a bundle is made of, as bytes of its files."""

    manifest: dict[str, Any]
    lines: bytes

    def write(self, folder: Path) -> None:
        """Puts the files into an existing folder."""
        paths.write_atomic(folder / RECORDS, self.lines)
        text = json.dumps(self.manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        paths.write_atomic(folder / MANIFEST, text.encode())


def gather(con: DuckDBPyConnection, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The records of some runs, sorted by id."""
    ids = sorted({cell.id for run in runs for cell in run.cells})
    found = exporting.records(con, "id IN (SELECT unnest(?::UUID[]))", [ids], order="id::VARCHAR")
    return list(found)


def make(records: Sequence[dict[str, Any]]) -> Bundle:
    """The bundle of these records.

    Raises:
        InputError: there are none.
    """
    if not records:
        raise InputError("there are no stored results in these runs", "accel report runs lists the runs")
    environments: dict[str, dict[str, Any]] = {}
    models: dict[tuple[str, str, str], dict[str, Any]] = {}
    pinned = _pinned()
    for record in records:
        metadata = record["metadata"]
        environment = {k: v for k, v in (metadata.get("environment") or {}).items() if k not in _PRIVATE}
        if environment:
            metadata["environment"] = environment
            environments[json.dumps(environment, sort_keys=True)] = environment
        name, digest = record["model_name"] or "", str(metadata.get("model_digest") or "")
        known = record["model_cid"] or pinned.get((name, metadata.get("revision")))
        known = None if metadata.get("weights") == "random" else known
        models[name, digest, str(metadata.get("weights"))] = {
            "model": name,
            "digest": digest or None,
            "revision": metadata.get("revision"),
            "weights": metadata.get("weights"),
            "cid": known,
        }
    lines = b"".join(
        json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        for record in records
    )
    manifest = {
        "schema": SCHEMA,
        "results": len(records),
        "runs": sorted({str(r["metadata"]["sweep"]) for r in records if r["metadata"].get("sweep")}),
        "environments": [environments[key] for key in sorted(environments)],
        "models": [models[key] for key in sorted(models)],
        "sha256": hashlib.sha256(lines).hexdigest(),
    }
    return Bundle(manifest, lines)


def _pins() -> Pins:
    from accel.core.content.pins import Pins

    return Pins(paths.home() / "content" / "pins")


def pinned_ids() -> set[str]:
    """Content ids of everything that is pinned here."""
    return {pin.cid for pin in _pins().all()}


def _pinned() -> dict[tuple[str, str | None], str]:
    """Content ids of pinned models, by name and revision; those that several pins have are left out."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for pin in _pins().all():
        found.setdefault((pin.name, pin.revision), []).append(pin.cid)
    return {key: cids[0] for key, cids in found.items() if key[0] and len(cids) == 1}


@dataclass(frozen=True)
class Stored:
    """A bundle that was pinned. `path` is the folder the user asked for, if any."""

    cid: str
    name: str
    manifest: dict[str, Any]
    bytes: int
    path: Path | None


def store(bundle: Bundle, folder: Path | None = None) -> Stored:
    """Pins a bundle into the local store, and writes it into a folder if one is named.

    Raises:
        InputError: the folder has something else in it. TransferError: it cannot be stored.
    """
    from accel.core.content import pinning
    from accel.core.content.settings import Settings

    target = None if folder is None else folder.expanduser().absolute()
    if target is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already", "name a folder that is new or empty")
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=paths.ensure(paths.home())) as made:
        inner = Path(made) / "bundle"
        inner.mkdir()
        bundle.write(inner)
        pinned = pinning.pin(pinning.Request(str(inner)), Settings.current(offline=True))
    runs = bundle.manifest["runs"]
    name = f"bundle-{'-'.join(run[:12] for run in runs[:3]) or bundle.manifest['sha256'][:12]}"
    _pins().add(dataclasses.replace(pinned.pin, name=name, source="accel report bundle", licence=None))
    if target is not None:
        bundle.write(paths.ensure(target))
    return Stored(pinned.pin.cid, name, bundle.manifest, len(bundle.lines), target)


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest and the records of a bundle, verified.

    Raises:
        InputError: it is no bundle of this accel. TransferError: manifest and results do not fit together.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        lines = (folder / RECORDS).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is no bundle: {error}", "accel report bundle makes one") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise InputError(f"{folder} is not a bundle of this accel", f"its schema has to be {SCHEMA}")
    if hashlib.sha256(lines).hexdigest() != manifest.get("sha256"):
        raise TransferError(f"the results in {folder} are not those that its manifest names", "get the bundle again")
    try:
        records = [json.loads(line) for line in lines.splitlines()]
    except ValueError as error:
        raise TransferError(f"the results in {folder} are damaged: {error}", "get the bundle again") from error
    wrong = next((why for r in records if (why := fault(r) if isinstance(r, dict) else "not a record")), "")
    if wrong or len(records) != manifest.get("results"):
        raise TransferError(f"the results in {folder} are damaged: {wrong or 'some are missing'}", "get it again")
    return manifest, records


def take(folder: Path, source: str = "") -> Joined:
    """Merges a bundle's results into ours; what is here already stays as it is.

    Raises:
        InputError, TransferError: see `read`.
    """
    from accel.core.report.joining import Joined

    _, records = read(folder)
    with results.open_reader() as con:
        ids = [record["id"] for record in records]
        rows = con.execute(
            "SELECT id::VARCHAR FROM benchmark_results WHERE id IN (SELECT unnest(?::UUID[]))", [ids]
        ).fetchall()
    known = {row[0] for row in rows}
    results.spool().append([record for record in records if record["id"] not in known])
    results.merge()
    return Joined(len(records) - len(known), len(known), source or str(folder))


def fetch(reference: str, *, offline: bool = False) -> Joined:
    """Brings a bundle by its content id, verifies and merges it.

    Raises:
        TransferError: nobody has it, or it is damaged. InputError: it is no bundle.
    """
    from accel.core.content.getting import Wish
    from accel.core.content.getting import fetch as bring
    from accel.core.content.settings import Settings

    found = bring(Wish(reference), Settings.current(offline=offline))
    return take(found.path, found.cid)
