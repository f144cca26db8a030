"""Airflow finds this package: its provider, its secrets backend, its plugin, and ``airflow ecr``."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]  # Airflow's own
import pytest

from ecr_secrets_backend import __version__
from ecr_secrets_backend.provider_info import get_provider_info
from tests.airflow.test_configured_backend import aws, environment, run
from tests.airflow_version import HAS_PROVIDER_COMMANDS

if TYPE_CHECKING:
    import subprocess

    from tests.stand_ins.aws import AwsStandIn

__all__ = ["aws", "environment"]  # the fixtures

PACKAGE = "airflow-ecr-secrets-backend"
DISCOVERY = """
from airflow.providers_manager import ProvidersManager
ProvidersManager().secrets_backend_class_names
getattr(ProvidersManager(), "cli_command_functions", None)
"""

PLUGINS = """
from airflow import plugins_manager
plugins_manager.ensure_plugins_loaded()
print("\\n", [plugin["name"] for plugin in plugins_manager.get_plugin_info()])
"""


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """Return the output of Airflow's three commands that list providers."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")), "PYTHONWARNINGS": "default"}
    commands = {"list": [], "secrets": [], "get": [PACKAGE, "--full"]}
    with ThreadPoolExecutor() as threads:
        running = {
            name: threads.submit(
                run, "-m", "airflow", "providers", name, *arguments, "--output=json", environment=environment
            )
            for name, arguments in commands.items()
        }
        return {name: each.result() for name, each in running.items()}


def test_the_provider_info_matches_airflow_s_schema() -> None:
    """It has no key that the schema does not have, except `cli`, which Airflow has from 3.2 on."""
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    provider_info = get_provider_info()
    unknown = set() if HAS_PROVIDER_COMMANDS else {"cli"}

    jsonschema.validate(provider_info, schema)
    assert provider_info.keys() - schema["properties"].keys() == unknown


def test_airflow_lists_the_provider(listings: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """`airflow providers list` shows its version and description."""
    (listed,) = [each for each in printed(listings["list"]) if each["package_name"] == PACKAGE]

    assert listed == {
        "package_name": PACKAGE,
        "description": "Serves Docker connections with live Amazon ECR tokens",
        "version": __version__,
    }


def test_airflow_lists_the_secrets_backend(listings: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """`airflow providers secrets` shows the name that configures it."""
    names = [each["secrets_backend_class_name"] for each in printed(listings["secrets"])]

    assert "ecr_secrets_backend.EcrSecretsBackend" in names


def test_airflow_shows_the_provider(listings: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """`airflow providers get` shows the provider info."""
    (shown,) = printed(listings["get"])
    info = {name: shown[name] for name in get_provider_info()}  # Airflow 3.3 adds a key of its own

    assert info == {**get_provider_info(), "description": "Serves Docker connections with live Amazon ECR tokens"}


def test_airflow_loads_the_provider_without_a_warning(environment: dict[str, str]) -> None:
    """Airflow imports the classes and functions of all providers, and logs nothing about this one."""
    done = run("-c", DISCOVERY, environment=environment)

    assert done.returncode == 0, done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "ecr_secrets_backend" in line]


def test_airflow_loads_the_plugin_without_a_warning(environment: dict[str, str]) -> None:
    done = run("-c", PLUGINS, environment=environment)

    assert done.stdout.splitlines()[-1] == " ['ecr-secrets-backend']", done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "ecr_secrets_backend" in line]


def printed(listing: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Read the JSON that a command printed after Airflow's own lines."""
    assert listing.returncode == 0, listing.stderr
    found: list[dict[str, Any]] = json.loads(listing.stdout[listing.stdout.index("[{") :])
    return found


@pytest.mark.timeout(120)
def test_airflow_has_the_commands(environment: dict[str, str], aws: AwsStandIn) -> None:
    """From 3.2 on, `airflow ecr` has the same results and exit codes."""
    for _ in range(2):
        done = run("-m", "airflow", "ecr", "token", "docker_default", environment=environment)
        if not HAS_PROVIDER_COMMANDS:
            assert "invalid choice: 'ecr'" in done.stderr
            return
        assert done.returncode == 0, done.stderr
        assert aws.authorise("AWS", done.stdout.splitlines()[-1]).valid
    assert len(aws.calls()) == 1

    status = run("-m", "airflow", "ecr", "status", "--output", "json", environment=environment).stdout
    assert json.loads(status[status.index("{\n") :])["tokens"][0]["connections"] == ["docker_default"]

    wrong = run("-m", "airflow", "ecr", "token", "docker_other", environment=environment)
    assert wrong.returncode == 2
    assert "'docker_other' is not mapped" in wrong.stderr
