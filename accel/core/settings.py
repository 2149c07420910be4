"""The settings that a user can change: their names, types, allowed values, defaults and what each one does.

`accel.core.config` finds values in files, the environment and the command line and has them checked here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accel.core.errors import InputError

SECTIONS = ("hardware", "ipfs", "performance", "logging")

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


def parse_size(text: str | int) -> int:
    """Bytes of a size as people write it.

    `8GB` is 8 x 10^9 (as on a disk's label), `8GiB` and the bare letter `8G` are 8 x 2^30 (as memory is counted);
    a number alone is bytes. Upper and lower case are the same.

    Raises:
        InputError: not a size, or not one above zero.
    """
    try:
        return _bytes(text)
    except ValueError as error:
        raise InputError(f"{text!r} is not a size above zero", 'write it as "8GB" or "8GiB"') from error


def parse_duration(text: str | float) -> float:
    """Seconds of a duration as people write it: `500ms`, `30s`, `10m` (minutes), `1.5h`; a number alone is seconds.

    Raises:
        InputError: not a duration, or not one above zero.
    """
    try:
        return _duration(text, None)
    except ValueError as error:
        raise InputError(f"{text!r} is not a duration above zero", 'write it as "30s" or "10m"') from error


def _bytes(text: Any) -> int:
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError
    match = _SIZE.fullmatch(str(text))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError
    size = round(float(match[1]) * _UNITS[match[2].lower()]) if match[2] or "." in match[1] else int(match[1])
    if not 0 < size < 2**63:
        raise ValueError
    return size


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


@dataclass(frozen=True)
class Key:
    """One setting.

    Attributes:
        name: `section.key`.
        type: `bool`, `int`, `choice`, `size` (bytes), `seconds`, `path`, `urls` or `address`.
        allowed: the values it takes, in words.
        default: the value where nobody says otherwise, already parsed.
        help: one line on what it does.
        read: turns a JSON, TOML or text value into the parsed one.
        nullable: `null` (in text also `none`) is a value.
    """

    name: str
    type: str
    allowed: str
    default: Any
    help: str
    read: Reader
    nullable: bool = False

    @property
    def variable(self) -> str:
        """The environment variable of this key."""
        return "IPFS_ACCELERATE_" + self.name.replace(".", "_").upper()

    def parse(self, raw: Any, origin: Origin) -> Any:
        """The value of a raw one: bool, int, float (seconds), str, tuple of str, or None.

        Raises:
            InputError: wrong type or not allowed; names the origin, the key and the allowed values.
        """
        if self.nullable and (raw is None or (isinstance(raw, str) and raw.strip().lower() in ("null", "none"))):
            return None
        try:
            return self.read(raw, origin)
        except ValueError as error:
            reason = f": {error}" if str(error) else ""
            shown = json.dumps(raw, ensure_ascii=False, default=str)
            raise InputError(
                f"{origin.where}: {self.name} cannot be {shown}{reason}",
                f"allowed: {self.allowed}",
                {"where": origin.where, "key": self.name, "value": shown, "allowed": self.allowed},
            ) from error


def _textual(origin: Origin) -> bool:
    return origin.layer in ("environment", "command line")


def _bool(raw: Any, origin: Origin) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if _textual(origin) and isinstance(raw, str) and raw.strip().lower() in words:
        return words[raw.strip().lower()]
    raise ValueError


def _int(low: int, high: int) -> Reader:
    def read(raw: Any, origin: Origin) -> int:
        if _textual(origin) and isinstance(raw, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", raw, re.ASCII):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise ValueError
        return raw

    return read


def _choice(*choices: str) -> Reader:
    def read(raw: Any, _origin: Origin) -> str:
        if isinstance(raw, str) and raw.strip().lower() in choices:
            return raw.strip().lower()
        raise ValueError

    return read


def _size(raw: Any, _origin: Origin) -> int:
    return _bytes(raw)


def _duration(raw: Any, _origin: Origin | None) -> float:
    if isinstance(raw, str):
        match = _DURATION.fullmatch(raw)
        if match is None:
            raise ValueError
        raw = float(match[1]) * _SECONDS[match[2].lower()]
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not math.isfinite(raw) or raw <= 0:
        raise ValueError
    return float(raw)


def _path(raw: Any, origin: Origin) -> str:
    if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
        raise ValueError
    try:
        path = Path(raw).expanduser()
        return str(path if path.is_absolute() else (origin.folder or Path.cwd()) / path)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"the path cannot be made absolute ({error})") from error


def _program(raw: Any, origin: Origin) -> str:
    if origin.layer == "project":
        raise ValueError("a project's file may not name programs to start; set it for yourself")
    if isinstance(raw, str) and re.fullmatch(r"[\w.+-]+", raw):
        return raw
    return _path(raw, origin)


def _log_file(raw: Any, origin: Origin) -> str:
    path = _path(raw, origin)
    folder = origin.folder
    if origin.layer == "project" and folder is not None and not Path(path).resolve().is_relative_to(folder.resolve()):
        raise ValueError("a project's file may only name a file inside the project; set it for yourself")
    return path


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


def _urls(raw: Any, _origin: Origin) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = [part for part in re.split(r"[,\s]+", raw) if part]
    if not isinstance(raw, (list, tuple)) or not all(isinstance(item, str) for item in raw):
        raise ValueError
    return tuple(dict.fromkeys(_url(item) for item in raw))


def _address(raw: Any, _origin: Origin) -> str:
    if not isinstance(raw, str):
        raise ValueError
    text = raw.strip()
    if not text.startswith("/"):
        return _url(text)
    match = _MULTIADDR.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ValueError
    return text


_KEYS = (
    Key(
        "hardware.prefer_cuda",
        "bool",
        "true, false",
        False,
        "Take a CUDA device whenever there is one that the model fits on, without comparing it with others.",
        _bool,
    ),
    Key(
        "hardware.allow_openvino",
        "bool",
        "true, false",
        True,
        "Let --hw auto consider the OpenVINO devices.",
        _bool,
    ),
    Key(
        "hardware.precision",
        "choice",
        "auto, fp32, fp16, bf16, int8",
        "auto",
        "Precision to compute in; auto is the fastest within the tolerance.",
        _choice("auto", "fp32", "fp16", "bf16", "int8"),
    ),
    Key(
        "hardware.memory_limit",
        "size",
        'a size such as "8GB" or "8GiB", or null for no limit',
        None,
        "The most memory that a model may use on a device.",
        _size,
        nullable=True,
    ),
    Key(
        "hardware.browser",
        "path",
        "the path or the name of a browser, or null to look for one",
        None,
        "The browser that WebGPU and WebNN run in.",
        _program,
        nullable=True,
    ),
    Key(
        "ipfs.gateway",
        "urls",
        "trustless gateways: a list of URLs, or one text with commas; https, or http on this machine",
        ("https://trustless-gateway.link", "https://ipfs.io"),
        "Gateways that content is fetched from, in this order.",
        _urls,
    ),
    Key(
        "ipfs.local_node",
        "address",
        'the RPC address of a Kubo node, as "/ip4/127.0.0.1/tcp/5001" or "http://127.0.0.1:5001", or null for none',
        "/ip4/127.0.0.1/tcp/5001",
        "The Kubo node to use, if it runs.",
        _address,
        nullable=True,
    ),
    Key(
        "ipfs.timeout",
        "seconds",
        'seconds above 0, or a text such as "30s" or "2min"',
        30.0,
        "How long a node or a gateway may stay silent.",
        _duration,
    ),
    Key(
        "performance.cache_size",
        "size",
        'a size such as "50GB", or null for no limit',
        parse_size("50GB"),
        "Bound of the local block store; unpinned blocks beyond it are evicted, the least recently used first.",
        _size,
        nullable=True,
    ),
    Key(
        "performance.prepared_size",
        "size",
        'a size such as "20GB", or null for no limit',
        parse_size("20GB"),
        "Bound of the prepared plans; those beyond it are evicted, the least recently used first.",
        _size,
        nullable=True,
    ),
    Key(
        "performance.parallel_requests",
        "int",
        "1 to 256",
        8,
        "How many blocks are asked for at once while fetching.",
        _int(1, 256),
    ),
    Key(
        "performance.enable_profiling",
        "bool",
        "true, false",
        False,
        "Write how long each phase of a command took into the log.",
        _bool,
    ),
    Key(
        "logging.level",
        "choice",
        "debug, info, warning, error",
        "warning",
        "The least serious messages that are shown and logged.",
        _choice("debug", "info", "warning", "error"),
    ),
    Key(
        "logging.file",
        "path",
        "the path of a file, or null for none",
        None,
        "File that log messages are appended to, besides standard error.",
        _log_file,
        nullable=True,
    ),
)

#: every setting by name
SCHEMA: Mapping[str, Key] = MappingProxyType({key.name: key for key in _KEYS})


def near(word: str, known: Iterable[str]) -> str:
    """The known word that `word` most likely means, or an empty text."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.75)), "")


def find_key(name: str, where: str = "") -> Key:
    """The setting of that name; `where` is what asked for it (a file, an option, a variable).

    Raises:
        InputError: there is none; with the nearest name, or the names of the section.
    """
    if name in SCHEMA:
        return SCHEMA[name]
    section, _, entry = name.rpartition(".")
    meant = next((k for k in SCHEMA if k.rpartition(".")[2] == entry), "") or near(name, SCHEMA)
    choices = [k for k in SCHEMA if k.startswith(f"{section}.")] or list(SCHEMA)
    raise InputError(
        f"{where}{': ' if where else ''}there is no setting {name!r}",
        f"did you mean {meant}?" if meant else f"known: {', '.join(choices)}",
        {"where": where, "key": name, "allowed": list(choices), "suggestion": meant or None},
    )
