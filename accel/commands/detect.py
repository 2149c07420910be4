"""`accel detect`: what this machine can run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.output import Output, human_bytes, terminal_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accel.core.devices import Selection
    from accel.core.types import Device, PlatformReport

_INDENT = 15


def detect(
    output: Output,
    hw: Annotated[
        str,
        typer.Option(
            "--hw", metavar="LIST", help="Platforms or devices to look for, by comma; exit 3 if none is here."
        ),
    ] = "all",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also measure each device: matrix products and copies, some seconds each.")
    ] = False,
) -> None:
    """Show the eight platforms: present with their devices, or absent with the reason and the fix.

    Example: accel detect --hw cpu,cuda --json
    """
    from accel.core.devices import absent, parse_hw
    from accel.core.fingerprint import fingerprint
    from accel.core.hardware import scan

    selection = parse_hw(hw)
    reports = [_narrow(report, selection) for report in scan(selection.platforms, deep, output.note)]
    devices = [device for report in reports for device in report.devices]
    data = {"schema": "accel.detect/1", "fingerprint": fingerprint(), "platforms": [as_json(r) for r in reports]}
    missing = selection.named and not devices
    if not missing or output.mode == "json" or len(selection.targets) > 1:
        output.result(data, lambda: _show(output, reports, selection), "\n".join(device.id for device in devices))
    if missing:
        target = selection.targets[0]
        whole = scan([target.platform])[0] if target.unit else reports[0]
        raise absent(target, whole)


def as_json(report: PlatformReport) -> dict[str, Any]:
    """A report as `--json` prints it."""
    keys: tuple[str, ...]
    keys = ("id", "name", "vendor", "memory_total_bytes", "memory_free_bytes", "cores", "threads", "features")
    keys += ("precisions", "driver", "engines", "measured")
    return {
        "name": report.name,
        "present": report.present,
        "reason": report.reason,
        "fix": report.fix,
        "devices": [{key: getattr(device, key) for key in keys} for device in report.devices],
    }


def _narrow(report: PlatformReport, selection: Selection) -> PlatformReport:
    """The report with the devices that were asked for."""
    import dataclasses

    wanted = [target for target in selection.targets if target.platform == report.name]
    devices = tuple(device for device in report.devices if any(target.fits(device.id) for target in wanted))
    return dataclasses.replace(report, devices=devices)


def _show(output: Output, reports: Sequence[PlatformReport], selection: Selection) -> None:
    shown = 0
    for report in reports:
        for number, device in enumerate(report.devices):
            _entry(output, device.id, _device(device, report if number == 0 else None))
            shown += 1
    lacking = [report for report in reports if not report.devices]
    if lacking and shown:
        output.line()
    for report in lacking:
        lines = [f"absent: {report.reason}", *([f"try: {report.fix}"] if report.fix else [])]
        _entry(output, report.name, lines)
    first = _first(reports)
    if first and not selection.named:
        output.line()
        text = f"--hw auto measures before it decides; with nothing measured yet it would look at {first} first."
        _paragraph(output, text, "", "")


def _first(reports: Sequence[PlatformReport]) -> str | None:
    """The device that goes first where there is no evidence: the highest priority that an engine can run on."""
    from accel.core.hardware import priority

    usable = [device for report in reports for device in report.devices if device.engines]
    return max(usable, key=lambda device: priority(device.platform)).id if usable else None


def _device(device: Device, report: PlatformReport | None) -> list[str]:
    """The lines about a device; `report` is given with the first device of a platform."""
    lines = [device.name]
    size = []
    if device.cores is not None:
        size.append(f"{device.cores} cores" + (f", {device.threads} threads" if device.threads else ""))
    if device.memory_total_bytes is not None:
        total = human_bytes(device.memory_total_bytes)
        free = device.memory_free_bytes
        size.append(f"{total} memory" if free is None else f"{human_bytes(free)} free of {total}")
    if size:
        lines.append(", ".join(size))
    fast, possible = device.precisions["fast"], device.precisions["possible"]
    slow = [precision for precision in possible if precision not in fast]
    if possible:
        parts = [f"{' '.join(fast)} in hardware" if fast else "", f"{' '.join(slow)} possible" if slow else ""]
        lines.append("; ".join(part for part in parts if part))
    if device.features:
        lines.append(" ".join(device.features))
    if device.driver:
        lines.append(f"driver {device.driver}")
    lines.append(f"engines: {', '.join(device.engines) or 'none that could run here'}")
    if device.measured:
        lines += _measured(device.measured)
    if report is not None:
        lines.append(report.reason)
        lines += [f"try: {report.fix}"] if report.fix else []
    return lines


def _measured(figures: dict[str, Any]) -> list[str]:
    rates = [f"{precision} {rate:.0f}" for precision, rate in figures["gflops"].items()]
    parts = [f"{', '.join(rates)} GFLOP/s"] if rates else []
    if figures["copy_gb_per_s"] is not None:
        parts.append(f"copy {figures['copy_gb_per_s']:.1f} GB/s")
    if figures["to_device_gb_per_s"] is not None:
        parts.append(f"to the device {figures['to_device_gb_per_s']:.1f} GB/s")
    lines = [f"measured {figures['measured_at'][:10]}: {'; '.join(parts)}"] if parts else []
    for what, why in figures["not_measured"].items():
        lines.append(f"not measured: {why}" if what == "device" else f"{what} not measured: {why}")
    return lines


def _entry(output: Output, head: str, lines: Sequence[str]) -> None:
    """A name at the left, and lines that begin beside it."""
    label = f"{head:<{_INDENT - 1}} "
    if output.colour:
        label = label.replace(head, f"\x1b[1m{head}\x1b[0m", 1)
    if len(head) >= _INDENT:
        output.line(label.rstrip())
        label = " " * _INDENT
    for number, line in enumerate(lines):
        _paragraph(output, line, label if number == 0 else " " * _INDENT, " " * (_INDENT + 2))


def _paragraph(output: Output, text: str, first: str, later: str) -> None:
    """Text broken at spaces to fit the terminal."""
    import sys

    width = min(100, terminal_width(sys.stdout))
    room = max(20, width - _INDENT) if first else width
    line, left = first, room
    for word in text.split():
        gap = "" if line in (first, later) else " "
        if len(gap) + len(word) > left and gap:
            output.line(line)
            line, left, gap = later, max(20, width - len(later)), ""
        line += gap + word
        left -= len(gap) + len(word)
    output.line(line)
