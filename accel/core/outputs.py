"""Writes the results of a bulk run: JSON lines, CSV or parquet, in input order, resumable.

Every line of a JSON or CSV file is whole or absent: a torn last line (a killed process, a full disk) is cut off when
the run is resumed. Parquet files appear under their name only when the run is complete.
"""

from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from accel.core.errors import AccelError, InputError, TransferError, UnavailableError

FORMATS = (".jsonl", ".ndjson", ".csv", ".parquet")


def dumps(value: Any) -> bytes:
    """One JSON line without its end; numpy arrays and scalars are written as numbers, without losing precision."""
    try:
        import orjson
    except ImportError:
        return json.dumps(value, ensure_ascii=False, default=_plain).encode()
    line: bytes = orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    return line


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


class ResultWriter(ABC):
    """A file of results. `done` inputs were in it already when it was opened to resume."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        self.done = done

    @abstractmethod
    def write(self, index: int, output: dict[str, Any] | None, error: AccelError | None) -> None:
        """Adds one result."""

    @abstractmethod
    def flush(self) -> None:
        """Hands what was added to the system."""

    @abstractmethod
    def close(self, *, complete: bool) -> None:
        """Ends the file; `complete` says that every input was answered."""


def open_writer(path: Path, schema: str, *, resume: bool) -> ResultWriter:
    """A writer for this file, by its ending.

    Raises:
        InputError: unknown ending, or the file exists and `resume` was not asked.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"--output {path} has an ending that says no known format", f"use one of {', '.join(FORMATS)}")
    if path.exists() and path.stat().st_size and not resume:
        raise InputError(f"{path} exists already", "--resume goes on after it; or remove it, or choose another name")
    if path.parent != Path() and not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}", "make it first")
    if suffix == ".parquet":
        if resume:
            raise InputError("a parquet file cannot be resumed", "use --output FILE.jsonl")
        return _ParquetWriter(path)
    return _CsvWriter(path) if suffix == ".csv" else _JsonWriter(path, schema)


class _LineWriter(ResultWriter):
    """Appends whole lines; counts and repairs what is there already."""

    def __init__(self, path: Path, header_lines: int) -> None:
        try:
            self._file = path.open("ab+")
        except OSError as error:
            raise TransferError(f"cannot write {path}: {error.strerror}", "choose another place") from error
        super().__init__(path, max(0, self._repair() - header_lines))
        self._buffer = io.BytesIO()

    def _repair(self) -> int:
        """Cuts off a torn last line and returns the number of whole lines."""
        self._file.seek(0)
        lines, whole, position = 0, 0, 0
        for line in self._file:
            position += len(line)
            if line.endswith(b"\n"):
                lines, whole = lines + 1, position
        if whole != position:
            self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)
        return lines

    def flush(self) -> None:
        try:
            self._file.write(self._buffer.getbuffer())
            self._file.flush()
        except OSError as error:
            raise TransferError(
                f"cannot write {self.path}: {error.strerror}", "make room and go on with --resume"
            ) from error
        self._buffer = io.BytesIO()

    def close(self, *, complete: bool) -> None:
        try:
            self.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


class _JsonWriter(_LineWriter):
    def __init__(self, path: Path, schema: str) -> None:
        super().__init__(path, 0)
        self._schema = schema

    def write(self, index: int, output: dict[str, Any] | None, error: AccelError | None) -> None:
        line: dict[str, Any] = {"schema": self._schema, "index": index, "output": output}
        if error is not None:
            line["error"] = {"error": error.kind, "message": error.message, "hint": error.hint}
        self._buffer.write(dumps(line) + b"\n")


class _CsvWriter(_LineWriter):
    """Columns index, output (text where the answer is one text, else JSON) and error."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1)
        if path.stat().st_size == 0:
            self._row(["index", "output", "error"])

    def _row(self, cells: list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(cells)
        self._buffer.write(text.getvalue().encode() + b"\n")

    def write(self, index: int, output: dict[str, Any] | None, error: AccelError | None) -> None:
        value = ""
        if output is not None:
            only = next(iter(output.values())) if len(output) == 1 else None
            value = only if isinstance(only, str) and "\n" not in only else dumps(output).decode()
        reason = error.message.replace("\n", " ") if error is not None else ""
        self._row([str(index), value.replace("\r", " "), reason])


class _ParquetWriter(ResultWriter):
    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as arrow
            import pyarrow.parquet as parquet
        except ImportError:
            raise UnavailableError(
                f"writing {path} needs pyarrow, which is not installed", "pip install 'ipfs-accel[parquet]'"
            ) from None
        super().__init__(path, 0)
        self._arrow, self._parquet = arrow, parquet
        self._partial = path.with_name(f".{path.name}.partial")
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def write(self, index: int, output: dict[str, Any] | None, error: AccelError | None) -> None:
        self._rows.append({"index": index, "output": output, "error": error.message if error is not None else None})

    def flush(self) -> None:
        if not self._rows:
            return
        try:
            if self._writer is None:
                table = self._arrow.Table.from_pylist(self._rows)
                self._writer = self._parquet.ParquetWriter(self._partial, self._schema_of(table))
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._writer.schema))
        except OSError as error:
            raise TransferError(f"cannot write {self.path}: {error}", "make room and run it again") from error
        self._rows = []

    def _schema_of(self, table: Any) -> Any:
        # a first window without errors must not fix the error column as null
        position = table.schema.get_field_index("error")
        return table.schema.set(position, self._arrow.field("error", self._arrow.string()))

    def close(self, *, complete: bool) -> None:
        self.flush()
        if self._writer is not None:
            self._writer.close()
            if complete:
                self._partial.replace(self.path)
