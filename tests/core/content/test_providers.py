from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from accel.core.content.providers import Scores
from accel.core.content.trustless import Trustless, http_url


def gateway(port: int, level: str = "gateway") -> Trustless:
    return Trustless(f"http://127.0.0.1:{port}", level=level)


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    return Scores(tmp_path / "providers.json")


def names(scores: Scores, *sources: Trustless) -> list[int]:
    return [int(source.name.rpartition(":")[2]) for source in scores.ranked(sources)]


def test_latency_counts(scores: Scores) -> None:
    near, far = gateway(1), gateway(2)
    scores.served(far.name, 0.5, 1 << 20, 0.6)
    scores.served(near.name, 0.01, 1 << 20, 0.11)
    assert names(scores, far, near) == [1, 2]


def test_bandwidth_counts(scores: Scores) -> None:
    wide, narrow = gateway(1), gateway(2)
    scores.served(narrow.name, 0.01, 1 << 20, 2.0)
    scores.served(wide.name, 0.05, 1 << 20, 0.1)
    assert names(scores, narrow, wide) == [1, 2]


def test_reliability_counts(scores: Scores) -> None:
    steady, shaky = gateway(1), gateway(2)
    for source in (steady, shaky):
        for _ in range(5):
            scores.served(source.name, 0.1, 1 << 20, 0.2)
    for _ in range(5):
        scores.failed(shaky.name)
    assert names(scores, shaky, steady) == [1, 2]


def test_load_counts(scores: Scores) -> None:
    idle, busy = gateway(1), gateway(2)
    for source in (idle, busy):
        scores.served(source.name, 0.1, 1 << 20, 0.2)
    for _ in range(5):
        scores.failed(busy.name, busy=True)
    assert names(scores, busy, idle) == [1, 2]
    assert scores.record(busy.name).failures == 0


def test_a_good_unknown_is_tried_before_a_bad_known(scores: Scores) -> None:
    known, unknown = gateway(1), gateway(2)
    scores.served(known.name, 5.0, 1 << 20, 20.0)
    assert names(scores, known, unknown) == [2, 1]


def test_lies_are_remembered_longer_each_time(scores: Scores) -> None:
    liar = gateway(1)
    scores.failed(liar.name, lied=True)
    first = scores.distrusted_for(liar.name)
    scores.failed(liar.name, lied=True)
    second = scores.distrusted_for(liar.name)
    assert 3500 < first <= 3600 < second
    assert names(scores, liar, gateway(2)) == [2]


def test_trust_comes_back(scores: Scores) -> None:
    liar = gateway(1)
    scores.failed(liar.name, lied=True)
    scores.record(liar.name).lied_at = time.time() - 4000
    assert names(scores, liar) == [1]


def test_records_are_kept_and_merged(tmp_path: Path) -> None:
    path = tmp_path / "providers.json"
    one, other = Scores(path), Scores(path)
    one.served("a", 0.1, 1 << 20, 0.2)
    other.served("b", 0.1, 1 << 20, 0.2)
    one.save()
    other.save()
    assert Scores(path).record("a").successes == 1
    assert Scores(path).record("b").successes == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 5}', '{"a": {"unknown": 1}}'])
def test_a_damaged_file_is_forgotten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "providers.json"
    path.write_text(text)
    scores = Scores(path)
    scores.served("a", 0.1, 1 << 20, 0.2)
    scores.save()
    assert list(json.loads(path.read_text())) == ["a"]


@pytest.mark.parametrize(
    ("multiaddr", "url"),
    [
        ("/dns/example.org/tcp/443/https", "https://example.org:443"),
        ("/dns4/example.org/tcp/443/tls/http", "https://example.org:443"),
        ("/dns4/example.org/tcp/80/http", "http://example.org:80"),
        ("/ip4/8.8.8.8/tcp/443/https", "https://8.8.8.8:443"),
        ("/ip4/8.8.8.8/tcp/4001", None),
        ("/ip4/8.8.8.8/udp/4001/quic-v1", None),
        ("/ip4/127.0.0.1/tcp/8080/http", None),
        ("/ip4/10.0.0.1/tcp/443/https", None),
        ("/ip4/169.254.169.254/tcp/80/http", None),
        ("/ip6/::1/tcp/443/https", None),
        ("/dns/localhost/tcp/443/https", None),
        ("/dns/intranet/tcp/443/https", None),
        ("/ip4/no/tcp/443/https", None),
        ("", None),
    ],
)
def test_addresses_of_providers(multiaddr: str, url: str | None) -> None:
    assert http_url(multiaddr) == url
