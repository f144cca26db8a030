"""The wheel in a new environment, with Airflow and nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from tests.release.conftest import PROJECT, UV, Distributions, call
from tests.sites.page_site import PAGE, serve_page
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from pathlib import Path

AIRFLOW = version("apache-airflow")
AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"


@pytest.fixture(scope="session")
def bare(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create the environment, from uv's cache if possible, and return its folder of programs."""
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


def test_the_installed_packages_are_compatible(bare: Path) -> None:
    assert "All installed packages are compatible" in call(UV, "pip", "check", "--python", bare / "python")


@pytest.mark.timeout(180)
def test_the_page_is_served(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real API server builds the backend, and serves the page."""
    monkeypatch.setattr(sys, "executable", str(bare / "python"))
    options = {"PYTHONPATH": "", "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER}  # without the tests
    sections = {"secrets": {"connections": {"docker_default": {"region_name": "us-east-1"}}}}
    nowhere = AwsStandIn("http://127.0.0.1:9")  # the page calls no AWS
    with serve_page(tmp_path, nowhere, sections, options, {}) as site:
        with site.client() as client:
            assert client.get(PAGE).status_code == 200
        assert site.rows().keys() == {"docker_default"}
