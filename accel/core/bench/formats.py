"""A report for other programs: JUnit XML, markdown for a pull request, annotations of GitHub."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accel.core.bench.compare import Comparison
    from accel.core.bench.session import Report

#: characters that XML 1.0 cannot hold
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def problems(report: Report) -> dict[str, list[str]]:
    """What is wrong with each cell that has something wrong, by key."""
    found: dict[str, list[str]] = {}
    for key, why in report.broken:
        found.setdefault(key, []).append(why)
    for regression in report.regressions:
        found.setdefault(regression.key, []).append(explain(regression))
    return found


def explain(found: Comparison) -> str:
    """A comparison as a sentence."""
    if found.word == "failed":
        return f"it worked in the baseline and fails now: {found.note}"
    if found.ratio is None or math.isnan(found.ratio.value):
        return f"{found.word}{': ' + found.note if found.note else ''}"
    text = f"{percent(found.ratio.value)} {interval(found)}"
    if found.old_ms is not None and found.new_ms is not None:
        text += f", {found.old_ms:.4g} ms before and {found.new_ms:.4g} ms now"
    return f"{found.word}: {text}{'; ' + found.note if found.note else ''}"


def percent(ratio: float) -> str:
    """`+5.2 %` for a ratio of 1.052."""
    return f"{100 * (ratio - 1):+.1f} %"


def interval(found: Comparison) -> str:
    """`[+3.1 %, +7.2 %]`; a bound that the samples do not give is a question mark."""
    ratio = found.ratio
    if ratio is None:
        return ""
    return f"[{', '.join('?' if bound is None else percent(bound) for bound in (ratio.low, ratio.high))}]"


def junit(report: Report) -> str:
    """A test suite with one test case for each cell."""
    from xml.etree import ElementTree as xml

    wrong = problems(report)
    suite = xml.Element("testsuite", name="accel bench", time=f"{report.elapsed_s:.3f}", tests=str(len(report.cells)))
    failures = errors = left_out = 0
    for cell in report.cells:
        seconds = (cell["latency_ms"] or 0.0) / 1e3
        case = xml.SubElement(
            suite, "testcase", classname=_clean(cell["model"] or cell["benchmark"]), name=_clean(cell["key"])
        )
        case.set("time", f"{seconds:.9f}")
        if cell["status"] == "failed":
            errors += 1
            xml.SubElement(case, "error", type=_clean(cell["cause"]), message=_clean(cell["reason"]))
        elif cell["status"] == "skipped":
            left_out += 1
            xml.SubElement(case, "skipped", message=_clean(cell["reason"]))
        elif cell["key"] in wrong:
            failures += 1
            text = "\n".join(wrong[cell["key"]])
            xml.SubElement(case, "failure", type="gate", message=_clean(wrong[cell["key"]][0])).text = _clean(text)
    suite.set("failures", str(failures))
    suite.set("errors", str(errors))
    suite.set("skipped", str(left_out))
    root = xml.Element("testsuites")
    root.append(suite)
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


def _clean(text: str | None) -> str:
    return _NOT_XML.sub("?", text or "")


def markdown(report: Report) -> str:
    """Tables for a pull request: what became slower, then every cell."""
    lines = ["## accel bench", ""]
    wrong = problems(report)
    failed = {cell["key"]: cell["reason"] for cell in report.failures}
    if wrong or failed:
        lines += [f"**{len(wrong.keys() | failed.keys())} of {len(report.cells)} cells have a problem.**", ""]
        for key in dict.fromkeys([*wrong, *failed]):
            lines += [f"- `{_cell(key)}`: {_cell('; '.join(wrong.get(key) or [failed[key]]))}"]
        lines.append("")
    if report.comparisons is not None and report.baseline is not None:
        lines += [
            f"Compared with the baseline `{_cell(report.baseline['name'])}`"
            + (f", failing from {percent(report.threshold)}" if report.threshold else "")
            + ".",
            "",
            "| cell | verdict | before, ms | now, ms | change | interval |",
            "|---|---|---:|---:|---:|---|",
        ]
        lines += [_comparison_row(found) for found in report.comparisons]
        changed = report.baseline["differences"]
        if changed:
            lines += ["", "Different from the baseline:", ""]
            lines += [f"- {_cell(d['what'])}: {_cell(d['then'])} before, {_cell(d['now'])} now" for d in changed]
        lines.append("")
    lines += [
        "| cell | median, ms | interval, ms | p95, ms | per second | memory, MB | cosine | noise |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    lines += [_row(cell) for cell in report.cells if cell["status"] == "ok"]
    return "\n".join(lines) + "\n"


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _comparison_row(found: Comparison) -> str:
    known = found.ratio is not None and not math.isnan(found.ratio.value)
    change = percent(found.ratio.value) if known and found.ratio is not None else ""
    times = ["" if value is None else f"{value:.4g}" for value in (found.old_ms, found.new_ms)]
    where = interval(found) if known else _cell(found.note)
    return f"| {_cell(found.key)} | {found.word} | {times[0]} | {times[1]} | {change} | {where} |"


def _row(cell: dict[str, Any]) -> str:
    low, high = cell["latency_interval_ms"]
    bounds = f"{_number(low)} to {_number(high)}"
    cosine = (cell["agreement"] or {}).get("cosine")
    memory = cell["memory_bytes"]
    values = [
        _number(cell["latency_ms"]),
        bounds,
        _number(cell["quantiles"]["p95"]["value_ms"]),
        _number(cell["throughput_per_s"]),
        "" if memory is None else f"{memory / 1e6:.0f}",
        "" if cosine is None else f"{cosine:.6f}",
        cell["noise"]["verdict"],
    ]
    return f"| {_cell(cell['key'])} | {' | '.join(values)} |"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def github(report: Report) -> list[str]:
    """Workflow commands of GitHub Actions: an error for each problem, a warning for each failed cell."""
    lines = [
        f"::error title={_escaped(f'accel bench: {key}', title=True)}::{_escaped('; '.join(texts))}"
        for key, texts in problems(report).items()
    ]
    known = problems(report)
    lines += [
        f"::warning title={_escaped('accel bench: ' + cell['key'], title=True)}::{_escaped(cell['reason'] or '')}"
        for cell in report.failures
        if cell["key"] not in known
    ]
    return lines


def _escaped(text: str, *, title: bool = False) -> str:
    for character, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(character, code)
    if title:
        text = text.replace(":", "%3A").replace(",", "%2C")
    return text
