"""The catalogue of devices: every figure has its source, and what was checked against a text says which."""

from __future__ import annotations

import pytest

from accel.core.performance.machines import entries, names

FIGURES = {
    "fp32_gflops", "fp16_gflops", "bf16_gflops", "int8_gflops", "bandwidth_gb_per_s", "memory_bytes", "cache_bytes",
    "power_w",
}  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_every_figure_has_a_source(name: str) -> None:
    """A figure without one would be a guess."""
    figures, sources = entries()["devices"][name]["figures"], entries()["sources"]
    assert figures.keys() <= FIGURES and "bandwidth_gb_per_s" in figures
    for figure in figures.values():
        assert figure["value"] > 0 and sources[figure["source"]].strip()


@pytest.mark.parametrize("name", names())
def test_what_was_checked_names_the_text(name: str) -> None:
    """`checked` lists figures that the entry has, with the text that says the same."""
    entry = entries()["devices"][name]
    for check in entry.get("checked", ()):
        assert set(check["figures"]) <= entry["figures"].keys() and check["against"].strip()


def test_every_source_is_used() -> None:
    """A source that no figure names stands for a figure that was lost."""
    used = {figure["source"] for entry in entries()["devices"].values() for figure in entry["figures"].values()}
    assert used == set(entries()["sources"])
