"""Reading a machine without trusting it: files that may be missing, children that may hang, answers worth keeping.

Every `root` is a folder that stands for `/`, so that another machine's `/proc` and `/sys` can be read from a copy.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from accel.core.errors import AccelError
from accel.core.paths import home, write_atomic


def read_text(path: str, limit: int = 1 << 20) -> str:
    """The first `limit` bytes of a file, stripped; empty where it cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        pieces = []
        while limit > 0 and (piece := os.read(handle, limit)):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces).decode("utf-8", "replace").replace("\0", "").strip()
    except OSError:
        return ""
    finally:
        os.close(handle)


def read_int(path: str, base: int = 10) -> int | None:
    """The number in a file, or None where there is none."""
    try:
        return int(read_text(path, 64), base)
    except ValueError:
        return None


def listing(folder: str) -> list[str]:
    """Sorted names in a folder; empty where it cannot be read."""
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []


def properties(text: str) -> dict[str, str]:
    """`key value` or `key: value` lines as a dictionary; the first of a repeated key counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":" if ":" in line else " ")
        if separator:
            found.setdefault(key.strip(), value.strip())
    return found


@functools.cache
def pci_devices(root: str = "") -> tuple[tuple[str, int, int, int], ...]:
    """PCI functions as (address, vendor, device, class), class being the 24-bit code (0x030000 is a VGA display)."""
    base = f"{root}/sys/bus/pci/devices"
    found = []
    for address in listing(base):
        vendor, device, kind = (read_int(f"{base}/{address}/{part}", 16) for part in ("vendor", "device", "class"))
        if vendor is not None and device is not None:
            found.append((address, vendor, device, kind or 0))
    return tuple(found)


def has_display(vendor: int, root: str = "") -> bool:
    """Whether a display controller or accelerator card of this PCI vendor is plugged in, with or without a driver."""
    return any(v == vendor and kind >> 16 in (0x03, 0x12) for _, v, _, kind in pci_devices(root))


def boot_id(root: str = "") -> str:
    """Changes with every start of the machine; empty where the system does not tell."""
    return read_text(f"{root}/proc/sys/kernel/random/boot_id", 64)


def system_key() -> list[str]:
    """What any cached answer about hardware depends on: kernel, machine and start of the machine."""
    if hasattr(os, "uname"):
        return [*os.uname(), boot_id()]
    import platform

    return [*platform.uname(), boot_id()]


def kept(name: str, key: Any, compute: Callable[[], Any]) -> Any:
    """A JSON value from disk where its key still fits, else computed and kept.

    Args:
        name: file name of the answer under the home folder's `cache`.
        key: JSON data that holds everything the answer depends on.
        compute: makes the value; None means "no answer" and is not kept.
    """
    path = home() / "cache" / f"{name}.json"
    with contextlib.suppress(ValueError, TypeError, KeyError):
        known = json.loads(read_text(str(path)))
        if known["key"] == json.loads(json.dumps(key)):
            return known["value"]
    value = compute()
    if value is not None:
        # a home folder that is read-only or full costs time, not answers
        with contextlib.suppress(AccelError):
            write_atomic(path, json.dumps({"key": key, "value": value}).encode(), durable=False)
    return value


def run_child(arguments: list[str], seconds: float, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a child process, which is killed with its own children after `seconds`.

    Raises:
        ProbeError: it could not start, failed or did not end in time.
    """
    import signal
    import subprocess

    posix = os.name == "posix"
    try:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else dict(environment),
            start_new_session=posix,
        )
    except OSError as error:
        raise ProbeError(f"{arguments[0]} could not be started: {error.strerror or error}") from error

    def end() -> None:
        if posix:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.communicate()

    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end()
        raise ProbeError(f"no answer within {seconds:g} s") from None
    except BaseException:
        end()
        raise
    if child.returncode:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
        raise ProbeError(f"ended with {how}{': ' + lines[-1][:300] if lines else ''}")
    return out.decode("utf-8", "replace")


class ProbeError(Exception):
    """A probe that gave no answer; the message says why."""
