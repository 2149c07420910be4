"""Which browser runs which model, where several are here."""

from __future__ import annotations

from collections.abc import Sequence

from accel.core.types import Model

#: the order that experience with these browsers gave: text compiles fastest in Edge, Firefox schedules the compute
#: shaders of audio models better, and Chrome is best tested with images. Chromium is Chrome without its name
ORDER = {
    "text": ("edge", "chrome", "chromium", "firefox"),
    "vision": ("chrome", "chromium", "firefox", "edge"),
    "audio": ("firefox", "chrome", "chromium", "edge"),
}
_KINDS = {"audio": "audio", "cnn": "vision", "vision": "vision", "diffusion": "vision", "multimodal": "vision"}
_WORDS = {
    "text": "Edge, then Chrome, then Firefox",
    "vision": "Chrome, then Firefox, then Edge",
    "audio": "Firefox, then Chrome, then Edge",
}


def kind_of(family: str) -> str:
    """`text`, `vision` or `audio`."""
    return _KINDS.get(family, "text")


def by_rule(browsers: Sequence[str], family: str) -> tuple[str, str]:
    """The browser (by kind) for a family of models among those that are here, and why."""
    kind = kind_of(family)
    order = ORDER[kind]
    best = min(browsers, key=lambda name: order.index(name) if name in order else len(order))
    return best, f"browsers for {kind} models: {_WORDS[kind]}"


def choose(browsers: Sequence[str], platform: str, model: Model, family: str, batch: int) -> tuple[str, str]:
    """The browser that was fastest with this model on this machine, else the one that the rule says; and why.

    Measurements count where there are some of the rule's browser and of another.
    """
    rule, reason = by_rule(browsers, family)
    if len(browsers) < 2:
        return rule, reason
    times = _measured(platform, model, batch)
    known = {name: times[name] for name in browsers if name in times}
    if rule in known and len(known) > 1:
        best = min(known, key=lambda name: known[name])
        if best != rule:
            said = f"{best} took {1000 * known[best]:.3g} ms here, {rule} {1000 * known[rule]:.3g} ms"
            return best, f"measured earlier: {said}"
    return rule, reason


def _measured(platform: str, model: Model, batch: int) -> dict[str, float]:
    """Seconds of the fastest measurement by browser, on this machine, of this model with this batch."""
    from accel.core import results
    from accel.core.errors import TransferError
    from accel.core.fingerprint import fingerprint

    if not results.database().exists() and not results.spool_size():
        return {}
    query = """
        SELECT device, min(inference_time) FROM benchmark_results
        WHERE engine = 'ort-web' AND hardware_type = ? AND batch = ? AND fingerprint = ?
          AND metadata->>'model_digest' = ? AND inference_time > 0
        GROUP BY device
    """
    try:
        with results.open_reader() as con:
            rows = con.execute(query, [platform, batch, fingerprint(), model.digest]).fetchall()
    except TransferError:  # a run must not fail because its history cannot be read
        return {}
    return {str(device).partition(":")[2]: float(seconds) for device, seconds in rows}
