"""Commands in a process of their own: their imports, Airflow's configuration, and the colours of a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.command_settings import build_kwargs, configure_airflow, write_kwargs
from tests.integration.commands import COMMAND, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn


@pytest.fixture
def kwargs(aws: AwsStandIn, tmp_path: Path) -> dict[str, Any]:
    del aws
    return build_kwargs(tmp_path)


@pytest.fixture
def file(kwargs: dict[str, Any], tmp_path: Path) -> tuple[str, str]:
    return write_kwargs(tmp_path, kwargs)


@pytest.fixture
def airflow(kwargs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_airflow(monkeypatch, tmp_path_factory.getbasetemp() / "airflow", kwargs)


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
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "BACKEND_KWARGS",
            '{"conections": {}}',
            "[secrets] backend_kwargs: conections is not supported. Did you mean connections?",
        ),
        ("BACKEND", "ecr_secret_backend.EcrSecretsBackend", "Airflow's configuration cannot be read"),
    ],
)
def test_a_configuration_with_which_airflow_cannot_be_imported_is_one_error(
    monkeypatch: pytest.MonkeyPatch, option: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW__SECRETS__{option}", value)

    assert message in run("status", exit_code=2).stderr


@pytest.mark.parametrize(("no_color", "has_colour"), [(None, True), ("1", False)])
def test_a_terminal_has_colours_without_no_color(
    file: tuple[str, str], monkeypatch: pytest.MonkeyPatch, no_color: str | None, has_colour: bool
) -> None:
    run("token", "docker_default", *file)
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        subprocess.run([*COMMAND, "status", *file], stdout=theirs, check=True)
        os.close(theirs)
        text = terminal.read(65536).decode()

    assert ("\x1b[32m" in text) is has_colour
