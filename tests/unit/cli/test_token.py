from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.conftest import Run


def test_the_password_is_printed_alone(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    first, second = (run("token", "docker_default", *file) for _ in range(2))

    (password,) = first.stdout.splitlines()
    assert aws.authorise("AWS", password, region="us-east-1").valid
    assert first.stderr == ""
    assert second == first
    assert len(aws.calls()) == 1


def test_an_airflow_connection_may_have_the_credentials(
    run: Run, aws: AwsStandIn, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is no connection ``aws_conn_id``, one line explains it."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_TEAM", f"aws://{'AKIA' + 'T' * 16}:s3cret@/")
    by_team, by_missing = (json.dumps({**kwargs, "aws_conn_id": conn_id}) for conn_id in ("aws_team", "aws_missing"))
    from_stdin = ("--backend-kwargs", "-")

    assert run("token", "docker_default", *from_stdin, given=by_team).stdout
    assert aws.calls(operation="GetAuthorizationToken")[0].access_key_id == "AKIA" + "T" * 16
    (token,) = json.loads(run("status", "--output", "json", *from_stdin, given=by_team).stdout)["tokens"]
    assert (token["identity"], token["connections"]) == ("Airflow connection aws_team", ["docker_default"])
    done = run("token", "docker_default", *from_stdin, exit_code=1, given=by_missing)
    assert "Add an Airflow connection 'aws_missing'" in done.stderr.splitlines()[-1]
    assert "Deleted 0 tokens. Kept 1" in run("clear", *from_stdin, given=by_missing).stdout
