from __future__ import annotations

from configparser import ConfigParser
from typing import TYPE_CHECKING

import pytest
from airflow.configuration import conf

from ecr_secrets_backend.airflow_options import METRICS_SWITCHES, seconds_kept, sends_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    for answer in (sends_metrics, seconds_kept):
        answer.cache_clear()
    yield
    for answer in (sends_metrics, seconds_kept):
        answer.cache_clear()


@pytest.mark.parametrize(
    ("value", "are_on"), [(None, False), ("False", False), ("True", True), ("no truth value", False)]
)
@pytest.mark.parametrize("switch", METRICS_SWITCHES)
def test_airflow_says_whether_metrics_are_on(
    monkeypatch: pytest.MonkeyPatch, switch: str, value: str | None, are_on: bool
) -> None:
    """By any of its options; where one is none of its values, Airflow complains by itself, and lookups go on."""
    if value is not None:
        monkeypatch.setenv(f"AIRFLOW__METRICS__{switch.upper()}", value)

    assert sends_metrics() is are_on


@pytest.mark.parametrize(("use_cache", "seconds"), [(None, 0), ("False", 0), ("True", 900)])
def test_airflow_keeps_connections_where_its_own_cache_is_on(
    monkeypatch: pytest.MonkeyPatch, use_cache: str | None, seconds: int
) -> None:
    """For a quarter of an hour, as Airflow documents it."""
    if use_cache is not None:
        monkeypatch.setenv("AIRFLOW__SECRETS__USE_CACHE", use_cache)

    assert seconds_kept() == seconds


def test_airflow_keeps_connections_for_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another of its options."""
    monkeypatch.setenv("AIRFLOW__SECRETS__USE_CACHE", "True")
    monkeypatch.setenv("AIRFLOW__SECRETS__CACHE_TTL_SECONDS", "60")

    assert seconds_kept() == 60


def test_airflow_s_file_says_it_as_well() -> None:
    """As its environment does."""
    conf.read_dict({"secrets": {"use_cache": "True"}})
    try:
        assert seconds_kept() == 900
    finally:
        ConfigParser.remove_option(conf, "secrets", "use_cache")
