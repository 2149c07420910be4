"""How values of settings are read from JSON, TOML and text; a reader raises ValueError for what it cannot take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS[f"{_letter}b"] = 1000**_power
    _UNITS[_letter] = _UNITS[f"{_letter}ib"] = 1024**_power
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|min|h|)\s*", re.ASCII | re.IGNORECASE)
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1|.*\.localhost", re.ASCII | re.IGNORECASE)
_MULTIADDR = re.compile(
    r"/(ip4/\d{1,3}(\.\d{1,3}){3}|ip6/[0-9a-f:]+|dns[46]?/[a-z0-9.-]+)/tcp/(\d{1,5})(/https?)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    Attributes:
        layer: `command line`, `environment`, `user`, `project` or `default`.
        where: the option, the variable or the file; empty for a default.
        folder: what relative paths start from; None means the working directory.
    """

    layer: str
    where: str = ""
    folder: Path | None = None

    def __str__(self) -> str:
        return f"{self.layer} ({self.where})" if self.where else self.layer


#: takes a raw value and its origin; raises ValueError, with a text where that says more than the allowed values do
Reader = Callable[[Any, Origin], Any]


def size_in_bytes(text: Any) -> int:
    """Bytes of `8GB` and the like; see `accel.core.settings.parse_size`."""
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError
    match = _SIZE.fullmatch(str(text))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError
    size = round(float(match[1]) * _UNITS[match[2].lower()]) if match[2] or "." in match[1] else int(match[1])
    if not 0 < size < 2**63:
        raise ValueError
    return size


def _textual(origin: Origin) -> bool:
    return origin.layer in ("environment", "command line")


def boolean(raw: Any, origin: Origin) -> bool:
    """True or false; words for them in the environment and on the command line."""
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if _textual(origin) and isinstance(raw, str) and raw.strip().lower() in words:
        return words[raw.strip().lower()]
    raise ValueError


def whole(low: int, high: int) -> Reader:
    """A reader of whole numbers within bounds."""

    def read(raw: Any, origin: Origin) -> int:
        if _textual(origin) and isinstance(raw, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", raw, re.ASCII):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise ValueError
        return raw

    return read


def choice(*choices: str) -> Reader:
    """A reader of one of these words, in lower case."""

    def read(raw: Any, _origin: Origin) -> str:
        if isinstance(raw, str) and raw.strip().lower() in choices:
            return raw.strip().lower()
        raise ValueError

    return read


def size(raw: Any, _origin: Origin) -> int:
    """Bytes; see `size_in_bytes`."""
    return size_in_bytes(raw)


def seconds(raw: Any, _origin: Origin | None) -> float:
    """Seconds of `500ms` and the like; see `accel.core.settings.parse_duration`."""
    if isinstance(raw, str):
        match = _DURATION.fullmatch(raw)
        if match is None:
            raise ValueError
        raw = float(match[1]) * _SECONDS[match[2].lower()]
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not math.isfinite(raw) or raw <= 0:
        raise ValueError
    return float(raw)


def path(raw: Any, origin: Origin) -> str:
    """An absolute path; relative ones start at the file that names them."""
    if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
        raise ValueError
    try:
        path = Path(raw).expanduser()
        return str(path if path.is_absolute() else (origin.folder or Path.cwd()) / path)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"the path cannot be made absolute ({error})") from error


def program(raw: Any, origin: Origin) -> str:
    """A program's path, or its name to be looked up; not from a project's file."""
    if origin.layer == "project":
        raise ValueError("a project's file may not name programs to start; set it for yourself")
    if isinstance(raw, str) and re.fullmatch(r"[\w.+-]+", raw):
        return raw
    return path(raw, origin)


def log_file(raw: Any, origin: Origin) -> str:
    """A path; in a project's file only one inside the project."""
    target = path(raw, origin)
    folder = origin.folder
    if origin.layer == "project" and folder is not None and not Path(target).resolve().is_relative_to(folder.resolve()):
        raise ValueError("a project's file may only name a file inside the project; set it for yourself")
    return target


def _url(text: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text.strip())
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", text.strip()):
        raise ValueError(f"{text!r} is not an http or https URL")
    if parts.scheme == "http" and not _LOOPBACK.fullmatch(host):
        raise ValueError(f"{text!r} is not on this machine and so has to speak https")
    return text.strip().rstrip("/")


def urls(raw: Any, _origin: Origin) -> tuple[str, ...]:
    """URLs as a list, or as one text with commas."""
    if isinstance(raw, str):
        raw = [part for part in re.split(r"[,\s]+", raw) if part]
    if not isinstance(raw, (list, tuple)) or not all(isinstance(item, str) for item in raw):
        raise ValueError
    return tuple(dict.fromkeys(_url(item) for item in raw))


def address(raw: Any, _origin: Origin) -> str:
    """A multiaddress or a URL."""
    if not isinstance(raw, str):
        raise ValueError
    text = raw.strip()
    if not text.startswith("/"):
        return _url(text)
    match = _MULTIADDR.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ValueError
    return text


def prices(raw: Any, _origin: Origin) -> tuple[str, ...]:
    """`NAME=PRICE` texts, one for each name."""
    if isinstance(raw, Mapping):
        raw = [f"{name}={price}" for name, price in raw.items()]
    elif isinstance(raw, str):
        raw = [part for part in re.split(r"[,\s]+", raw) if part]
    if not isinstance(raw, (list, tuple)) or not all(isinstance(item, str) for item in raw):
        raise ValueError
    found = {}
    for item in raw:
        name, equals, price = item.partition("=")
        if not equals or not re.fullmatch(r"[\w.:-]+", name) or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", price, re.ASCII):
            raise ValueError(f"{item!r} is not a device and its price, such as cpu=0.08")
        found[name] = price
    return tuple(f"{name}={price}" for name, price in found.items())
