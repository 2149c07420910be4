"""Which browser is taken: the rule of the family among those that are here, unless measurements say otherwise."""

from __future__ import annotations

import pytest

from accel.core import results
from accel.core.browser.choosing import by_rule, choose
from accel.core.fingerprint import fingerprint
from accel.core.types import Model

MODEL = Model("m", "local", None, (), "transformers", {}, "text-encoder", "t", "pretrained", "d" * 64)
ALL = ["chromium", "firefox", "edge", "chrome"]


@pytest.mark.parametrize(
    ("here", "family", "best"),
    [
        (ALL, "text-encoder", "edge"),
        (["firefox", "chrome"], "text-decoder", "chrome"),
        (ALL, "vision", "chrome"),
        (["edge", "firefox"], "cnn", "firefox"),
        (ALL, "audio", "firefox"),
        (["chromium", "edge"], "audio", "chromium"),
        (["chromium", "firefox"], "text-encoder", "chromium"),
    ],
)
def test_the_rule(here: list[str], family: str, best: str) -> None:
    name, reason = by_rule(here, family)
    assert name == best
    assert "models" in reason


def measured(device: str, seconds: float, **more: object) -> None:
    record = {
        "kind": "run",
        "model_name": "m",
        "model_digest": MODEL.digest,
        "hardware_type": "webgpu",
        "device": device,
        "engine": "ort-web",
        "precision": "fp32",
        "batch": 1,
        "inference_time": seconds,
        "fingerprint": fingerprint(),
    }
    results.append({**record, **more})


def chosen() -> tuple[str, str]:
    return choose(["chromium", "firefox"], "webgpu", MODEL, "text-encoder", 1)


def test_measurements_of_this_model_on_this_machine_say_otherwise() -> None:
    assert chosen()[0] == "chromium"
    measured("webgpu:firefox", 0.4)
    # one browser alone proves nothing about the other
    assert chosen()[0] == "chromium"
    measured("webgpu:chromium", 2.4)
    name, reason = chosen()
    assert name == "firefox"
    assert "400 ms" in reason
    assert "2.4e+03 ms" in reason or "2400 ms" in reason


@pytest.mark.parametrize(
    "other", [{"model_digest": "e" * 64}, {"fingerprint": "another"}, {"hardware_type": "webnn"}, {"batch": 8}]
)
def test_measurements_of_something_else_do_not_count(other: dict[str, object]) -> None:
    measured("webgpu:chromium", 2.4)
    measured("webgpu:firefox", 0.4, **other)
    assert chosen()[0] == "chromium"
