from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.configuration import BACKEND
from tests.airflow_version import HAS_KWARG_VARIABLES, HAS_WORKERS_BACKEND
from tests.command_settings import US_HOST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.conftest import Run


@pytest.mark.parametrize("name", ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"])
def test_a_process_that_a_task_has_started_can_import_airflow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Airflow 3 leaves a database URL there that SQLAlchemy cannot read; any other stays."""
    monkeypatch.delitem(sys.modules, "airflow")
    monkeypatch.setenv(name, "airflow-db-not-allowed:///")
    configuration._allow_import_in_task_child()
    assert os.environ[name] == "sqlite://"
    monkeypatch.setenv(name, "postgresql://db")
    configuration._allow_import_in_task_child()
    assert os.environ[name] == "postgresql://db"


@pytest.mark.usefixtures("airflow")
def test_those_credentials_may_stand_in_a_fallback_backend(
    run: Run, aws: AwsStandIn, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also if only workers have the backend, so that Airflow's own commands do not find them."""
    (tmp_path / "connections.json").write_text(json.dumps({"aws_team": f"aws://{'AKIA' + 'V' * 16}:s3cret@/"}))
    local_files = {
        "backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "backend_kwargs": {"connections_file_path": str(tmp_path / "connections.json")},
    }
    by_team = json.dumps({**kwargs, "aws_conn_id": "aws_team", "fallback_backends": [local_files]})
    section = "WORKERS__SECRETS_" if HAS_WORKERS_BACKEND else "SECRETS__"
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND")
    monkeypatch.setenv(f"AIRFLOW__{section}BACKEND", BACKEND)
    monkeypatch.setenv(f"AIRFLOW__{section}BACKEND_KWARGS", by_team)

    assert run("token", "docker_default").stdout
    assert aws.calls(operation="GetAuthorizationToken")[0].access_key_id == "AKIA" + "V" * 16
    assert run("token", "docker_default", "--backend-kwargs", "-", given=by_team).stdout


def test_kwargs_may_come_from_standard_input(run: Run, kwargs: dict[str, Any]) -> None:
    """If a dash stands for the file."""
    assert run("token", "docker_eu", "--backend-kwargs", "-", given=json.dumps(kwargs)).stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "backend_kwargs are missing"),
        ('{"connections": {"docker_default": "example.com"}}', "is not the host of an ECR registry"),
        ('{"conections": {}}', "did you mean connections?"),
        ('{"connections": {"docker_other": "public.ecr.aws"}}', "'docker_default' is not mapped"),
    ],
)
def test_wrong_kwargs(run: Run, text: str, message: str) -> None:
    """Each by its own sentence."""
    done = run("token", "docker_default", "--backend-kwargs", "-", exit_code=2, given=text)

    (line,) = done.stderr.splitlines()
    assert line.startswith("ecr-secrets-backend token: ")
    assert message in line


def test_a_file_that_is_not_there(run: Run) -> None:
    """By its name."""
    done = run("token", "docker_default", "--backend-kwargs", "/nowhere/kwargs.json", exit_code=2)

    assert "/nowhere/kwargs.json cannot be read: No such file or directory" in done.stderr


@pytest.mark.usefixtures("airflow")
def test_an_airflow_without_the_backend(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to set."""
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND")
    done = run("token", "docker_default", exit_code=2)

    assert "In the Airflow of this process, no secrets backend is set in [secrets]" in done.stderr
    assert BACKEND in done.stderr


@pytest.mark.usefixtures("airflow")
def test_the_section_of_workers_wins(run: Run, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """As it does in a task; an option chooses the other."""
    connections = {"docker_worker": US_HOST}
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", BACKEND)
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", json.dumps({**kwargs, "connections": connections}))

    if not HAS_WORKERS_BACKEND:
        assert run("token", "docker_default").stdout
        assert "is not set" in run("token", "docker_default", "--section", "workers", exit_code=2).stderr
        return
    assert run("token", "docker_worker").stdout
    assert "docker_worker" in run("token", "docker_default", exit_code=2).stderr
    assert run("token", "docker_default", "--section", "secrets").stdout


@pytest.mark.usefixtures("airflow")
def test_a_backend_of_workers_alone(run: Run, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """Each command finds it as a worker does; if it is asked for the servers', it says that they have none."""
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND")
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND_KWARGS")
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", BACKEND)
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", json.dumps(kwargs))

    if not HAS_WORKERS_BACKEND:
        assert "no secrets backend is set" in run("token", "docker_default", exit_code=2).stderr
        return
    assert run("token", "docker_default").stdout
    assert json.loads(run("status", "--output", "json").stdout)["tokens"][0]["connections"] == ["docker_default"]
    *_, line = run("status", "--section", "secrets", exit_code=2).stderr.splitlines()
    assert "no secrets backend is set in [secrets]" in line
    assert f"[workers] secrets_backend is {BACKEND}, so only tasks have it" in line


@pytest.mark.usefixtures("airflow")
def test_kwargs_may_be_given_by_a_command_and_one_by_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    """As Airflow reads them."""
    (tmp_path / "by-command.json").write_text(json.dumps({"connections": kwargs["connections"]}))
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND_KWARGS")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS_CMD", f"cat {tmp_path}/by-command.json")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARG__CACHE_DIR", str(tmp_path / "elsewhere"))

    assert run("token", "docker_default").stdout
    assert (tmp_path / "elsewhere").exists() is HAS_KWARG_VARIABLES


def test_both_sources_at_once(run: Run, file: tuple[str, str]) -> None:
    """Only one can be meant."""
    assert "Leave one of them off" in run("status", "--section", "secrets", *file, exit_code=2).stderr
