"""The settings that a user can change: their names, types, allowed values, defaults and what each one does.

`accel.core.config` finds values in files, the environment and the command line and has them checked here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from accel.core import setting_readers as read
from accel.core.errors import InputError
from accel.core.setting_readers import Origin, Reader

SECTIONS = ("hardware", "ipfs", "performance", "logging")


def parse_size(text: str | int) -> int:
    """Bytes of a size as people write it.

    `8GB` is 8 x 10^9 (as on a disk's label), `8GiB` and the bare letter `8G` are 8 x 2^30 (as memory is counted);
    a number alone is bytes. Upper and lower case are the same.

    Raises:
        InputError: not a size, or not one above zero.
    """
    try:
        return read.size_in_bytes(text)
    except ValueError as error:
        raise InputError(f"{text!r} is not a size above zero", 'write it as "8GB" or "8GiB"') from error


def parse_duration(text: str | float) -> float:
    """Seconds of a duration as people write it: `500ms`, `30s`, `10m` (minutes), `1.5h`; a number alone is seconds.

    Raises:
        InputError: not a duration, or not one above zero.
    """
    try:
        return read.seconds(text, None)
    except ValueError as error:
        raise InputError(f"{text!r} is not a duration above zero", 'write it as "30s" or "10m"') from error


@dataclass(frozen=True)
class Key:
    """One setting.

    Attributes:
        name: `section.key`.
        type: `bool`, `int`, `choice`, `size` (bytes), `seconds`, `path`, `urls`, `address` or `prices`.
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


_KEYS = (
    Key(
        "hardware.prefer_cuda",
        "bool",
        "true, false",
        False,
        "Take a CUDA device whenever there is one that the model fits on, without comparing it with others.",
        read.boolean,
    ),
    Key(
        "hardware.allow_openvino",
        "bool",
        "true, false",
        True,
        "Let --hw auto consider the OpenVINO devices.",
        read.boolean,
    ),
    Key(
        "hardware.precision",
        "choice",
        "auto, fp32, fp16, bf16, int8",
        "auto",
        "Precision to compute in; auto is the fastest within the tolerance.",
        read.choice("auto", "fp32", "fp16", "bf16", "int8"),
    ),
    Key(
        "hardware.memory_limit",
        "size",
        'a size such as "8GB" or "8GiB", or null for no limit',
        None,
        "The most memory that a model may use on a device.",
        read.size,
        nullable=True,
    ),
    Key(
        "hardware.browser",
        "path",
        "the path or the name of a browser, or null to look for one",
        None,
        "The browser that WebGPU and WebNN run in.",
        read.program,
        nullable=True,
    ),
    Key(
        "ipfs.gateway",
        "urls",
        "trustless gateways: a list of URLs, or one text with commas; https, or http on this machine",
        ("https://trustless-gateway.link", "https://ipfs.io"),
        "Gateways that content is fetched from, in this order.",
        read.urls,
    ),
    Key(
        "ipfs.local_node",
        "address",
        'the RPC address of a Kubo node, as "/ip4/127.0.0.1/tcp/5001" or "http://127.0.0.1:5001", or null for none',
        "/ip4/127.0.0.1/tcp/5001",
        "The Kubo node to use, if it runs.",
        read.address,
        nullable=True,
    ),
    Key(
        "ipfs.timeout",
        "seconds",
        'seconds above 0, or a text such as "30s" or "2min"',
        30.0,
        "How long a node or a gateway may stay silent.",
        read.seconds,
    ),
    Key(
        "performance.cache_size",
        "size",
        'a size such as "50GB", or null for no limit',
        parse_size("50GB"),
        "Bound of the local block store; unpinned blocks beyond it are evicted, the least recently used first.",
        read.size,
        nullable=True,
    ),
    Key(
        "performance.prepared_size",
        "size",
        'a size such as "20GB", or null for no limit',
        parse_size("20GB"),
        "Bound of the prepared plans; those beyond it are evicted, the least recently used first.",
        read.size,
        nullable=True,
    ),
    Key(
        "performance.parallel_requests",
        "int",
        "1 to 256",
        8,
        "How many blocks are asked for at once while fetching.",
        read.whole(1, 256),
    ),
    Key(
        "performance.price_per_hour",
        "prices",
        'devices or platforms (or all) with their prices: "cpu=0.08, cuda:0=2.50", or an object',
        (),
        "What an hour of a device costs, in any currency: accel report then tells the cost of a million inferences.",
        read.prices,
    ),
    Key(
        "performance.enable_profiling",
        "bool",
        "true, false",
        False,
        "Write how long each phase of a command took into the log.",
        read.boolean,
    ),
    Key(
        "logging.level",
        "choice",
        "debug, info, warning, error",
        "warning",
        "The least serious messages that are shown and logged.",
        read.choice("debug", "info", "warning", "error"),
    ),
    Key(
        "logging.file",
        "path",
        "the path of a file, or null for none",
        None,
        "File that log messages are appended to, besides standard error.",
        read.log_file,
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
