from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.configuration import BACKEND
from tests.airflow_version import HAS_KWARG_VARIABLES, HAS_WORKERS_BACKEND
from tests.command_settings import US_HOST
from tests.unit.cli.conftest import status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.conftest import Run

OTHER_BACKEND = "airflow.secrets.environment_variables.EnvironmentVariablesBackend"


@pytest.mark.parametrize("name", ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"])
def test_a_process_that_a_task_has_started_can_import_airflow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """SQLAlchemy cannot parse the URL that Airflow 3 sets there. Any other URL is kept."""
    monkeypatch.delitem(sys.modules, "airflow")
    for url, expected in (("airflow-db-not-allowed:///", "sqlite://"), ("postgresql://db", "postgresql://db")):
        monkeypatch.setenv(name, url)
        configuration._allow_import_in_task_child()
        assert os.environ[name] == expected


@pytest.mark.usefixtures("airflow")
def test_an_aws_connection_may_be_in_a_fallback_backend(
    run: Run, aws: AwsStandIn, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also if only workers have the backend, so that Airflow's own commands do not find the connection."""
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "standard input is not JSON"),
        ("[]", "standard input is not a JSON object"),
        ("{}", "backend_kwargs are missing"),
        ('{"connections": {"docker_default": "example.com"}}', "is not the host of an ECR registry"),
        ('{"conections": {}}', "Did you mean connections?"),
        ('{"connections": {"docker_other": "public.ecr.aws"}}', "'docker_default' is not mapped in standard input"),
    ],
)
def test_wrong_kwargs_are_explained_in_one_line(run: Run, text: str, message: str) -> None:
    done = run("token", "docker_default", "--backend-kwargs", "-", exit_code=2, given=text)

    (line,) = done.stderr.splitlines()
    assert line.startswith("ecr-secrets-backend token: ")
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--backend-kwargs", "/nowhere/kwargs.json"),
            "/nowhere/kwargs.json cannot be read: No such file or directory",
        ),
        (("--backend-kwargs", "-", "--section", "secrets"), "--section and --backend-kwargs exclude each other"),
    ],
)
def test_a_wrong_source_is_explained(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert message in run("status", *arguments, exit_code=2).stderr


@pytest.mark.usefixtures("airflow")
@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (None, "Airflow in this process does not use this backend: [secrets] backend is not set (in "),
        (OTHER_BACKEND, f"[secrets] backend is {OTHER_BACKEND} (in "),
        ("ecr_secret_backend.EcrSecretsBackend", "Airflow's configuration cannot be read: "),
    ],
)
def test_an_airflow_without_the_backend(
    run: Run, monkeypatch: pytest.MonkeyPatch, backend: str | None, message: str
) -> None:
    """The message names the value, the file and the fix."""
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND_KWARGS")
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND")
    if backend:
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", backend)
    line = run("token", "docker_default", exit_code=2).stderr.splitlines()[-1]

    assert message in line
    assert "use --backend-kwargs FILE." in line


@pytest.mark.usefixtures("airflow")
def test_workers_are_read_before_secrets(run: Run, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """As in a task. An option selects the other section."""
    if not HAS_WORKERS_BACKEND:
        assert "is not set" in run("token", "docker_default", "--section", "workers", exit_code=2).stderr
        return

    def set_workers(backend: str, **changed: object) -> None:
        monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", backend)
        monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", json.dumps({**kwargs, **changed}))

    assert "[workers] secrets_backend is not set" in run("status", "--section", "workers", exit_code=2).stderr
    set_workers(BACKEND, connections={"docker_worker": US_HOST})
    assert run("token", "docker_worker").stdout
    assert "docker_worker" in run("token", "docker_default", exit_code=2).stderr
    assert run("token", "docker_default", "--section", "secrets").stdout
    set_workers(BACKEND, connections={"docker_worker": {"regoin_name": "eu-west-1"}})
    wrong = run("status", exit_code=2).stderr
    assert "[workers] secrets_backend_kwargs: connections.docker_worker.regoin_name is not supported" in wrong
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", "{}")
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", OTHER_BACKEND)
    *_, line = run("status", exit_code=2).stderr.splitlines()
    assert f"[workers] secrets_backend is {OTHER_BACKEND}" in line
    assert f"but [secrets] backend is {BACKEND}. Use --section secrets" in line


@pytest.mark.usefixtures("airflow")
def test_only_workers_may_have_the_backend(run: Run, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """Airflow 2 has no such section, so there the backend is not set."""
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND")
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND_KWARGS")
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", BACKEND)
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", json.dumps(kwargs))
    if not HAS_WORKERS_BACKEND:
        assert "[secrets] backend is not set" in run("status", exit_code=2).stderr
        return

    assert run("token", "docker_default").stdout
    assert status(run)["tokens"][0]["connections"] == ["docker_default"]
    *_, line = run("status", "--section", "secrets", exit_code=2).stderr.splitlines()
    assert "[secrets] backend is not set" in line
    assert f"but [workers] secrets_backend is {BACKEND}. Use --section workers" in line


@pytest.mark.usefixtures("airflow")
def test_kwargs_may_be_in_other_options_of_airflow(
    run: Run, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    """A program prints them, and each may have an environment variable."""
    (tmp_path / "printed.json").write_text(json.dumps({"connections": kwargs["connections"]}))
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND_KWARGS")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS_CMD", f"cat {tmp_path}/printed.json")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARG__CACHE_DIR", str(tmp_path / "elsewhere"))

    assert run("token", "docker_default").stdout
    assert (tmp_path / "elsewhere").exists() is HAS_KWARG_VARIABLES


def test_the_shell_completes_connection_ids(file: tuple[str, str]) -> None:
    """With a wrong configuration it completes nothing."""
    options = argparse.Namespace(section=None, backend_kwargs=file[1])
    assert configuration.complete_conn_id("docker_d", options) == ["docker_default"]
    options.backend_kwargs = "/nowhere"
    assert configuration.complete_conn_id("docker_d", options) == []
