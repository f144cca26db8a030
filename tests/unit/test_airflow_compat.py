from __future__ import annotations

import pickle
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from airflow.configuration import conf

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.airflow_compat import METRICS_SWITCHES, access_denied, passes_on_access_denied, sends_metrics
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


def test_a_process_reads_the_options_when_it_builds_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """So its forks, which tasks are, need not; if Airflow is still reading its configuration, the first lookup does."""
    with monkeypatch.context() as patch:
        patch.delattr("airflow.configuration.conf")
        EcrSecretsBackend(connections={"docker_default": {}})
    assert sends_metrics.cache_info().currsize == 0
    EcrSecretsBackend(connections={"docker_default": {}})

    assert sends_metrics.cache_info().currsize == 1


def test_a_denial_is_what_airflow_passes_on() -> None:
    """And what users of the package catch."""
    error = access_denied("docker_eu", build_failure())

    assert isinstance(error, DENIAL or ConnectionUnavailableError)
    assert isinstance(error, ConnectionUnavailableError)
    assert passes_on_access_denied() is (DENIAL is not None)


def test_a_denial_has_the_same_name_wherever_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that has inherited an API server's modules logs it as any other does."""
    monkeypatch.delitem(sys.modules, "fastapi", raising=False)
    expected = type(access_denied("docker_eu", build_failure()))
    if find_spec("fastapi"):  # from Airflow 3.0 on
        monkeypatch.setitem(sys.modules, "fastapi", import_module("fastapi"))

    found = type(access_denied("docker_eu", build_failure()))

    assert (found.__name__, found.__qualname__) == (expected.__name__, expected.__qualname__)


def test_a_denial_survives_pickling() -> None:
    """An exception may cross from one process to another."""
    error = access_denied("docker_eu", build_failure())
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here

    assert (type(copy), str(copy), copy.failure) == (type(error), str(error), build_failure())
