"""Real Airflow processes, configured with the backend by environment variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.airflow_version import DENIAL, HAS_KWARG_VARIABLES, HAS_TEAMS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


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
        "PYTHONWARNINGS": "default",
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
    """In either order there is one class, no warning, and an exception of the class that Airflow passes on."""
    check = """if True:
        from airflow.configuration import secrets_backend_list
        from ecr_secrets_backend.airflow_compat import access_denied
        from ecr_secrets_backend.errors import TokenFailure
        print([type(backend) is EcrSecretsBackend for backend in secrets_backend_list])
        bases = type(access_denied("docker_default", TokenFailure("", "", "", "", ""))).__mro__
        print([base.__name__ for base in bases if base.__module__.startswith("airflow.")])
    """
    done = run("-c", f"exec({imports!r}); exec({check!r})", environment=environment)

    bases = [DENIAL.__name__] if DENIAL else []
    assert done.stdout.splitlines()[-2:] == ["[True, False, False]", str(bases)], done.stderr
    assert "/ecr_secrets_backend/" not in done.stderr


def test_an_invalid_kwarg_stops_airflow_with_its_path_and_fix(environment: dict[str, str]) -> None:
    environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = json.dumps({"connections": {"docker_eu": {"regoin_name": "x"}}})
    done = run("-m", "airflow", "version", environment=environment)

    assert done.returncode != 0
    assert "connections.docker_eu.regoin_name is not supported. Did you mean region_name?" in done.stderr


def test_kwargs_that_are_not_json_stop_airflow_with_the_reason(environment: dict[str, str]) -> None:
    """Airflow drops them with a warning, so the backend receives none."""
    environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = '{"connections": '
    done = run("-m", "airflow", "version", environment=environment)

    assert done.returncode != 0
    assert "Airflow cannot parse them as JSON" in done.stderr


def test_a_kwarg_can_have_its_own_variable(environment: dict[str, str], aws: AwsStandIn) -> None:
    """Airflow passes ``AIRFLOW__SECRETS__BACKEND_KWARG__<NAME>`` as a raw string, from 3.2 on."""
    environment["AIRFLOW__SECRETS__BACKEND_KWARG__CONNECTIONS"] = json.dumps(
        {"docker_default": {"region_name": "eu-west-1"}}
    )
    environment["AIRFLOW__SECRETS__BACKEND_KWARG__REFRESH_BEFORE"] = "600"
    done = run("-m", "airflow", "connections", "get", "docker_default", "-o", "json", environment=environment)

    assert done.returncode == 0, done.stderr
    assert [call.region for call in aws.calls()] == ["eu-west-1" if HAS_KWARG_VARIABLES else "us-east-1"]


def test_a_lookup_with_a_team_name_is_served(environment: dict[str, str], aws: AwsStandIn) -> None:
    """Airflow passes one from 3.2 on, and skips without a message a backend that does not accept it."""
    team = {"team_name": "blue"} if HAS_TEAMS else {}
    program = f"""if True:
        from airflow.models.connection import Connection
        print(Connection.get_connection_from_secrets("docker_default", **{team}).host)
    """
    done = run("-c", program, environment={**environment, "AIRFLOW__CORE__MULTI_TEAM": "True"})

    assert done.stdout.splitlines()[-1:] == [HOST], done.stderr
    assert len(aws.calls()) == 1
