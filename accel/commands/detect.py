"""`accel detect`: what this machine can run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.output import Output, human_bytes, terminal_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accel.core.devices import Selection
    from accel.core.types import Device, PlatformReport

#: columns of the labels at the left
_LEFT = 12


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
    """Present platforms with their devices, then absent ones, then what `auto` makes of it."""
    page = _Page(output)
    for report in (report for report in reports if report.devices):
        page.head(report.name, report.reason)
        if report.fix:
            page.row("try", report.fix)
        for device in report.devices:
            page.device(device)
        output.line()
    for report in (report for report in reports if not report.devices):
        page.head(report.name, f"absent: {report.reason}" if not report.present else "no such device")
        page.row("try", report.fix)
    first = _first(reports)
    if first and not selection.named:
        output.line()
        page.text("", f"--hw auto measures before it decides; with nothing measured yet it looks at {first} first.")


def _first(reports: Sequence[PlatformReport]) -> str | None:
    """The device that goes first where there is no evidence, as a run would see it."""
    from accel.core.devices import find_devices

    devices = find_devices("auto", reports=reports)
    return devices[0].id if devices else None


class _Page:
    """Text in two columns that fits the terminal, 80 columns where there is none."""

    def __init__(self, output: Output) -> None:
        import sys

        self.output = output
        self.width = max(40, min(100, terminal_width(sys.stdout)))

    def head(self, name: str, text: str) -> None:
        """A platform."""
        label = f"{name:<{_LEFT}}"
        self.text(f"\x1b[1m{label}\x1b[0m" if self.output.colour else label, text, _LEFT)

    def row(self, label: str, text: str) -> None:
        """A fact; nothing where there is no text."""
        if text:
            self.text(f"{label:>{_LEFT - 2}}  ", text, _LEFT)

    def device(self, device: Device) -> None:
        """What a device is, what it computes in, and who could run on it."""
        self.row("device", f"{device.id}  {device.name}")
        counts = ((device.cores, "core"), (device.threads, "thread"))
        size = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
        self.row("size", ", ".join(size + _memory(device)))
        fast, possible = device.precisions["fast"], device.precisions["possible"]
        slow = [precision for precision in possible if precision not in fast]
        words = [f"{' '.join(fast)} in hardware" if fast else "", f"{' '.join(slow)} possible" if slow else ""]
        self.row("computes", "; ".join(word for word in words if word))
        self.row("features", " ".join(device.features))
        self.row("driver", device.driver or "")
        self.row("engines", ", ".join(device.engines) or "none that could run on it")
        for label, text in _figures(device.measured or {}):
            self.row(label, text)

    def text(self, label: str, text: str, indent: int = 0) -> None:
        """A label and text beside it, broken at spaces."""
        line, room = "", self.width - indent
        start = label
        for word in text.split(" "):
            if line and len(line) + 1 + len(word) > room:
                self.output.line(start + line)
                line, start = word, " " * indent
            else:
                line = f"{line} {word}" if line else word
        self.output.line((start + line).rstrip())


def _memory(device: Device) -> list[str]:
    if device.memory_total_bytes is None:
        return []
    total = human_bytes(device.memory_total_bytes)
    free = device.memory_free_bytes
    return [f"{total} of memory" if free is None else f"{human_bytes(free)} of {total} memory free"]


def _figures(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What `--deep` measured, now or earlier, and what it could not."""
    if not figures:
        return []
    rates = [f"{precision} {rate:.0f}" for precision, rate in figures["gflops"].items()]
    words = [f"{', '.join(rates)} GFLOP/s"] if rates else []
    if figures["copy_gb_per_s"] is not None:
        words.append(f"copy {figures['copy_gb_per_s']:.1f} GB/s")
    if figures["to_device_gb_per_s"] is not None:
        words.append(f"from the host {figures['to_device_gb_per_s']:.1f} GB/s")
    rows = [("measured", f"{'; '.join(words)} ({figures['library']}, {figures['measured_at'][:10]})")] if words else []
    for what, why in figures["not_measured"].items():
        rows.append(("", f"{'' if what == 'device' else what + ' '}not measured: {why}"))
    return rows
