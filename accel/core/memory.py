"""Small facts that are worth remembering between runs, one JSON file each under the home folder.

A fact can always be found again, so a home folder that is read-only, full or damaged costs time and never fails a run.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from accel.core.errors import TransferError
from accel.core.paths import home, write_atomic


def recall(kind: str, key: str) -> dict[str, Any] | None:
    """What `keep` was given for this kind and key, or None."""
    try:
        data = json.loads(_path(kind, key).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("key") != key:
        return None
    value = data.get("value")
    return value if isinstance(value, dict) else None


def keep(kind: str, key: str, value: dict[str, Any]) -> bool:
    """Remembers a JSON object; whether that worked."""
    text = json.dumps({"key": key, "value": value}, separators=(",", ":"))
    try:
        write_atomic(_path(kind, key), text.encode("utf-8"), durable=False)
    except TransferError:
        return False
    return True


def _path(kind: str, key: str) -> Path:
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
    return home() / "models" / kind / f"{name}.json"
