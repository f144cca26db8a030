"""The real other backends behind ours, as Airflow calls it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import airflow.models.connection
import airflow.sdk
import boto3
import pytest
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from ecr_secrets_backend import EcrSecretsBackend
from tests.integration import fallback_forks, programs
from tests.stand_ins.aws import PROJECT, Error
from tests.stand_ins.vault import VaultStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

REGION = "us-east-1"
HOST = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"
STAND_INS = "tests.stand_ins.secrets_backends"
SOURCES = ["secrets-manager", "parameter-store", "vault", "environment"]


@pytest.fixture(scope="module", autouse=True)
def _stored(aws_server: AwsStandIn) -> None:
    """Have something in Secrets Manager and in Parameter Store."""
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
def fallbacks(vault: VaultStandIn, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("AIRFLOW_CONN_ENVIRONMENT", "http://environment")
    monkeypatch.setenv("AIRFLOW_VAR_ENVIRONMENT", "environment")
    amazon, region = "airflow.providers.amazon.aws.secrets", {"region_name": REGION}
    return [
        {"backend": f"{amazon}.secrets_manager.SecretsManagerBackend", "backend_kwargs": region},
        {"backend": f"{amazon}.systems_manager.SystemsManagerParameterStoreBackend", "backend_kwargs": region},
        {
            "backend": "airflow.providers.hashicorp.secrets.vault.VaultBackend",
            "backend_kwargs": {"url": vault.url, "token": vault.token},
        },
        {"backend": "airflow.secrets.environment_variables.EnvironmentVariablesBackend"},
    ]


@pytest.fixture
def kwargs(aws: AwsStandIn, fallbacks: list[dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    del aws  # it must be there
    return {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path), "fallback_backends": fallbacks}


@pytest.fixture
def backend(kwargs: dict[str, Any]) -> EcrSecretsBackend:
    backend = EcrSecretsBackend(**kwargs)
    backend._set_connection_class(airflow.sdk.Connection)
    return backend


@pytest.mark.parametrize("source", SOURCES)
def test_each_is_asked_for_what_is_not_mapped(backend: EcrSecretsBackend, source: str) -> None:
    """Connections, their values, and variables."""
    assert backend.get_connection(conn_id=source).host == source
    assert source in str(backend.get_conn_value(source))
    assert backend.get_variable(key=source) == source


def test_what_none_has_is_left_to_airflow(backend: EcrSecretsBackend, caplog: pytest.LogCaptureFixture) -> None:
    """That nobody has it is no failure."""
    assert backend.get_connection("nowhere") is None
    assert backend.get_conn_value("nowhere") is None
    assert backend.get_variable("nowhere") is None
    assert backend.get_config("nowhere") is None
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("wanted", [airflow.sdk.Connection, airflow.models.connection.Connection])
def test_a_connection_is_of_the_class_that_airflow_wants(backend: EcrSecretsBackend, source: str, wanted: type) -> None:
    """A server wants another one than a task."""
    backend._set_connection_class(wanted)

    assert type(backend.get_connection(source)) is wanted


@pytest.mark.parametrize("on_error", ["raise", "next"])
def test_a_mapped_connection_is_nobody_elses(aws: AwsStandIn, kwargs: dict[str, Any], on_error: str) -> None:
    """Not even where its token cannot be had."""
    aws.script(Error("AccessDeniedException", operation="GetAuthorizationToken"))
    backend = EcrSecretsBackend(**kwargs, on_error=on_error)

    if on_error == "raise":
        with pytest.raises(AirflowSecretsBackendAccessDenied):
            backend.get_connection("docker_default")
    else:
        assert backend.get_connection("docker_default") is None
    assert {call.service for call in aws.calls()} == {"ecr"}


def test_one_that_fails_is_passed_over(
    aws: AwsStandIn, vault: VaultStandIn, backend: EcrSecretsBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """With a line for each, which names AWS's code, or the client's exception, and what was behind it."""
    aws.script(
        Error("AccessDeniedException", operation="GetSecretValue"),
        Error("ThrottlingException", operation="GetParameter"),
    )
    vault.sealed = True

    assert backend.get_connection("environment").host == "environment"
    manager, store, vault_line = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "SecretsManagerBackend) failed to look up connection 'environment': " in manager
    assert " AccessDeniedException (at client.py:" in manager
    assert " ThrottlingException (at client.py:" in store
    assert "VaultBackend) failed to look up connection 'environment': hvac.exceptions.VaultDown (at " in vault_line


def test_a_server_that_is_not_there_is_told(kwargs: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Down to what the system says of it."""
    kwargs["fallback_backends"][2]["backend_kwargs"]["url"] = "http://127.0.0.1:1"
    EcrSecretsBackend(**kwargs).get_variable("environment")

    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "requests.exceptions.ConnectionError, from urllib3.exceptions.MaxRetryError" in line
    assert ", from ConnectionRefusedError (at " in line


def test_no_line_shows_a_secret(
    aws: AwsStandIn, vault: VaultStandIn, backend: EcrSecretsBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither what a backend was built with, nor what AWS quotes, nor what was read and is not well-formed."""
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
    """Airflow names it from 3.2 on."""
    asked: list[Any] = []
    fallbacks = [{"backend": f"{STAND_INS}.Recording", "backend_kwargs": {"asked": asked}}]
    backend = EcrSecretsBackend(
        connections={"docker_default": HOST}, cache_dir=str(tmp_path), fallback_backends=fallbacks
    )
    backend.get_connection(conn_id="a", team_name="blue")
    backend.get_conn_value(conn_id="a", team_name="blue")
    backend.get_variable(key="a", team_name="blue")
    backend.get_config("a")

    assert [question[:-1] for question in asked] == [
        ("get_connection", "a", "blue"),
        ("get_conn_value", "a", "blue"),
        ("get_variable", "a", "blue"),
        ("get_config", "a"),
    ]


def test_forks_and_threads_find_it_too(kwargs: dict[str, Any]) -> None:
    """Children of a process that has looked up already, the process itself afterwards, and many threads at once."""
    found = programs.run(fallback_forks.__name__, kwargs=kwargs, conn_ids=SOURCES)

    assert found == [SOURCES] * (1 + 2 * fallback_forks.CHILDREN + fallback_forks.THREADS)


def test_a_trigger_asks_the_other_backends_in_a_thread(tmp_path: Path) -> None:
    """Airflow finds our asynchronous method, so its event loop does not wait for another backend."""
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
            {"connections": {"docker_default": HOST}, "fallback_backends": [{"backend": f"{STAND_INS}.Recording"}]}
        ),
    }
    output = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=PROJECT, env=environment)

    ((method, conn_id, *_, thread),) = json.loads(output.splitlines()[-1])
    assert (method, conn_id) == ("get_connection", "warehouse")
    assert thread != "MainThread"
