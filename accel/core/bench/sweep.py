"""`--matrix sweep.toml`: the axes of a matrix, its single cells and exceptions, and options of the sweep, as a file.

models = ["all-minilm", "bert-base"]
hw = ["cpu", "openvino"]
batch = [1, 8]
seq = [32, 128]

[options]
precision_target = "0.5%"

[[cell]]                    # beside the matrix
model = "gpt2"
seq = 64

[[exclude]]                 # not measured: whatever matches every entry
engine = "torch"
batch = 8
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core.bench.matrix import Axes
from accel.core.errors import InputError
from accel.core.settings import near

#: key in the file: (field of `Axes`, type of one value)
AXES: dict[str, tuple[str, type]] = {
    "models": ("models", str),
    "hw": ("hw", str),
    "engine": ("engines", str),
    "precision": ("precisions", str),
    "batch": ("batches", int),
    "seq": ("lengths", int),
    "threads": ("threads", int),
    "task": ("tasks", str),
    "weights": ("weights", str),
}
CELL_KEYS = ("model", *(name for name in AXES if name != "models"))
#: options of the command that a file may set
OPTIONS = {
    "budget": (str, int, float),
    "max_time": (str, int, float),
    "cell_timeout": (str, int, float),
    "precision_target": (str, float),
    "processes": (int,),
    "parallel": (int,),
    "memory_limit": (str, int),
    "max_new_tokens": (int,),
    "agreement": (bool,),
    "seed": (int,),
}


@dataclass(frozen=True)
class Sweep:
    """What a file says.

    Attributes:
        axes: values of `Axes` by field, only those that the file has.
        options: as the command's options, unparsed.
        benchmarks: files or names of the user's own benchmarks.
    """

    axes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    benchmarks: tuple[str, ...] = ()


def read(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        InputError: it cannot be read, is not TOML, or has a key or a value that means nothing; names both.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", "check the path of --matrix") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}", "see `accel bench --help` for an example") from error
    known = (*AXES, "options", "cell", "exclude", "benchmarks")
    for key in data:
        if key not in known:
            raise _unknown(path, key, known)
    axes: dict[str, Any] = {}
    for key, (target, kind) in AXES.items():
        if key in data:
            values = _values(path, key, data[key], kind)
            if key == "weights":
                axes[target] = values[0]
            else:
                axes[target] = ",".join(values) if key == "hw" else values
    for key, target in (("cell", "extra"), ("exclude", "exclude")):
        if key in data:
            axes[target] = tuple(_entry(path, key, entry) for entry in _tables(path, key, data[key]))
    benchmarks = _values(path, "benchmarks", data.get("benchmarks", []), str)
    return Sweep(axes, _options(path, data.get("options", {})), tuple(map(str, benchmarks)))


def _values(path: Path, key: str, given: Any, kind: type) -> tuple[Any, ...]:
    values = given if isinstance(given, list) else [given]
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(
                f"{path}: {key} cannot be {value!r}", f"give {'whole numbers' if kind is int else 'texts'}"
            )
    return tuple(values)


def _tables(path: Path, key: str, given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise InputError(f"{path}: {key} is not a list of tables", f"write [[{key}]]")
    return given


def _entry(path: Path, table: str, entry: dict[str, Any]) -> dict[str, Any]:
    for key, value in entry.items():
        if key not in CELL_KEYS:
            raise _unknown(path, f"{table}.{key}", CELL_KEYS)
        kind = str if key == "model" else AXES[key][1]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f"{path}: {table}.{key} cannot be {value!r}", "one value of the kind the axis has")
    return entry


def _options(path: Path, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{path}: options is not a table", "write [options]")
    for key, value in given.items():
        if key not in OPTIONS:
            raise _unknown(path, f"options.{key}", OPTIONS)
        if not isinstance(value, OPTIONS[key]) or (isinstance(value, bool) and bool not in OPTIONS[key]):
            raise InputError(f"{path}: options.{key} cannot be {value!r}", "as the option of the command takes it")
    return given


def _unknown(path: Path, key: str, known: Any) -> InputError:
    word = key.rpartition(".")[2]
    meant = near(word, known)
    return InputError(
        f"{path}: there is no {key}", f"did you mean {meant}?" if meant else f"known: {', '.join(sorted(known))}"
    )


def merged(sweep: Sweep, **given: Any) -> Axes:
    """The axes of a file, with those that the command line has in their place.

    Args:
        given: values of `Axes` by field; None where the command line is silent.
    """
    values = {**sweep.axes, **{name: value for name, value in given.items() if value is not None}}
    values.setdefault("models", ())
    return Axes(**values)
