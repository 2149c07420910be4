"""The rules of CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import pytest

from accel.core.visible import visible

CARDS = [("GPU-aaaa1111-0000",), ("GPU-aaaa2222-0000",), ("GPU-bbbb3333-0000",)]


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        (" ", []),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("+1", [1]),
        ("1gpu", [1]),
        ("0,5,1", [0]),
        ("-1", []),
        ("0,-1,1", [0]),
        ("0,,1", [0]),
        ("NoDevFiles", []),
        ("1,1", []),
        ("GPU-bbbb3333-0000", [2]),
        ("GPU-bbbb,GPU-aaaa1", [2, 0]),
        ("gpu-BBBB", [2]),
        ("GPU-aaaa", []),
        ("GPU-aaaa1,GPU-cccc,GPU-bbbb", [0]),
        ("GPU-", []),
        ("GPU-bbbb,0", [2]),
        ("0,GPU-bbbb", [0]),
        ("GPU-bbbb,GPU-bbbb3", []),
        ("99999999999999999999", []),
    ],
)
def test_visible(value: str | None, chosen: list[int]) -> None:
    assert visible(value, CARDS) == chosen


def test_no_cards() -> None:
    assert visible(None, []) == []
    assert visible("0", []) == []
