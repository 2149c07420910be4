"""What differs between the circumstances of two results: commit, versions, machine, model."""

from __future__ import annotations

from typing import Any

from accel.core.report.cells import Cell

#: facts of the environment, in the order of how likely they are to change a speed
_FACTS = ("commit", "accel", "code", "python", "system", "cpu", "threads", "cores", "memory_bytes", "fingerprint")
#: facts that stand beside the environment
IN_METADATA = ("engine_version", "model_digest", "revision", "effective_precision")


def differences(then: Cell, now: Cell) -> list[dict[str, str]]:
    """`what`, `before` and `after` of everything known that is not the same for both."""
    found = [_pair(name, then.environment.get(name), now.environment.get(name)) for name in _FACTS]
    had, has = then.environment.get("versions") or {}, now.environment.get("versions") or {}
    found += [_pair(name, had.get(name), has.get(name)) for name in sorted({*had, *has})]
    found += [_pair(name, then.metadata.get(name), now.metadata.get(name)) for name in IN_METADATA]
    if then.fingerprint != now.fingerprint:
        found.append(_pair("fingerprint", then.fingerprint, now.fingerprint))
    return list({entry["what"]: entry for entry in found if entry["before"] != entry["after"]}.values())


def _pair(name: str, before: Any, after: Any) -> dict[str, str]:
    def text(value: Any) -> str:
        shown = "unknown" if value in (None, "") else str(value)
        return shown[:12] if name in ("commit", "model_digest") else shown

    return {"what": name, "before": text(before), "after": text(after)}
