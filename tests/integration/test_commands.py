"""What of the commands needs a process of its own."""

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
def test_a_command_shares_the_cache_with_airflow(
    aws: AwsStandIn, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same token by Airflow's configuration as by a file; whatever Airflow logs is not on standard output."""
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "DEBUG")
    by_airflow = run("token", "docker_default").stdout
    by_file = run("token", "docker_default", *file).stdout

    assert by_airflow == by_file
    assert len(aws.calls()) == 1


@pytest.mark.usefixtures("airflow")
def test_a_task_may_start_a_command(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a BashOperator does, with what Airflow leaves there in place of its database's URL."""
    for name in ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"):
        monkeypatch.setenv(name, "airflow-db-not-allowed:///")

    password = run("token", "docker_default").stdout.strip()

    assert aws.authorise("AWS", password, region="us-east-1").valid


def test_with_a_file_airflow_is_not_imported(file: tuple[str, str]) -> None:
    """It takes a second or more."""
    run("token", "docker_default", *file)
    program = (
        "import sys; from ecr_secrets_backend.cli import main; main(sys.argv[1:]);"
        "print({'airflow', 'boto3', 'botocore', 'docker', 'urllib3'} & set(sys.modules), file=sys.__stdout__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "token", "docker_default", *file],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "set()"


def test_a_reader_that_has_gone_causes_no_traceback(file: tuple[str, str]) -> None:
    """As in ``token ... | true``."""
    command = " ".join((*COMMAND, "status", "--output", "json", *file))
    done = subprocess.run(f"{command} | true", shell=True, capture_output=True, text=True, check=True)  # noqa: S602

    assert done.stderr == ""


@pytest.mark.usefixtures("airflow")
def test_an_airflow_whose_kwargs_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow cannot even be imported then."""
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", '{"conections": {}}')
    done = run("status", exit_code=2)

    assert "[secrets] backend_kwargs: conections is not supported; did you mean connections?" in done.stderr


@pytest.mark.usefixtures("airflow")
def test_an_airflow_whose_backend_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Airflow's own words."""
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "ecr_secret_backend.EcrSecretsBackend")
    done = run("status", exit_code=2)

    assert "Airflow's configuration cannot be read" in done.stderr


@pytest.mark.parametrize(("no_color", "has_colour"), [(None, True), ("1", False)])
def test_colours_are_for_terminals(
    file: tuple[str, str], monkeypatch: pytest.MonkeyPatch, no_color: str | None, has_colour: bool
) -> None:
    """``NO_COLOR`` turns them off."""
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
