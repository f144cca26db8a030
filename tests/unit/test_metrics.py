from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import get_args
from unittest.mock import Mock

import pytest

from ecr_secrets_backend import metrics
from ecr_secrets_backend.cache import Source
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.logins import Login
from ecr_secrets_backend.settings import Settings
from tests.documentation.pages import METRICS
from tests.unit.builders import build_failure, build_token

FAILED = TokenError(build_failure(), 0.25)


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Replace Airflow's client in a process that sends metrics."""
    stats = Mock(spec=["incr", "timing", "gauge"])
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
    stats: Mock, result: Login | TokenError, names: list[str]
) -> None:
    """Both are sent by the lookup that made the request."""
    report(result)

    assert [args[0].removeprefix("ecr_secrets_backend.") for _, args, _ in stats.method_calls] == names
    assert {args[1] for _, args, _ in stats.timing.mock_calls} <= {timedelta(seconds=0.25)}


@pytest.mark.parametrize("connection", [{"region_name": "eu-west-1"}, {}])
def test_tags_come_from_the_settings(stats: Mock, connection: dict[str, str]) -> None:
    """A region that only the environment or the AWS configuration has is not among them."""
    report(login("stale", 0.25), **connection)
    region = {"region": "eu-west-1"} if connection else {}

    assert [options for _, _, options in stats.method_calls] == [{"tags": {"conn_id": "docker_default", **region}}] * 4


def test_a_client_that_fails_is_reported_once_and_not_used_again(stats: Mock, caplog: pytest.LogCaptureFixture) -> None:
    """It fails no lookup and delays at most one."""
    stats.incr.side_effect = OSError("no such host")
    for _ in range(3):
        report(login("host_hit"))

    assert len(stats.method_calls) == 1
    (record,) = caplog.records
    assert (record.levelno, "OSError: no such host" in record.getMessage()) == (logging.WARNING, True)


def test_a_process_that_sends_no_metrics_sends_none(stats: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "sends_metrics", lambda: False)
    report(login("host_hit"))

    assert (stats.method_calls, metrics._has_failed.is_set()) == ([], False)


def test_the_page_lists_each_metric_with_its_type_and_no_other(stats: Mock) -> None:
    for source in get_args(Source):
        report(login(source, 0.25))
    report(FAILED)

    types = {"incr": "counter", "timing": "timer", "gauge": "gauge"}
    sent = {args[0]: types[method] for method, args, _ in stats.method_calls}
    assert sent == METRICS
