"""Reads what the user gives a model: one text, files, standard input, or a file of many inputs.

Inputs arrive as windows (lists of numbered items) so that a bulk run holds a bounded number of them at a time. An
input that cannot be read is an `AccelError` in its place, and the rest goes on.
"""

from __future__ import annotations

import csv
import io
import json
import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from accel.core.errors import InputError, UnavailableError
from accel.core.types import Item

#: the most inputs, and characters, of one window
WINDOW = 2048
WINDOW_CHARACTERS = 8_000_000
#: how long to wait for the first byte on an inherited pipe before saying that nothing comes
FIRST_BYTE_S = 10.0
#: a pause in standard input this long ends a window, so that what has come is answered
PAUSE_S = 0.05
KEYS = ("text", "input", "image", "audio", "texts", "candidates", "tensors", "id")
FORMATS = (".jsonl", ".ndjson", ".json", ".txt", ".csv", ".tsv", ".parquet")

Entry = Item | InputError
Window = list[tuple[int, Entry]]


def from_object(data: Any, index: int) -> Entry:
    """An item from a JSON value: a string is a text, an object has some of `KEYS`."""
    if isinstance(data, str):
        return Item(index, text=data)
    if not isinstance(data, dict):
        return InputError(
            f"input {index + 1} is {type(data).__name__}, not a text or an object", f"keys: {', '.join(KEYS)}"
        )
    unknown = set(data) - set(KEYS)
    text = data.get("text", data.get("input"))
    texts: Any = data.get("texts", data.get("candidates", ()))
    wrong = [k for k in ("image", "audio") if data.get(k) is not None and not isinstance(data[k], str)]
    if text is not None and not isinstance(text, str):
        wrong.append("text")
    if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
        wrong.append("texts")
    if wrong:
        return InputError(f"input {index + 1} has a wrong type for {', '.join(wrong)}", "texts and paths are strings")
    tensors = data.get("tensors")
    if text is None and not data.get("image") and not data.get("audio") and tensors is None:
        found = f"only {', '.join(sorted(unknown))}" if unknown else "nothing"
        return InputError(f"input {index + 1} has {found}", f"give one of the keys {', '.join(KEYS)}")
    try:
        arrays = _arrays(tensors) if tensors is not None else None
    except ValueError as error:
        return InputError(f"input {index + 1} has tensors that cannot be read: {error}", "give nested lists of numbers")
    return Item(index, text, data.get("image"), data.get("audio"), tuple(texts), arrays)


def _arrays(tensors: Any) -> dict[str, Any]:
    import numpy as np

    if not isinstance(tensors, dict):
        raise ValueError("not an object of names and lists")
    return {name: np.asarray(value) for name, value in tensors.items()}


def tensors_from_file(path: Path) -> dict[str, Any]:
    """Named arrays from `.npz` or `.npy` (its array is then called "")."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} holds no arrays: {error}", "save it with numpy.savez, without pickled objects"
        ) from error
    if isinstance(loaded, np.ndarray):
        return {"": loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def single(text: str | None, image: str | None, audio: str | None, candidates: Iterable[str] = ()) -> Item | None:
    """The item that `--input`, `--image` and `--audio` describe, or None when none was given.

    `@name` reads a file: arrays from `.npz` and `.npy`, text otherwise.
    """
    if text is None and image is None and audio is None:
        return None
    for name in (image, audio):
        if name is not None and not Path(name).is_file():
            raise InputError(f"there is no file {name}", "check the path")
    tensors = None
    if text is not None and text.startswith("@"):
        path = Path(text[1:])
        if not path.is_file():
            raise InputError(
                f"there is no file {path}", "--input @FILE reads a file; give a text that begins with @ by --input-file"
            )
        if path.suffix in (".npz", ".npy"):
            tensors, text = tensors_from_file(path), None
        else:
            text = read_text(path)
    return Item(0, text, image, audio, tuple(candidates), tensors)


def read_text(path: Path) -> str:
    """A UTF-8 file, without the last line end."""
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start})", "convert it, or use --image or --audio"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path and its rights") from error


def stdin_has_input() -> bool:
    """Whether standard input is a file or a pipe that says something.

    A terminal and /dev/null have nothing to say.

    Raises:
        InputError: a pipe stayed silent and open.
    """
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    if stat.S_ISREG(mode):
        return os.fstat(0).st_size > 0
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    ready, _, _ = select.select([0], [], [], FIRST_BYTE_S)
    if not ready:
        raise InputError(
            f"standard input is an open pipe on which nothing came in {FIRST_BYTE_S:g} s",
            "--input - waits for it; with </dev/null the task's own example is used",
        )
    return True


def _parse_line(line: str, index: int) -> Entry:
    if line.lstrip().startswith("{"):
        try:
            return from_object(json.loads(line), index)
        except ValueError as error:
            return InputError(f"line {index + 1} is not valid JSON: {error}", "one JSON object a line")
    return Item(index, text=line)


def from_stdin() -> Iterator[Window]:
    """Windows of standard input: a line each, or a JSON object each; a pause ends a window."""
    buffer = b""
    window: Window = []
    index = 0
    while True:
        wait = PAUSE_S if window else None
        ready, _, _ = select.select([0], [], [], wait)
        if not ready:
            yield window
            window = []
            continue
        chunk = os.read(0, 1 << 16)
        *lines, buffer = (buffer + chunk).split(b"\n")
        if not chunk and buffer:
            lines, buffer = [buffer], b""
        for raw in lines:
            window.append((index, _decoded(raw, index)))
            index += 1
            if len(window) >= WINDOW:
                yield window
                window = []
        if not chunk:
            if window:
                yield window
            return


def _decoded(raw: bytes, index: int) -> Entry:
    try:
        return _parse_line(raw.decode("utf-8").rstrip("\r"), index)
    except UnicodeDecodeError as error:
        return InputError(f"line {index + 1} is not UTF-8 (byte {error.start})", "convert the input to UTF-8")


def from_file(path: Path, skip: int = 0) -> Iterator[Window]:
    """Windows of a file of many inputs, by its ending: jsonl, txt, csv, tsv or parquet.

    Args:
        skip: inputs to leave out at the start (done already).
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}", "check the path")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        entries = _parquet(path)
    elif suffix in (".csv", ".tsv"):
        entries = _table(path, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".jsonl", ".ndjson", ".json"):
        entries = _lines(path, json_only=True)
    elif suffix in (".txt", ""):
        entries = _lines(path, json_only=False)
    else:
        raise InputError(f"{path} has an ending that says no known format", f"use one of {', '.join(FORMATS)}")
    return _windows(entries, skip)


def _windows(entries: Iterator[Entry], skip: int) -> Iterator[Window]:
    window: Window = []
    characters = 0
    for index, entry in enumerate(entries):
        if index < skip:
            continue
        window.append((index, entry))
        characters += len(entry.text or "") if isinstance(entry, Item) else 0
        if len(window) >= WINDOW or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _lines(path: Path, *, json_only: bool) -> Iterator[Entry]:
    with path.open("rb") as file:
        for index, raw in enumerate(file):
            line = raw.rstrip(b"\r\n")
            try:
                text = line.decode("utf-8-sig" if index == 0 else "utf-8")
            except UnicodeDecodeError as error:
                yield InputError(f"line {index + 1} is not UTF-8 (byte {error.start})", "convert the input to UTF-8")
                continue
            if not json_only:
                yield Item(index, text=text)
                continue
            try:
                yield from_object(json.loads(text), index)
            except ValueError as error:
                yield InputError(f"line {index + 1} is not valid JSON: {error}", "one JSON value a line")


def _table(path: Path, delimiter: str) -> Iterator[Entry]:
    with path.open("rb") as raw:
        text: IO[str] = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        csv.field_size_limit(sys.maxsize)
        rows = csv.DictReader(text, delimiter=delimiter)
        columns = rows.fieldnames or []
        column = next((c for c in ("text", "input", "sentence") if c in columns), columns[0] if columns else "")
        for index, row in enumerate(rows):
            data = {k: row[k] for k in ("image", "audio") if row.get(k)}
            value = row.get(column)
            if value is not None and column not in ("image", "audio"):
                data["text"] = value
            try:
                (value or "").encode("utf-8")
            except UnicodeEncodeError:
                yield InputError(f"row {index + 1} is not UTF-8", "convert the input to UTF-8")
                continue
            yield from_object(data, index)


def _parquet(path: Path) -> Iterator[Entry]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UnavailableError(
            f"reading {path} needs pyarrow, which is not installed", "pip install 'ipfs-accel[parquet]'"
        ) from None
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:  # pyarrow's errors share no base class of their own
        raise InputError(f"{path} is not a parquet file: {error}", "check the file") from error
    columns = file.schema_arrow.names
    usable = [c for c in columns if c in KEYS] or columns[:1]
    index = 0
    for batch in file.iter_batches(batch_size=1024, columns=usable):
        for row in batch.to_pylist():
            known = {k: v for k, v in row.items() if v is not None}
            yield from_object(known if set(usable) & set(KEYS) else next(iter(row.values())), index)
            index += 1


def count(path: Path) -> int | None:
    """How many inputs a file has, or None where finding out would take long (over 2 GB) or is not possible."""
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as parquet

            rows: int = parquet.ParquetFile(path).metadata.num_rows
            return rows
        if path.stat().st_size > 2 << 30:
            return None
        lines, last = 0, b"\n"
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
                last = block[-1:]
    except (OSError, ImportError, ValueError):
        return None
    header = path.suffix.lower() in (".csv", ".tsv")
    return max(0, lines + (last != b"\n") - header)
