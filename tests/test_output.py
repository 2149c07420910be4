"""Small plots in text: what they show, and what they do where the encoding is poor or the numbers are odd."""

from __future__ import annotations

import io
import math

import pytest

from accel.output import bar, sparkline

UTF8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
ASCII = io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], UTF8) == "▁▂▃▄▅▆▇█"
    assert sparkline([10.0, 0.0], UTF8) == "█▁"
    assert sparkline(range(10), ASCII) == "0123456789"


def test_equal_missing_and_odd_values_have_a_place() -> None:
    assert sparkline([3.0, 3.0], UTF8) == "▅▅"
    assert sparkline([1.0, None, math.nan, 2.0, math.inf], UTF8) == "▁  █ "
    assert sparkline([], UTF8) == sparkline([None, math.nan], UTF8) == ""


@pytest.mark.parametrize(("share", "blocks", "marks"), [(0.0, "", ""), (1.0, "████", "####"), (0.5, "██", "##")])
def test_a_bar_is_as_long_as_its_share(share: float, blocks: str, marks: str) -> None:
    assert (bar(share, 4, UTF8), bar(share, 4, ASCII)) == (blocks, marks)


def test_a_bar_of_little_is_still_there_and_one_of_too_much_ends() -> None:
    assert (bar(1e-9, 4, UTF8), bar(1e-9, 4, ASCII)) == ("▏", "#")
    assert bar(7.0, 4, UTF8) == "████"
    assert bar(-1.0, 4, UTF8) == bar(math.nan, 4, UTF8) == ""
