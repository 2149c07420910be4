"""Every test has a home folder of its own, no hub and no leftover configuration."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# what started the tests may ignore signals (nohup, a shell's background job), and every process they start would too
for _signal in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal is signal.SIGINT else signal.SIG_DFL)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two test processes for the whole suite; none for a few named tests, nor where output is shown or time counts."""
    chosen = [word for word in config.invocation_params.args if not str(word).startswith("-")]
    alone = config.option.capture == "no" or not config.option.markexpr.startswith("not ")
    return 0 if alone or chosen else 2


@pytest.fixture(autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh accel home; environment variables that steer accel or the hub are cleared."""
    for name in list(os.environ):
        if name.startswith(("IPFS_ACCELERATE_", "HF_", "HUGGING")):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("accel-home")
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf-home")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home
