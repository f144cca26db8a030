"""Real Airflow processes that are configured with the backend, by environment variables as a deployment would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.stand_ins.aws import AwsStandIn, Error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture(scope="module")
def aws_server() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        yield aws


@pytest.fixture
def aws(aws_server: AwsStandIn) -> AwsStandIn:
    aws_server.reset()
    return aws_server


@pytest.fixture
def environment(aws: AwsStandIn, tmp_path: Path) -> dict[str, str]:
    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path / "cache")}
    return {
        **os.environ,
        **aws.environment(),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__SECRETS__BACKEND": "ecr_secrets_backend.EcrSecretsBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
    }


def run(*command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment, timeout=50
    )


@pytest.mark.parametrize(
    "imports",
    [
        "import airflow.configuration; from ecr_secrets_backend import EcrSecretsBackend",
        "import ecr_secrets_backend, airflow.configuration; EcrSecretsBackend = ecr_secrets_backend.EcrSecretsBackend",
        "from ecr_secrets_backend import EcrSecretsBackend",
        "import ecr_secrets_backend.settings; import airflow; from ecr_secrets_backend import EcrSecretsBackend",
    ],
)
def test_either_import_order_works(environment: dict[str, str], imports: str) -> None:
    """Whether Airflow or this package comes first, the class is one and Airflow has built its backend from it."""
    check = (
        "from airflow.configuration import secrets_backend_list as l; print([type(b) is EcrSecretsBackend for b in l])"
    )
    done = run("-c", f"{imports}; {check}", environment=environment)

    assert done.stdout.splitlines()[-1:] == ["[True, False, False]"], done.stderr


def test_a_command_of_airflow_finds_the_connection(environment: dict[str, str], aws: AwsStandIn) -> None:
    """``airflow connections get`` prints what a task would get, at the cost of one AWS call for all processes."""
    for _ in range(2):
        done = run("-m", "airflow", "connections", "get", "docker_default", "-o", "json", environment=environment)
        assert done.returncode == 0, done.stderr
        (connection,) = json.loads(done.stdout[done.stdout.index("[{") :])
        assert (connection["conn_type"], connection["host"], connection["login"]) == ("docker", HOST, "AWS")
        assert aws.authorise("AWS", connection["password"]).alive

    assert len(aws.calls()) == 1


def test_a_fault_of_the_configuration_stops_airflow_and_is_named(environment: dict[str, str]) -> None:
    """By its path and its remedy, at the end of what Airflow prints."""
    environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = json.dumps({"connections": {"docker_eu": {"regoin_name": "x"}}})
    done = run("-m", "airflow", "version", environment=environment)

    assert done.returncode != 0
    assert "connections.docker_eu.regoin_name is no setting; did you mean region_name?" in done.stderr


def test_kwargs_that_airflow_cannot_parse_are_told_as_such(environment: dict[str, str]) -> None:
    """Airflow drops them with a warning and goes on without."""
    environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = '{"connections": '
    done = run("-m", "airflow", "version", environment=environment)

    assert done.returncode != 0
    assert "Airflow could not parse them as JSON" in done.stderr


def test_a_kwarg_may_have_a_variable_of_its_own(environment: dict[str, str], aws: AwsStandIn) -> None:
    """Airflow passes ``AIRFLOW__SECRETS__BACKEND_KWARG__<NAME>`` as a raw string."""
    environment["AIRFLOW__SECRETS__BACKEND_KWARG__CONNECTIONS"] = json.dumps(
        {"docker_eu": {"region_name": "eu-west-1"}}
    )
    environment["AIRFLOW__SECRETS__BACKEND_KWARG__REFRESH_BEFORE"] = "600"
    done = run("-m", "airflow", "connections", "get", "docker_eu", "-o", "json", environment=environment)

    assert done.returncode == 0, done.stderr
    assert [call.region for call in aws.calls()] == ["eu-west-1"]


def test_a_task_that_cannot_be_served_tells_why(environment: dict[str, str], aws: AwsStandIn) -> None:
    """A lookup ends with our exception, not with "isn't defined", and the log has the cause at ERROR."""
    aws.script(Error("AccessDeniedException", "User: arn:aws:iam::123456789012:user/u is not authorized"))
    done = run(
        "-c", "from airflow.sdk import BaseHook; BaseHook.get_connection('docker_default')", environment=environment
    )

    assert done.returncode != 0
    assert "LookupDeniedError: Connection 'docker_default' has no ECR token. AccessDeniedException" in done.stderr
    assert "isn't defined" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "has no ECR token" in line]
    assert "[error" in line
