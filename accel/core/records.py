"""What a result looks like before it is stored: a plain record that travels through the spool as JSON."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any

KINDS = ("run", "bench", "deep")
_TEXT = (
    "kind",
    "model_name",
    "hardware_type",
    "device",
    "engine",
    "precision",
    "task",
    "fingerprint",
    "model_cid",
)
_WHOLE = ("batch", "length", "threads", "memory_usage")
_NUMBER = ("inference_time", "throughput", "accuracy_score")
#: columns of `benchmark_results` that a record fills, with their DuckDB types
COLUMNS: dict[str, str] = {
    "id": "UUID",
    "timestamp": "TIMESTAMPTZ",
    **dict.fromkeys(_TEXT, "VARCHAR"),
    **dict.fromkeys(_WHOLE, "BIGINT"),
    **dict.fromkeys(_NUMBER, "DOUBLE"),
    "metadata": "JSON",
    "samples_id": "UUID",
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is stored: with id and timestamp, plain JSON values, and what has no column in `metadata`.

    Args:
        record: `kind` is one of `KINDS`. Columns of the same name take `model_name`, `hardware_type`, `device`,
            `engine`, `precision`, `task`, `fingerprint`, `model_cid`, `batch`, `length` (tokens, pixels or samples),
            `threads`, `memory_usage` (bytes), `inference_time` (s), `throughput` (items/s) and `accuracy_score`; any
            of them may be absent. `samples` is a list of seconds (kept as the series `inference_time`) or lists by
            name of series. `id` (UUID text) and `timestamp` (seconds since the epoch) are made where absent. NaN and
            infinity count as not measured.

    Raises:
        ValueError: not a record of this form.
    """
    given = dict(record)
    done: dict[str, Any] = {
        "id": str(given.pop("id", None) or new_id()),
        "timestamp": given.pop("timestamp", None) or time.time(),
    }
    samples = given.pop("samples", None)
    metadata = dict(given.pop("metadata", None) or {})
    for name in (*_TEXT, *_WHOLE, *_NUMBER):
        done[name] = plain(given.pop(name, None))
    metadata.update(given)
    done["metadata"] = plain(metadata)
    series = samples if isinstance(samples, Mapping) else {"inference_time": samples}
    done["samples"] = {
        str(name): plain(values) for name, values in series.items() if values is not None and len(values)
    }
    problem = fault(done) if done["kind"] in KINDS else f"kind is none of {', '.join(KINDS)}"
    if problem:
        raise ValueError(f"a result that cannot be stored: {problem}")
    return done


def fault(record: Mapping[str, Any]) -> str:
    """Why a completed record cannot be stored, or an empty text. Also for records that come from a file."""
    if not isinstance(record.get("id"), str) or not _UUID.fullmatch(record["id"]):
        return "id is not a UUID"
    if not _is_number(record.get("timestamp")) or not 0 <= record["timestamp"] < 2**37:
        return "timestamp is not a time in seconds"
    if not record.get("kind"):
        return "there is no kind"
    for name in _TEXT:
        if not isinstance(record.get(name), (str, type(None))):
            return f"{name} is not text"
    for name in _WHOLE:
        value = record.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not abs(value) < 2**63):
            return f"{name} is not a whole number"
    for name in _NUMBER:
        if record.get(name) is not None and not _is_number(record[name]):
            return f"{name} is not a number"
    if not isinstance(record.get("metadata"), dict):
        return "metadata is not an object"
    series = record.get("samples")
    if not isinstance(series, dict) or not all(_is_series(values) for values in series.values()):
        return "samples are not lists of numbers"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_series(values: object) -> bool:
    return isinstance(values, list) and all(value is None or _is_number(value) for value in values)


def plain(value: Any) -> Any:
    """The value in JSON's own types; numpy numbers and arrays become numbers and lists, NaN and infinity null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


def new_id() -> str:
    """A random UUID (version 4), without importing the module for it."""
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
