from __future__ import annotations

import os
import pickle
import sys
from typing import TYPE_CHECKING

import pytest
from airflow.configuration import conf

from ecr_secrets_backend.airflow_compat import (
    METRICS_SWITCHES,
    allow_import_in_task_child,
    denial,
    denial_class,
    passes_denial_on,
    sends_metrics,
)
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.airflow_version import DENIAL
from tests.unit.builders import build_failure

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    sends_metrics.cache_clear()
    yield
    sends_metrics.cache_clear()


@pytest.mark.parametrize(
    ("value", "are_on"), [(None, False), ("False", False), ("True", True), ("no truth value", False)]
)
@pytest.mark.parametrize("switch", METRICS_SWITCHES)
def test_airflow_sends_metrics_if_one_of_its_options_is_on(
    monkeypatch: pytest.MonkeyPatch, switch: str, value: str | None, are_on: bool
) -> None:
    """If one is no truth value, Airflow complains by itself, and lookups go on."""
    if value is not None:
        monkeypatch.setenv(f"AIRFLOW__METRICS__{switch.upper()}", value)

    assert sends_metrics() is are_on


def test_the_configuration_file_counts_as_well() -> None:
    """As the environment does."""
    conf.read_dict({"metrics": {"statsd_on": "True"}})
    try:
        assert sends_metrics()
    finally:
        conf.remove_option("metrics", "statsd_on")


def test_a_denial_is_what_airflow_passes_on() -> None:
    """And what users of the package catch."""
    assert issubclass(denial_class(), DENIAL or ConnectionUnavailableError)
    assert issubclass(denial_class(), ConnectionUnavailableError)
    assert passes_denial_on() is (DENIAL is not None)


def test_a_denial_survives_pickling() -> None:
    """An exception may cross from one process to another."""
    error = denial("docker_eu", build_failure())
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here

    assert (type(copy), str(copy), copy.failure) == (denial_class(), str(error), build_failure())


@pytest.mark.parametrize("name", ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"])
def test_a_process_that_a_task_has_started_can_import_airflow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Airflow 3 leaves a database URL there that SQLAlchemy cannot read; any other is left alone."""
    monkeypatch.delitem(sys.modules, "airflow")
    monkeypatch.setenv(name, "airflow-db-not-allowed:///")
    allow_import_in_task_child()
    assert os.environ[name] == "sqlite://"
    monkeypatch.setenv(name, "postgresql://db")
    allow_import_in_task_child()
    assert os.environ[name] == "postgresql://db"
