from __future__ import annotations

import logging
import threading
from datetime import timedelta
from functools import partialmethod
from typing import TYPE_CHECKING, Any, get_args

import pytest

from ecr_secrets_backend import metrics
from ecr_secrets_backend.cache import Source
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.logins import Login
from ecr_secrets_backend.settings import MappedConnection, Settings
from tests.metrics_page import METRICS
from tests.unit.builders import build_failure, build_token

if TYPE_CHECKING:
    from collections.abc import Callable


class Stats:
    """The methods of Airflow's client that are used. They record each call and then call ``then``."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.types: dict[str, str] = {}
        self._then = then

    def note(self, kind: str, *call: Any, tags: dict[str, str]) -> None:
        self.calls.append((*call, tags))
        self.types[call[0]] = kind
        self._then()

    incr = partialmethod(note, "counter")
    timing = partialmethod(note, "timer")
    gauge = partialmethod(note, "gauge")


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stats], Stats]:
    """Replace Airflow's client in a process that sends metrics."""

    def put(stats: Stats) -> Stats:
        monkeypatch.setattr(metrics, "sends_metrics", lambda: True)
        monkeypatch.setattr(metrics, "stats", lambda: stats)
        monkeypatch.setattr(metrics, "_has_failed", threading.Event())
        return stats

    return put


def mapped(connection: object = "123456789012.dkr.ecr.us-east-1.amazonaws.com") -> MappedConnection:
    (only,) = Settings.parse({"connections": {"docker_default": connection}}).connections.values()
    return only


def login(source: Source, request_seconds: float | None = None) -> Login:
    return Login("host", build_token(), source, request_seconds)


FAILED = TokenError(build_failure(), 0.25)


@pytest.mark.parametrize("source", get_args(Source))
def test_each_source_of_a_token_has_a_metric(put: Callable[[Stats], Stats], source: Source) -> None:
    stats = put(Stats())
    metrics.report(mapped(), login(source))

    assert [call[0] for call in stats.calls] == [f"{metrics.LOOKUPS}{source}", metrics.SECONDS_TO_EXPIRY]
    assert {call[0] for call in stats.calls} <= METRICS.keys()


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (login("mint", 0.25), ["lookups.mint", "mint_duration", "seconds_to_expiry"]),
        (login("stale", 0.25), ["lookups.stale", "mint_duration", "back_offs", "seconds_to_expiry"]),
        (FAILED, ["lookups.error", "mint_duration", "back_offs"]),
    ],
)
def test_a_request_has_its_duration_and_a_failed_one_a_back_off(
    put: Callable[[Stats], Stats], result: Login | TokenError, names: list[str]
) -> None:
    """Both are sent by the lookup that made the request."""
    stats = put(Stats())
    metrics.report(mapped(), result)

    assert [call[0].removeprefix("ecr_secrets_backend.") for call in stats.calls] == names
    assert stats.calls[1][1] == timedelta(seconds=0.25)


@pytest.mark.parametrize(
    ("connection", "tags"),
    [
        ({"region_name": "eu-west-1"}, {"conn_id": "docker_default", "region": "eu-west-1"}),
        ({}, {"conn_id": "docker_default"}),
    ],
)
def test_tags_come_from_the_settings(put: Callable[[Stats], Stats], connection: object, tags: dict[str, str]) -> None:
    """A region that only the environment or the AWS configuration has is not among them."""
    stats = put(Stats())
    metrics.report(mapped(connection), login("process_hit"))

    assert [call[-1] for call in stats.calls] == [tags, tags]


def test_a_client_that_fails_is_reported_once_and_not_used_again(
    put: Callable[[Stats], Stats], caplog: pytest.LogCaptureFixture
) -> None:
    """It fails no lookup and delays at most one."""

    def fail() -> None:
        raise OSError("no such host")

    stats = put(Stats(fail))
    for _ in range(3):
        metrics.report(mapped(), login("host_hit"))

    assert len(stats.calls) == 1
    (record,) = caplog.records
    assert (record.levelno, "OSError: no such host" in record.getMessage()) == (logging.WARNING, True)


def test_a_process_that_sends_no_metrics_sends_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Airflow has no client then, which is not a failure."""
    monkeypatch.setattr(metrics, "sends_metrics", lambda: False)
    monkeypatch.setattr(metrics, "_has_failed", threading.Event())
    metrics.report(mapped(), login("host_hit"))

    assert (metrics._has_failed.is_set(), caplog.records) == (False, [])


def test_the_page_lists_each_metric_with_its_type_and_no_other(put: Callable[[Stats], Stats]) -> None:
    stats = put(Stats())
    results: list[Login | TokenError] = [*(login(source, 0.25) for source in get_args(Source)), FAILED]
    for result in results:
        metrics.report(mapped(), result)

    assert stats.types == {name: metric.type for name, metric in METRICS.items()}
