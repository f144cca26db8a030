"""The real other secrets backends behind ours, called as Airflow calls it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import airflow.models.connection
import airflow.sdk
import boto3
import pytest
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from ecr_secrets_backend import EcrSecretsBackend
from tests.integration import programs
from tests.process_helpers import REGISTRY
from tests.stand_ins.aws import PROJECT, Error
from tests.stand_ins.vault import VaultStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

REGION = "us-east-1"
RECORDING = "tests.stand_ins.secrets_backends.Recording"
SOURCES = ["secrets-manager", "parameter-store", "vault", "environment"]
CHILDREN, THREADS = 3, 8


@pytest.fixture(scope="module", autouse=True)
def _stored(aws_server: AwsStandIn) -> None:
    """Store a connection and a variable in Secrets Manager and in Parameter Store."""
    session = boto3.Session(aws_server.access_key_id, aws_server.secret_access_key, region_name=REGION)
    manager = session.client("secretsmanager", endpoint_url=aws_server.url)
    store = session.client("ssm", endpoint_url=aws_server.url)
    for kind, prefix in (("connections", "http://"), ("variables", "")):
        manager.create_secret(Name=f"airflow/{kind}/secrets-manager", SecretString=f"{prefix}secrets-manager")
        store.put_parameter(
            Name=f"/airflow/{kind}/parameter-store", Value=f"{prefix}parameter-store", Type="SecureString"
        )


@pytest.fixture
def vault() -> Iterator[VaultStandIn]:
    data = {"connections/vault": {"conn_type": "http", "host": "vault"}, "variables/vault": {"value": "vault"}}
    with VaultStandIn.running(data) as vault:
        yield vault


@pytest.fixture
def kwargs(aws: AwsStandIn, vault: VaultStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    del aws
    monkeypatch.setenv("AIRFLOW_CONN_ENVIRONMENT", "http://environment")
    monkeypatch.setenv("AIRFLOW_VAR_ENVIRONMENT", "environment")
    amazon, region = "airflow.providers.amazon.aws.secrets", {"region_name": REGION}
    fallbacks = [
        {"backend": f"{amazon}.secrets_manager.SecretsManagerBackend", "backend_kwargs": region},
        {"backend": f"{amazon}.systems_manager.SystemsManagerParameterStoreBackend", "backend_kwargs": region},
        {
            "backend": "airflow.providers.hashicorp.secrets.vault.VaultBackend",
            "backend_kwargs": {"url": vault.url, "token": vault.token},
        },
        {"backend": "airflow.secrets.environment_variables.EnvironmentVariablesBackend"},
    ]
    return {"connections": {"docker_default": REGISTRY}, "cache_dir": str(tmp_path), "fallback_backends": fallbacks}


def build(kwargs: dict[str, Any]) -> EcrSecretsBackend:
    backend = EcrSecretsBackend(**kwargs)
    backend._set_connection_class(airflow.sdk.Connection)
    return backend


@pytest.fixture
def backend(kwargs: dict[str, Any]) -> EcrSecretsBackend:
    return build(kwargs)


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


@pytest.mark.parametrize("source", SOURCES)
def test_each_backend_returns_its_connections_and_variables(backend: EcrSecretsBackend, source: str) -> None:
    """A connection is of the class that Airflow sets: a server sets another one than a task."""
    connection = backend.get_connection(conn_id=source)

    assert (connection.host, type(connection)) == (source, airflow.sdk.Connection)
    assert source in str(backend.get_conn_value(source))
    assert backend.get_variable(key=source) == source
    backend._set_connection_class(airflow.models.connection.Connection)
    assert type(backend.get_connection(source)) is airflow.models.connection.Connection


@pytest.mark.parametrize("on_error", ["raise", "next"])
def test_no_other_backend_is_asked_for_a_mapped_connection(
    aws: AwsStandIn, kwargs: dict[str, Any], on_error: str
) -> None:
    """Not even if its lookup fails."""
    aws.script(Error("AccessDeniedException", operation="GetAuthorizationToken"))
    backend = build({**kwargs, "on_error": on_error})

    if on_error == "raise":
        with pytest.raises(AirflowSecretsBackendAccessDenied):
            backend.get_connection("docker_default")
    else:
        assert backend.get_connection("docker_default") is None
    assert {call.service for call in aws.calls()} == {"ecr"}


def test_a_backend_that_fails_is_logged_and_the_next_is_asked(
    aws: AwsStandIn, vault: VaultStandIn, backend: EcrSecretsBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names AWS's code, or the exception of the client."""
    aws.script(
        Error("AccessDeniedException", operation="GetSecretValue"),
        Error("ThrottlingException", operation="GetParameter"),
    )
    vault.sealed = True

    assert backend.get_connection("environment").host == "environment"
    manager, store, vault_line = errors_in(caplog)
    assert "SecretsManagerBackend) failed to look up connection 'environment': " in manager
    assert " AccessDeniedException (at client.py:" in manager
    assert " ThrottlingException (at client.py:" in store
    assert "VaultBackend) failed to look up connection 'environment': hvac.exceptions.VaultDown (at " in vault_line


def test_no_line_shows_a_secret(
    aws: AwsStandIn, vault: VaultStandIn, backend: EcrSecretsBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a kwarg of a backend, nor a quotation in AWS's answer, nor a value that is not well-formed."""
    caplog.set_level(logging.DEBUG, "ecr_secrets_backend")
    aws.script(Error("SignatureDoesNotMatch", f"The String was\n{aws.secret_access_key}", operation="GetParameter"))
    vault.data = {"connections/odd": {"conn_uri": "http://a:s3cret-of-a-connection://b://c"}}

    assert backend.get_connection("odd") is None
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("ecr_secrets_backend")]
    assert [line.partition(":")[0].rpartition(".")[2] for line in lines] == [
        "SystemsManagerParameterStoreBackend) failed to look up connection 'odd'",
        "VaultBackend) failed to look up connection 'odd'",
    ]
    for secret in (vault.token, aws.secret_access_key, "s3cret-of-a-connection"):
        assert secret not in str(lines)


def test_a_team_is_passed_on(tmp_path: Path) -> None:
    """From Airflow 3.2 on, Airflow passes it."""
    asked: list[Any] = []
    fallbacks = [{"backend": RECORDING, "backend_kwargs": {"asked": asked}}]
    backend = build(
        {"connections": {"docker_default": REGISTRY}, "cache_dir": str(tmp_path), "fallback_backends": fallbacks}
    )
    backend.get_connection(conn_id="a", team_name="blue")
    backend.get_conn_value(conn_id="a", team_name="blue")
    backend.get_variable(key="a", team_name="blue")

    methods = ("get_connection", "get_conn_value", "get_variable")
    assert [question[:-1] for question in asked] == [(method, "a", "blue") for method in methods]


def look_up_in_forks_and_threads(kwargs: dict[str, Any]) -> list[list[str]]:
    backend = build(kwargs)

    def look_up(_: object = None) -> list[str]:
        return [backend.get_connection(conn_id).host for conn_id in SOURCES]

    def look_up_in_a_child() -> list[str]:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, json.dumps(look_up()).encode())
            os._exit(0)  # without the exit handlers of the libraries
        os.close(writer)
        with os.fdopen(reader) as answer:
            return list(json.load(answer))

    found = [look_up()]  # so that the backends have clients and open connections when the children are forked
    for _ in range(CHILDREN):
        found += [look_up_in_a_child(), look_up()]
    with ThreadPoolExecutor(THREADS) as threads:
        found += threads.map(look_up, range(THREADS))
    return found


def test_forks_and_threads_are_served_by_the_other_backends(kwargs: dict[str, Any]) -> None:
    """Children of a process that has looked up, the process itself afterwards, and many threads at once."""
    found = programs.call(look_up_in_forks_and_threads, kwargs=kwargs)

    assert found == [SOURCES] * (1 + 2 * CHILDREN + THREADS)


def test_a_trigger_asks_the_other_backends_in_a_thread(tmp_path: Path) -> None:
    """Airflow uses our asynchronous method, so its event loop does not wait for another backend."""
    program = """if True:
        import asyncio, json
        from contextlib import suppress
        from airflow.exceptions import AirflowNotFoundException
        from airflow.sdk import BaseHook
        from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

        with suppress(AirflowNotFoundException):
            asyncio.run(BaseHook.aget_connection("warehouse"))
        (backend,) = ensure_secrets_backend_loaded()[0]._fallback._backends.values()
        print(json.dumps(backend._asked))
    """
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__SECRETS__BACKEND": "ecr_secrets_backend.EcrSecretsBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(
            {"connections": {"docker_default": REGISTRY}, "fallback_backends": [{"backend": RECORDING}]}
        ),
    }
    output = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=PROJECT, env=environment)

    ((method, conn_id, *_, thread),) = json.loads(output.splitlines()[-1])
    assert (method, conn_id) == ("get_connection", "warehouse")
    assert thread != "MainThread"
