from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cli.conftest import DENIED, Run

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn


def test_it_prints_the_password_alone(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """One line, which the registry accepts."""
    done = run("token", "docker_default", *file)

    (password,) = done.stdout.splitlines()
    assert aws.authorise("AWS", password, region="us-east-1").valid
    assert done.stderr == ""


def test_it_comes_from_the_cache_while_it_is_valid(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """Two commands, one AWS call."""
    first, second = (run("token", "docker_default", *file).stdout for _ in range(2))

    assert first == second
    assert len(aws.calls()) == 1


@pytest.mark.usefixtures("aws")
def test_credentials_may_come_from_an_airflow_connection(
    run: Run, aws: AwsStandIn, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``aws_conn_id``; where there is no such connection, one line says so."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_TEAM", f"aws://{'AKIA' + 'T' * 16}:s3cret@/")
    by_team = json.dumps({**kwargs, "aws_conn_id": "aws_team"})
    by_nobody = json.dumps({**kwargs, "aws_conn_id": "aws_nobody"})

    assert run("token", "docker_default", "--backend-kwargs", "-", given=by_team).stdout
    assert aws.calls(operation="GetAuthorizationToken")[0].access_key_id == "AKIA" + "T" * 16
    status = json.loads(run("status", "--output", "json", "--backend-kwargs", "-", given=by_team).stdout)
    assert status["tokens"][0]["identity"] == "Airflow connection aws_team"
    assert status["tokens"][0]["connections"] == ["docker_default"]
    done = run("token", "docker_default", "--backend-kwargs", "-", exit_code=1, given=by_nobody)
    assert "Add an Airflow connection 'aws_nobody'" in done.stderr.splitlines()[-1]


def test_a_refusal_of_aws_is_one_line(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """With its fix, on standard error, and exit code 1."""
    aws.script(DENIED)
    done = run("token", "docker_default", *file, exit_code=1)

    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    for part in ("token: Connection 'docker_default'", "AccessDeniedException", "Allow ecr:GetAuthorizationToken"):
        assert part in line
