"""The plots of a page as a picture of 1920 x 1080 pixels, for slides.

Drawn with matplotlib, which the extra `report` brings: log axes, text of every language and clean edges are what Pillow
leaves to its callers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accel.core.errors import UnavailableError
from accel.core.report.cells import Cell
from accel.core.report.page import Page, label
from accel.core.report.plots import intensity, roofs
from accel.core.report.trend import follow

#: Okabe and Ito's colours, which everybody can tell apart
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKS = {"fp32": "o", "bf16": "s", "fp16": "s", "int8": "^"}
_BOXES = 16


def save(page: Page, target: Path) -> None:
    """Writes the picture as PNG.

    Raises:
        UnavailableError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UnavailableError("pictures need matplotlib", "pip install 'ipfs-accel[report]'") from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    cells = [cell for cell in page.cells if cell.status == "ok" and cell.latency_ms]
    engines = sorted({cell.engine for cell in cells})
    colours = {engine: _COLOURS[i % len(_COLOURS)] for i, engine in enumerate(engines)}
    with matplotlib.rc_context({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure = Figure(figsize=(19.2, 10.8), dpi=100, layout="constrained")
        plots = figure.subplots(2, 2, width_ratios=(1.2, 1))
        _boxes(plots[0][0], cells, colours)
        _accuracy(plots[0][1], cells, colours)
        _trend(plots[1][0], page)
        _roofline(plots[1][1], page, cells, colours)
        figure.suptitle(page.title, fontsize=16, x=0.01, ha="left")
        figure.savefig(target, format="png", facecolor="white")


def _boxes(axes: Any, cells: list[Cell], colours: dict[str, str]) -> None:
    axes.set_title("Distribution: middle half, 5 % to 95 %, median", loc="left")
    with_samples = [cell for cell in cells if cell.samples.get("inference_time")]
    shown = sorted(with_samples, key=lambda cell: cell.latency_ms or 0.0)[:_BOXES]
    if not shown:
        return _nothing(axes, "no samples are kept")
    drawn = axes.boxplot(
        [[1e3 * value for value in cell.samples["inference_time"]] for cell in shown],
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        tick_labels=[label(cell, cells) for cell in shown],
        medianprops={"color": "black", "linewidth": 2},
    )
    for box, cell in zip(drawn["boxes"], shown, strict=True):
        box.set(facecolor=colours[cell.engine], alpha=0.7)
    axes.set_xscale("log")
    axes.invert_yaxis()
    some = f", the fastest {_BOXES} of {len(with_samples)}" if len(with_samples) > _BOXES else ""
    axes.set_xlabel(f"ms per execution{some}")
    return None


def _accuracy(axes: Any, cells: list[Cell], colours: dict[str, str]) -> None:
    axes.set_title("Speed against accuracy", loc="left")
    shown = [cell for cell in cells if cell.cosine is not None]
    if not shown:
        return _nothing(axes, "no output was compared with fp32 torch")
    for cell in shown:
        item = (cell.latency_ms or 0.0) / (cell.batch or 1)
        axes.scatter(item, max(1e-7, 1.0 - (cell.cosine or 0.0)), s=70, **_style(cell, colours))
    axes.axhline(1e-5, color="#009e73", linestyle="--", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="ms per item", ylabel="1 - cosine to fp32 torch")
    _legend(axes, shown, colours)
    return None


def _roofline(axes: Any, page: Page, cells: list[Cell], colours: dict[str, str]) -> None:
    axes.set_title("Roofline: weights counted once per run", loc="left")
    placed = [(x, cell) for cell in cells if (x := intensity(cell)) is not None]
    if not placed:
        return _nothing(axes, "no cell tells both its operations and the size of its weights")
    places = {(cell.fingerprint, cell.device) for _, cell in placed}
    known = [roof for roof in roofs(page.deep) if (roof["fingerprint"], roof["device"]) in places]
    xs = [x for x, _ in placed]
    low, high = min(xs) / 4, max(xs) * 4
    levels: list[float] = []
    for roof in known:
        for precision, peak in roof["gflops"].items():
            speed = roof["gb_per_s"]
            line = [(low, min(peak, low * speed)), (peak / speed, peak)] if speed else [(low, peak)]
            axes.plot(*zip(*line, (max(high, line[-1][0]), peak), strict=True), color="#777777", linewidth=1)
            if all(abs(peak / level - 1.0) > 0.15 for level in levels):
                levels.append(peak)
                axes.annotate(f"{roof['device']} {precision}", (high, peak), ha="right", va="bottom", fontsize=8)
    for x, cell in placed:
        axes.scatter(x, cell.metadata["gflops_per_s"], s=70, **_style(cell, colours))
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s")
    return None


def _trend(axes: Any, page: Page) -> None:
    axes.set_title("Trend: the series with the most to tell, changes of level marked", loc="left")
    series = next((s for s in follow(list(page.history)).series if len(s.cells) > 1), None)
    if series is None:
        return _nothing(axes, "there are too few results")
    times = [cell.latency_ms or 0.0 for cell in series.cells]
    axes.plot(range(len(times)), times, marker="o", markersize=4, linewidth=1, color=_COLOURS[0])
    for change in series.changes:
        axes.axvline(change.index - 0.5, color="#b3261e", linestyle="--")
        axes.annotate(f"{100 * (change.ratio - 1):+.1f} %", (change.index, change.after), color="#b3261e")
    axes.set(xlabel=f"results of {series.last.key}", ylabel="ms")
    return None


def _style(cell: Cell, colours: dict[str, str]) -> dict[str, Any]:
    return {"color": colours[cell.engine], "marker": _MARKS.get(cell.precision, "o"), "edgecolors": "white"}


def _legend(axes: Any, cells: list[Cell], colours: dict[str, str]) -> None:
    for engine, precision in sorted({(cell.engine, cell.precision) for cell in cells}):
        axes.scatter([], [], color=colours[engine], marker=_MARKS.get(precision, "o"), label=f"{engine} {precision}")
    axes.legend(loc="best", fontsize=9)


def _nothing(axes: Any, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()
