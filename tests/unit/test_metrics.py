from __future__ import annotations

import logging
import threading
from datetime import timedelta
from functools import partialmethod
from typing import Any, get_args

import pytest

from ecr_secrets_backend import metrics
from ecr_secrets_backend.cache import Source
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.logins import Login
from ecr_secrets_backend.settings import Settings
from tests.metrics_page import METRICS
from tests.unit.builders import build_failure, build_token

FAILED = TokenError(build_failure(), 0.25)


class Stats:
    """The methods of Airflow's client that are used. They record each call, and raise ``error`` if there is one."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.types: dict[str, str] = {}
        self.error: Exception | None = None

    def note(self, kind: str, *call: Any, tags: dict[str, str]) -> None:
        self.calls.append((*call, tags))
        self.types[call[0]] = kind
        if self.error:
            raise self.error

    incr = partialmethod(note, "counter")
    timing = partialmethod(note, "timer")
    gauge = partialmethod(note, "gauge")


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> Stats:
    """Replace Airflow's client in a process that sends metrics."""
    stats = Stats()
    monkeypatch.setattr(metrics, "sends_metrics", lambda: True)
    monkeypatch.setattr(metrics, "stats", lambda: stats)
    monkeypatch.setattr(metrics, "_has_failed", threading.Event())
    return stats


def report(result: Login | TokenError, **connection: str) -> None:
    (mapped,) = Settings.parse({"connections": {"docker_default": connection}}).connections.values()
    metrics.report(mapped, result)


def login(source: Source, request_seconds: float | None = None) -> Login:
    return Login("host", build_token(), source, request_seconds)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (login("host_hit"), ["lookups.host_hit", "seconds_to_expiry"]),
        (login("mint", 0.25), ["lookups.mint", "mint_duration", "seconds_to_expiry"]),
        (login("stale", 0.25), ["lookups.stale", "mint_duration", "back_offs", "seconds_to_expiry"]),
        (FAILED, ["lookups.error", "mint_duration", "back_offs"]),
    ],
)
def test_a_request_has_its_duration_and_a_failed_one_a_back_off(
    stats: Stats, result: Login | TokenError, names: list[str]
) -> None:
    """Both are sent by the lookup that made the request."""
    report(result)

    assert [call[0].removeprefix("ecr_secrets_backend.") for call in stats.calls] == names
    assert {call[1] for call in stats.calls if call[0] == metrics.MINT_DURATION} <= {timedelta(seconds=0.25)}


@pytest.mark.parametrize("connection", [{"region_name": "eu-west-1"}, {}])
def test_tags_come_from_the_settings(stats: Stats, connection: dict[str, str]) -> None:
    """A region that only the environment or the AWS configuration has is not among them."""
    report(login("stale", 0.25), **connection)
    region = {"region": "eu-west-1"} if connection else {}

    assert [call[-1] for call in stats.calls] == [{"conn_id": "docker_default", **region}] * 4


def test_a_client_that_fails_is_reported_once_and_not_used_again(
    stats: Stats, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails no lookup and delays at most one."""
    stats.error = OSError("no such host")
    for _ in range(3):
        report(login("host_hit"))

    assert len(stats.calls) == 1
    (record,) = caplog.records
    assert (record.levelno, "OSError: no such host" in record.getMessage()) == (logging.WARNING, True)


def test_a_process_that_sends_no_metrics_sends_none(stats: Stats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "sends_metrics", lambda: False)
    report(login("host_hit"))

    assert (stats.calls, metrics._has_failed.is_set()) == ([], False)


def test_the_page_lists_each_metric_with_its_type_and_no_other(stats: Stats) -> None:
    for source in get_args(Source):
        report(login(source, 0.25))
    report(FAILED)

    assert stats.types == {name: metric.type for name, metric in METRICS.items()}
