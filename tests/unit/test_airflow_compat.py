from __future__ import annotations

import pickle
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from airflow.configuration import conf

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.airflow_compat import access_denied, passes_on_access_denied, sends_metrics
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.airflow_version import DENIAL
from tests.unit.builders import build_failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    sends_metrics.cache_clear()
    yield
    sends_metrics.cache_clear()


@pytest.mark.parametrize(
    ("value", "are_on"), [(None, False), ("False", False), ("True", True), ("no truth value", False)]
)
@pytest.mark.parametrize("switch", ["statsd_on", "otel_on", "statsd_datadog_enabled"])
def test_airflow_sends_metrics_if_one_of_its_options_is_on(switch: str, value: str | None, are_on: bool) -> None:
    """Airflow itself reports an option that is not a truth value. It stops no lookup."""
    conf.read_dict({"metrics": {} if value is None else {switch: value}})
    try:
        assert sends_metrics() is are_on
    finally:
        conf.remove_option("metrics", switch)


def test_a_process_reads_the_options_when_it_builds_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forks, which run the tasks, need not. While Airflow reads its configuration, the first lookup reads them."""
    with monkeypatch.context() as patch:
        patch.delattr("airflow.configuration.conf")
        EcrSecretsBackend(connections={"docker_default": {}})
    assert sends_metrics.cache_info().currsize == 0
    EcrSecretsBackend(connections={"docker_default": {}})

    assert sends_metrics.cache_info().currsize == 1


#: The modules that an API server has imported; none before Airflow 3.
SERVERS = [import_module("fastapi")] if find_spec("fastapi") else []


@pytest.mark.parametrize("server", [None, *SERVERS], ids=["a task", "an API server"][: 1 + len(SERVERS)])
def test_airflow_passes_a_failed_lookup_on_under_one_name_and_it_can_be_pickled(
    monkeypatch: pytest.MonkeyPatch, server: ModuleType | None
) -> None:
    """On an API server it is also an answer with status 403. A task may inherit the modules of an API server."""
    monkeypatch.delitem(sys.modules, "fastapi", raising=False)
    expected = type(access_denied("docker_eu", build_failure()))
    if server is not None:
        monkeypatch.setitem(sys.modules, "fastapi", server)
    error = access_denied("docker_eu", build_failure())
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here

    assert isinstance(error, DENIAL or ConnectionUnavailableError)
    assert isinstance(error, ConnectionUnavailableError)
    assert passes_on_access_denied() is (DENIAL is not None)
    assert (type(error).__name__, type(error).__qualname__) == (expected.__name__, expected.__qualname__)
    assert (type(copy), str(copy), copy.failure) == (type(error), str(error), build_failure())
    assert getattr(error, "status_code", None) == (403 if server and DENIAL else None)
