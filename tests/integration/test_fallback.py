"""The real other secrets backends behind ours, called as Airflow calls it."""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import airflow.sdk
import boto3
import pytest

from ecr_secrets_backend import EcrSecretsBackend
from tests.process_helpers import REGISTRY
from tests.stand_ins.aws import Error
from tests.stand_ins.vault import VaultStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

REGION = "us-east-1"
SOURCES = ["secrets-manager", "parameter-store", "vault", "environment"]
CHILDREN, THREADS = 3, 8


@pytest.fixture(scope="module", autouse=True)
def _stored(aws_server: AwsStandIn) -> None:
    """Store a connection in Secrets Manager and in Parameter Store."""
    session = boto3.Session(aws_server.access_key_id, aws_server.secret_access_key, region_name=REGION)
    session.client("secretsmanager", endpoint_url=aws_server.url).create_secret(
        Name="airflow/connections/secrets-manager", SecretString="http://secrets-manager"
    )
    session.client("ssm", endpoint_url=aws_server.url).put_parameter(
        Name="/airflow/connections/parameter-store", Value="http://parameter-store", Type="SecureString"
    )


@pytest.fixture
def vault() -> Iterator[VaultStandIn]:
    with VaultStandIn.running({"connections/vault": {"conn_type": "http", "host": "vault"}}) as vault:
        yield vault


@pytest.fixture
def kwargs(aws: AwsStandIn, vault: VaultStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    del aws
    monkeypatch.setenv("AIRFLOW_CONN_ENVIRONMENT", "http://environment")
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


def test_a_backend_that_fails_is_logged_without_a_secret_and_the_next_is_asked(
    aws: AwsStandIn, vault: VaultStandIn, kwargs: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a kwarg of a backend is shown, nor a quotation in AWS's answer, nor a value that is not well-formed."""
    caplog.set_level(logging.DEBUG, "ecr_secrets_backend")
    aws.script(
        Error("AccessDeniedException", operation="GetSecretValue"),
        Error("SignatureDoesNotMatch", f"The String was\n{aws.secret_access_key}", operation="GetParameter"),
    )
    vault.data = {"connections/environment": {"conn_uri": "http://a:s3cret-of-a-connection://b://c"}}

    backend = build(kwargs)
    assert backend.get_connection("environment").host == "environment"
    vault.sealed = True
    assert backend.get_connection("environment").host == "environment"
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("ecr_secrets_backend")]
    manager, store, vault_line, *_, sealed = lines
    assert "SecretsManagerBackend) failed to look up connection 'environment': " in manager
    assert " AccessDeniedException (at client.py:" in manager
    assert " SignatureDoesNotMatch (at client.py:" in store
    assert "VaultBackend) failed to look up connection 'environment': " in vault_line
    assert "VaultBackend) failed to look up connection 'environment': hvac.exceptions.VaultDown (at " in sealed
    for secret in (vault.token, aws.secret_access_key, "s3cret-of-a-connection"):
        assert secret not in str(lines)


def look_up_in_forks_and_threads(kwargs: dict[str, Any]) -> list[list[str]]:
    backend = build(kwargs)

    def look_up(_: object = None) -> list[str]:
        connections = [backend.get_connection(conn_id) for conn_id in SOURCES]
        assert {type(connection) for connection in connections} == {airflow.sdk.Connection}
        return [connection.host for connection in connections]

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
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a process of one thread
        found = pool.submit(look_up_in_forks_and_threads, kwargs).result()

    assert found == [SOURCES] * (1 + 2 * CHILDREN + THREADS)
