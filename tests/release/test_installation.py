"""The wheel in a new environment, with nothing beside it but Airflow and what the two bring along."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

import ecr_secrets_backend
from tests.release.conftest import PROJECT, UV, Distributions

if TYPE_CHECKING:
    from pathlib import Path

AIRFLOW = version("apache-airflow")


@pytest.fixture(scope="session")
def bare(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the new environment's programs; uv's cache has all that goes in, or it is fetched."""
    environment = tmp_path_factory.mktemp("bare") / "venv"
    call(UV, "venv", "--python", sys.executable, environment)
    command = (
        *(UV, "pip", "install", "--python", environment / "bin/python"),
        *("--constraint", PROJECT / f"constraints/airflow-{AIRFLOW}.txt"),
        *(f"apache-airflow=={AIRFLOW}", distributions.wheel),
    )
    if subprocess.run([*command, "--offline"], capture_output=True, check=False).returncode != 0:
        call(*command)
    return environment / "bin"


def call(*command: str | Path) -> str:
    """Run a command, which has to be content, and give what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_all_that_is_installed_fits_together(bare: Path) -> None:
    """Each package has what it asks for, by its metadata."""
    assert "All installed packages are compatible" in call(UV, "pip", "check", "--python", bare / "python")


def test_the_command_is_there(bare: Path) -> None:
    """With its version."""
    assert call(bare / "ecr-secrets-backend", "--version").split()[-1] == ecr_secrets_backend.__version__


def test_the_backend_is_there(bare: Path, tmp_path: Path) -> None:
    """It is imported without a warning of the package's, and needs none of the test's libraries."""
    code = "import ecr_secrets_backend, sys; ecr_secrets_backend.EcrSecretsBackend(connections={'docker_default': {}})"
    said = call("env", f"AIRFLOW_HOME={tmp_path}", bare / "python", "-W", "always", "-c", code)

    assert "ecr_secrets_backend" not in said


def test_the_page_is_there(bare: Path, tmp_path: Path) -> None:
    """With its template, and with no library that Airflow does not bring."""
    code = "from ecr_secrets_backend.ui.app import app; print(app.title)"

    assert call("env", f"AIRFLOW_HOME={tmp_path}", bare / "python", "-c", code).splitlines()[-1] == "ECR connections"


def test_airflow_lists_it(bare: Path, tmp_path: Path) -> None:
    """As a provider, found by the wheel's entry point."""
    listed = call("env", f"AIRFLOW_HOME={tmp_path}", bare / "airflow", "providers", "list", "--output", "plain")

    assert f"airflow-ecr-secrets-backend {ecr_secrets_backend.__version__}" in " ".join(
        f"{words[0]} {words[-1]}" for line in listed.splitlines() if (words := line.split())
    )
