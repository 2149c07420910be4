"""The page of `accel report --html` in a real Chromium: drawn, clicked, in light and dark, on a phone and printed."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel.core import results
from tests.chromium import Tab, chromium
from tests.core.report.history import ENVIRONMENT, keep, record, sweep_id
from tests.program import accel, succeed

PLANS = (
    {"engine": "onnxruntime"},
    {"engine": "torch", "cosine": 1.0},
    {"engine": "onnxruntime", "precision": "int8", "cosine": 0.998},
)


def fill() -> None:
    """Twelve nights of three cells, the first of which became slower half way; roofs; a failure."""
    records: list[dict[str, Any]] = []
    for night in range(12):
        for number, plan in enumerate(PLANS):
            factor = 1.3 if number == 0 and night >= 6 else 1.0
            made = record(
                0.01 * (number + 1) * factor,
                sweep_id(f"night {night}"),
                seed=night,
                environment={"commit": ("b" if night >= 6 else "a") * 40},
                timestamp=time.time() - 86400.0 * (12 - night),
                **plan,
            )
            made["metadata"]["weights_bytes"] = 90_000_000
            records.append(made)
    hostile = "</script><script>document.title='taken'</script>{{data}}<b>&"
    records.append(record(None, sweep_id("night 11"), batch=8, cause="crash", reason=hostile))
    measured = {"gflops": {"fp32": 200.0, "int8": 800.0}, "copy_gb_per_s": 11.0}
    records.append(
        {"kind": "deep", "fingerprint": ENVIRONMENT["fingerprint"], "device": "cpu:0", "measured": measured}
    )  # fmt: skip
    keep(records)


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with chromium() as tab:
        yield tab


@pytest.fixture
def page(browser: Tab, isolated_home: Path, tmp_path: Path) -> Tab:
    """The page of a filled database, open in a window of a desk."""
    fill()
    path = tmp_path / "report.html"
    succeed("report", "summary", "--html", path, home=isolated_home)
    assert path.stat().st_size < 1_000_000
    browser.complaints.clear()
    browser.requests.clear()
    browser.prefer("light")
    browser.size(1200, 900)
    browser.open(path)
    browser.settle()
    return browser


def count(tab: Tab, selector: str) -> int:
    return int(tab.js(f"[...document.querySelectorAll('{selector}')].filter(e => e.checkVisibility()).length"))


def background(tab: Tab) -> list[int]:
    text = tab.js("getComputedStyle(document.body).backgroundColor")
    return [int(number) for number in re.findall(r"\d+", text)[:3]]


def test_everything_is_drawn_and_nothing_is_loaded(page: Tab, tmp_path: Path) -> None:
    assert page.complaints == []
    assert [url.rpartition("/")[2] for url in page.requests] == ["report.html"]
    assert page.js("document.title") == "accel report"
    assert count(page, "[data-plot=boxes] .row") == 3
    assert count(page, "[data-plot=accuracy] .point") == 3
    assert count(page, "[data-plot=roofline] .point") == 3
    assert count(page, "[data-plot=roofline] path[fill=none]") == 2
    assert count(page, "[data-plot=trend] .point") == 12
    assert count(page, "[data-plot=trend] .change") == 1
    assert count(page, "#cells tbody tr") == 3
    change = page.js("document.querySelector('#changes').textContent")
    assert re.search(r"\+(29|30|31)\.\d %", change)
    assert "commit: aaaaaaaaaaaa → bbbbbbbbbbbb" in change
    assert "</script><script>" in page.js("document.querySelector('#failures').textContent")
    from PIL import Image

    picture = Image.open(io.BytesIO(page.screenshot(tmp_path / "page.png"))).convert("RGB")
    colours = picture.getcolors(1 << 24) or []
    assert len(colours) > 100
    assert max(amount for amount, _ in colours) < 0.95 * picture.width * picture.height


def test_a_click_shows_all_of_a_cell(page: Tab) -> None:
    first = page.js("document.querySelector('[data-plot=detail] strong').textContent")
    page.click("[data-plot=boxes] .row", 2)
    second = page.js("document.querySelector('[data-plot=detail] strong').textContent")
    assert first != second
    assert count(page, ".row.chosen") == 1
    assert count(page, "[data-plot=accuracy] .point.chosen") == 1
    page.click("#cells tbody tr", 0)
    assert page.js("document.querySelector('[data-plot=detail] strong').textContent") != second


def test_filters_and_sorting(page: Tab) -> None:
    page.js("(() => { const s = document.querySelector('[name=engine]'); s.value = 'torch';"
            " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert count(page, "[data-plot=boxes] .row") == 1
    assert count(page, "#cells tbody tr") == 1
    page.js("(() => { const s = document.querySelector('[name=engine]'); s.value = '';"
            " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    shown = "[...document.querySelectorAll('#cells tbody tr')].map(r => +r.children[7].dataset.value)"
    page.click("#cells th button", 7)
    assert page.js(shown) == sorted(page.js(shown))
    page.click("#cells th button", 7)
    assert page.js(shown) == sorted(page.js(shown), reverse=True)
    assert page.complaints == []


def test_a_pointer_is_told_the_numbers(page: Tab) -> None:
    place = page.js(
        "(() => { const r = document.querySelector('[data-plot=boxes] .row').getBoundingClientRect();"
        " return [r.left + 20, r.top + 10]; })()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    page.settle()
    assert count(page, "#tip") == 1
    assert " ms [" in page.js("document.querySelector('#tip').textContent")


def test_light_dark_and_what_the_reader_prefers(page: Tab, tmp_path: Path) -> None:
    assert min(background(page)) > 230
    page.prefer("dark")
    assert max(background(page)) < 50
    page.screenshot(tmp_path / "dark.png")
    page.click("#theme")
    assert min(background(page)) > 230
    page.click("#theme")
    assert max(background(page)) < 50
    # text can be read: contrast of at least 4.5 to 1, WCAG 2.1
    for scheme in ("light", "dark"):
        page.js("delete document.documentElement.dataset.theme")
        page.prefer(scheme)
        for selector in ("body", ".note", "td", "svg text", "svg text.soft"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)


def contrast(tab: Tab, selector: str) -> float:
    colours = tab.js(
        f"(() => {{ const e = document.querySelector('{selector}'), s = getComputedStyle(e);"
        " const panel = getComputedStyle(document.querySelector('section')).backgroundColor;"
        " return [e instanceof SVGElement ? s.fill : s.color, panel]; })()"
    )

    def luminance(text: str) -> float:
        parts = [int(number) / 255 for number in re.findall(r"\d+", text)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted(map(luminance, colours), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_on_a_phone_nothing_sticks_out(page: Tab, tmp_path: Path) -> None:
    page.size(390, 844, phone=True)
    assert page.js("document.documentElement.scrollWidth") <= 390
    outside = page.js(
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('.scroll')"
        " && e.getBoundingClientRect().right > 391).map(e => e.tagName + e.textContent.slice(0, 40))"
    )
    assert outside == []
    assert count(page, "[data-plot=boxes] .row") == 3
    page.screenshot(tmp_path / "phone.png")
    assert page.complaints == []


def test_on_paper_it_is_light_and_has_no_controls(page: Tab) -> None:
    page.prefer("dark", "print")
    assert min(background(page)) == 255
    assert count(page, "#filters") == count(page, "#theme") == 0
    assert count(page, "[data-plot=boxes] .row") == 3
    assert page.pdf().startswith(b"%PDF")


def test_one_run_and_no_results_have_pages_too(browser: Tab, isolated_home: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.html"
    succeed("report", "export", "--format", "html", "--output", nothing, home=isolated_home)
    fill()
    one = tmp_path / "one.html"
    succeed("report", "show", "last", "--html", one, home=isolated_home)
    browser.prefer("light")
    browser.size(1200, 900)
    for path, cells in ((nothing, 0), (one, 3)):
        browser.complaints.clear()
        browser.open(path)
        browser.settle()
        assert browser.complaints == []
        assert count(browser, "[data-plot=boxes] .row") == cells
        assert count(browser, "#cells tbody tr") == cells


def test_a_page_of_many_cells_stays_small(isolated_home: Path, tmp_path: Path) -> None:
    keep([record(0.001 * n, sweep_id("many"), batch=n) for n in range(1, 301)])
    path = tmp_path / "many.html"
    succeed("report", "summary", "--html", path, home=isolated_home)
    assert path.stat().st_size < 1_000_000
    text = path.read_text()
    assert text.count("<tr data-id") == 150
    assert "150 older cells left out" in text


def test_a_picture_for_slides(isolated_home: Path, tmp_path: Path) -> None:
    from PIL import Image

    fill()
    path = tmp_path / "slide.png"
    succeed("report", "summary", "--png", path, home=isolated_home)
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (1920, 1080))
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 100


def test_without_matplotlib_a_picture_is_refused_with_the_way_to_it(isolated_home: Path, tmp_path: Path) -> None:
    fill()
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('not here')")
    done = accel("report", "summary", "--png", tmp_path / "x.png", home=isolated_home, PYTHONPATH=str(tmp_path))
    assert done.returncode == 3
    assert "ipfs-accel[report]" in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_a_page_where_it_cannot_be_written(isolated_home: Path, tmp_path: Path) -> None:
    results.append(record(0.01, sweep_id("one")))
    (tmp_path / "file").touch()
    done = accel("report", "summary", "--html", tmp_path / "file" / "x.html", home=isolated_home)
    assert done.returncode == 5
