"""Commands in a process of their own: their imports, Airflow's configuration, and the colours of a terminal."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.command_settings import build_kwargs, configure_airflow
from tests.integration.commands import run, run_on_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn


@pytest.fixture
def airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_airflow(monkeypatch, tmp_path / "airflow", build_kwargs(tmp_path))


@pytest.mark.usefixtures("airflow")
def test_a_command_shares_the_cache_with_airflow_and_with_a_command_that_a_task_starts(
    aws: AwsStandIn, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All print the same token, and standard output has no log line of Airflow."""
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "DEBUG")
    from_airflow = run("token", "docker_default").stdout
    from_file = run("token", "docker_default", *file).stdout
    for name in ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"):
        monkeypatch.setenv(name, "airflow-db-not-allowed:///")  # as Airflow sets it for a BashOperator
    from_task = run("token", "docker_default").stdout

    assert from_airflow == from_file == from_task
    assert aws.authorise("AWS", from_airflow.strip(), region="us-east-1").valid
    assert len(aws.calls()) == 1


def test_a_command_with_a_file_and_a_cached_token_imports_no_large_library(file: tuple[str, str]) -> None:
    """Airflow alone takes a second or more."""
    run("token", "docker_default", *file)
    program = (
        "import sys; from ecr_secrets_backend.cli import main; main(sys.argv[1:]);"
        "print({'airflow', 'boto3', 'botocore', 'docker', 'urllib3'} & set(sys.modules), file=sys.__stdout__)"
    )
    command = [sys.executable, "-c", program, "token", "docker_default", *file]

    assert subprocess.check_output(command, text=True).splitlines()[-1] == "set()"


@pytest.mark.usefixtures("airflow")
def test_kwargs_with_which_airflow_cannot_be_imported_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", '{"conections": {}}')
    message = "[secrets] backend_kwargs: conections is not supported. Did you mean connections?"

    assert message in run("status", exit_code=2).stderr


def test_a_terminal_has_colours_without_no_color(file: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    run("token", "docker_default", *file)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[32m" in run_on_terminal("status", *file)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in run_on_terminal("status", *file)
