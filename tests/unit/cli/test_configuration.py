from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.configuration import BACKEND
from tests.airflow_version import HAS_WORKERS_BACKEND
from tests.command_settings import US_HOST
from tests.unit.cli.conftest import Run, status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

OTHER_BACKEND = "airflow.secrets.environment_variables.EnvironmentVariablesBackend"
SETTINGS = (
    "SECRETS__BACKEND",
    "SECRETS__BACKEND_KWARGS",
    "WORKERS__SECRETS_BACKEND",
    "WORKERS__SECRETS_BACKEND_KWARGS",
)


@pytest.fixture
def configure(airflow: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the options of ``[secrets]`` and ``[workers]``, in this order. Without a value, one is not set."""
    del airflow

    def configure(*values: str | dict[str, Any] | None) -> None:
        for name in SETTINGS:
            monkeypatch.delenv(f"AIRFLOW__{name}", raising=False)
        for name, value in zip(SETTINGS, values, strict=False):
            if value is not None:
                monkeypatch.setenv(f"AIRFLOW__{name}", value if isinstance(value, str) else json.dumps(value))

    return configure


def last_line(run: Run, *arguments: str) -> str:
    """Run ``status`` with a wrong configuration, and return its last line."""
    return run("status", *arguments, exit_code=2).stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"])
def test_a_process_that_a_task_has_started_can_import_airflow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """SQLAlchemy cannot parse the URL that Airflow 3 sets there. Any other URL is kept."""
    monkeypatch.delitem(sys.modules, "airflow")
    for url, expected in (("airflow-db-not-allowed:///", "sqlite://"), ("postgresql://db", "postgresql://db")):
        monkeypatch.setenv(name, url)
        configuration._allow_import_in_task_child()
        assert os.environ[name] == expected


def test_an_aws_connection_may_be_in_a_fallback_backend(
    run: Run, aws: AwsStandIn, kwargs: dict[str, Any], configure: Callable[..., None], tmp_path: Path
) -> None:
    """Also if only workers have the backend, so that Airflow's own commands do not find the connection."""
    (tmp_path / "connections.json").write_text(json.dumps({"aws_team": f"aws://{'AKIA' + 'V' * 16}:s3cret@/"}))
    local_files = {
        "backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "backend_kwargs": {"connections_file_path": str(tmp_path / "connections.json")},
    }
    by_team = {**kwargs, "aws_conn_id": "aws_team", "fallback_backends": [local_files]}
    configure(*(None, None) * HAS_WORKERS_BACKEND, BACKEND, by_team)

    assert run("token", "docker_default").stdout
    assert aws.calls(operation="GetAuthorizationToken")[0].access_key_id == "AKIA" + "V" * 16
    assert run("token", "docker_default", "--backend-kwargs", "-", given=json.dumps(by_team)).stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "standard input is not JSON"),
        ("[]", "standard input is not a JSON object"),
        ("{}", "backend_kwargs are missing"),
        ('{"connections": {"docker_other": "public.ecr.aws"}}', "'docker_default' is not mapped in standard input"),
    ],
)
def test_wrong_kwargs_are_explained_in_one_line(run: Run, text: str, message: str) -> None:
    (line,) = run("token", "docker_default", "--backend-kwargs", "-", exit_code=2, given=text).stderr.splitlines()

    assert line.startswith("ecr-secrets-backend token: ")
    assert message in line


def test_a_wrong_source_is_explained(run: Run) -> None:
    missing = "/nowhere/kwargs.json cannot be read: No such file or directory"

    assert missing in last_line(run, "--backend-kwargs", "/nowhere/kwargs.json")
    assert "exclude each other" in last_line(run, "--backend-kwargs", "-", "--section", "secrets")


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (None, "Airflow in this process does not use this backend: [secrets] backend is not set (in "),
        (OTHER_BACKEND, f"[secrets] backend is {OTHER_BACKEND} (in "),
        ("ecr_secret_backend.EcrSecretsBackend", "Airflow's configuration cannot be read: "),
    ],
)
def test_an_airflow_without_the_backend(
    run: Run, configure: Callable[..., None], backend: str | None, message: str
) -> None:
    configure(backend)
    line = last_line(run)

    assert message in line
    assert "use --backend-kwargs FILE." in line


def test_workers_are_read_before_secrets(run: Run, configure: Callable[..., None], kwargs: dict[str, Any]) -> None:
    assert "[workers] secrets_backend is not set" in last_line(run, "--section", "workers")
    if not HAS_WORKERS_BACKEND:
        return
    configure(BACKEND, kwargs, BACKEND, {**kwargs, "connections": {"docker_worker": US_HOST}})
    assert run("token", "docker_worker").stdout
    assert "docker_worker" in run("token", "docker_default", exit_code=2).stderr
    assert run("token", "docker_default", "--section", "secrets").stdout
    configure(BACKEND, kwargs, BACKEND, {"connections": {"docker_worker": {"regoin_name": "eu-west-1"}}})
    wrong = "[workers] secrets_backend_kwargs: connections.docker_worker.regoin_name is not supported"
    assert wrong in last_line(run)
    configure(BACKEND, kwargs, OTHER_BACKEND)
    assert f"[workers] secrets_backend is {OTHER_BACKEND}" in last_line(run)
    assert f"but [secrets] backend is {BACKEND}. Use --section secrets" in last_line(run)


def test_only_workers_may_have_the_backend(run: Run, configure: Callable[..., None], kwargs: dict[str, Any]) -> None:
    """Airflow 2 has no such section, so there the backend is not set."""
    configure(None, None, BACKEND, kwargs)
    assert "[secrets] backend is not set" in last_line(run, "--section", "secrets")
    if not HAS_WORKERS_BACKEND:
        return
    assert f"but [workers] secrets_backend is {BACKEND}. Use" in last_line(run, "--section", "secrets")
    assert run("token", "docker_default").stdout
    assert status(run)["tokens"][0]["connections"] == ["docker_default"]


def test_the_shell_completes_connection_ids(file: tuple[str, str]) -> None:
    for name, expected in ((file[1], ["docker_default"]), ("/nowhere", [])):
        options = argparse.Namespace(section=None, backend_kwargs=name)
        assert configuration.complete_conn_id("docker_d", options) == expected
