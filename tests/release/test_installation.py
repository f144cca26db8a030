"""The wheel in a new environment, with nothing beside it but Airflow and what the two bring along."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

import ecr_secrets_backend
from tests.release.conftest import PROJECT, UV, Distributions
from tests.sites.page_site import PAGE, serve_page
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from pathlib import Path

AIRFLOW = version("apache-airflow")
AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"


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


@pytest.mark.timeout(180)
def test_the_page_is_served(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a real API server, to those whom Airflow lets in, with its template and no library but Airflow's."""
    monkeypatch.setattr(sys, "executable", str(bare / "python"))
    options = {"PYTHONPATH": "", "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER}  # nothing of the tests
    sections = {"secrets": {"connections": {"docker_default": {"region_name": "us-east-1"}}}}
    nowhere = AwsStandIn("http://127.0.0.1:9")  # looking calls nothing
    with serve_page(tmp_path, nowhere, sections, options, {}) as site:
        statuses = []
        for user in (None, "viewer", "admin"):
            with site.client(user) as client:
                statuses.append(client.get(PAGE).status_code)
        assert statuses == [401, 403, 200]
        assert site.rows().keys() == {"docker_default"}


def test_airflow_lists_it(bare: Path, tmp_path: Path) -> None:
    """As a provider, found by the wheel's entry point."""
    listed = call("env", f"AIRFLOW_HOME={tmp_path}", bare / "airflow", "providers", "list", "--output", "plain")

    assert f"airflow-ecr-secrets-backend {ecr_secrets_backend.__version__}" in " ".join(
        f"{words[0]} {words[-1]}" for line in listed.splitlines() if (words := line.split())
    )
