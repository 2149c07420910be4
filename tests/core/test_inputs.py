"""What users feed in: good lines, bad lines, odd files, pipes that stay silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from accel.core import inputs
from accel.core.errors import InputError
from accel.core.types import Item


def entries(path: Path, skip: int = 0) -> list[tuple[int, Item | InputError]]:
    return [entry for window in inputs.from_file(path, skip) for entry in window]


def test_text_file_keeps_every_line_even_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\n\nthree ü\nlast without end".encode())
    found = entries(path)
    assert [e.text for _, e in found if isinstance(e, Item)] == ["one", "", "three ü", "last without end"]
    assert inputs.count(path) == 4


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfhello\n")
    assert entries(path)[0][1].text == "hello"  # type: ignore[union-attr]


def test_bad_lines_are_errors_in_their_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good"}\nnot json\n"bare"\n{"text": 5}\n{"colour": "red"}\n\xff\n[1]\n{"image": "x.png"}\n'
    )
    found = entries(path)
    assert [index for index, _ in found] == list(range(8))
    kinds = [type(e) for _, e in found]
    assert kinds == [Item, InputError, Item, InputError, InputError, InputError, InputError, Item]
    assert "line 2" in str(found[1][1])
    assert "text" in str(found[3][1])
    assert "colour" in str(found[4][1])


def test_skip_leaves_out_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{k}\n" for k in range(10)))
    assert [(i, e.text) for i, e in entries(path, skip=7) if isinstance(e, Item)] == [(7, "7"), (8, "8"), (9, "9")]


def test_windows_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("line\n" * (inputs.WINDOW + 5))
    assert [len(w) for w in inputs.from_file(path)] == [inputs.WINDOW, 5]
    long = tmp_path / "b.txt"
    long.write_text(("x" * 1_000_000 + "\n") * 20)
    assert max(len(w) for w in inputs.from_file(long)) <= 9


def test_csv_takes_the_text_column_and_quoted_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"a, ""b""\nc"\n2,d\n')
    assert [e.text for _, e in entries(path) if isinstance(e, Item)] == ['a, "b"\nc', "d"]


def test_csv_without_known_columns_takes_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("q\nhello\n")
    assert entries(path)[0][1].text == "hello"  # type: ignore[union-attr]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"n": [1, 2], "text": ["a", None]}), path)
    found = entries(path)
    assert isinstance(found[0][1], Item) and found[0][1].text == "a"
    assert isinstance(found[1][1], InputError)
    assert inputs.count(path) == 2


@pytest.mark.parametrize(("name", "content"), [("a.parquet", b"PAR0"), ("a.xyz", b""), ("gone.txt", None)])
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        entries(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_single_reads_files_and_arrays(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("from a file\n")
    np.savez(tmp_path / "t.npz", x=np.ones((2, 3), np.float32))
    assert inputs.single(f"@{tmp_path / 't.txt'}", None, None) == Item(0, text="from a file")
    item = inputs.single(f"@{tmp_path / 't.npz'}", None, None)
    assert item is not None and item.tensors is not None and item.tensors["x"].shape == (2, 3)
    assert inputs.single(None, None, None) is None


def test_single_refuses_pickled_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="no arrays"):
        inputs.single(f"@{tmp_path / 't.npy'}", None, None)


def test_single_refuses_what_is_not_there(tmp_path: Path) -> None:
    for arguments in ((f"@{tmp_path}/no", None, None), (None, f"{tmp_path}/no.png", None), (None, None, "no.wav")):
        with pytest.raises(InputError, match="there is no file"):
            inputs.single(*arguments)


READ_STDIN = """
import json
from accel.core import inputs
from accel.core.types import Item
inputs.FIRST_BYTE_S = 0.3
try:
    if not inputs.stdin_has_input():
        print(json.dumps("nothing"))
    else:
        windows = list(inputs.from_stdin())
        print(json.dumps([[len(w), [e.text if isinstance(e, Item) else str(e) for _, e in w]] for w in windows]))
except inputs.InputError as error:
    print(json.dumps(str(error)))
"""


def read_stdin(stdin: int | None, feed: bytes | None = None) -> object:
    source = {"input": feed} if feed is not None else {"stdin": stdin}
    done = subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-c", READ_STDIN], capture_output=True, timeout=60, check=True, **source
    )
    return json.loads(done.stdout)


def test_stdin_of_a_pipe_is_read_line_by_line() -> None:
    assert read_stdin(None, b'plain\n{"text": "object"}\n\xfe\nlast') == [
        [4, ["plain", "object", "line 3 is not UTF-8 (byte 0)", "last"]]
    ]


def test_dev_null_says_nothing() -> None:
    assert read_stdin(subprocess.DEVNULL) == "nothing"


def test_a_silent_open_pipe_is_an_error_and_not_a_hang() -> None:
    read, write = os.pipe()
    try:
        assert "nothing came" in str(read_stdin(read))
    finally:
        os.close(read)
        os.close(write)
