"""What Airflow itself finds of this package: its provider, its secrets backend, and ``airflow ecr``."""

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
    """Airflow's three listings of providers, by the commands that people type, side by side."""
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


def test_the_provider_info_has_nothing_that_airflow_refuses_or_does_not_know() -> None:
    """By Airflow's own schema, which is read here as one that allows no further key; before 3.2 it knows no `cli`."""
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    provider_info = get_provider_info()
    unknown = set() if HAS_PROVIDER_COMMANDS else {"cli"}

    jsonschema.validate(provider_info, schema)
    assert provider_info.keys() - schema["properties"].keys() == unknown


def test_airflow_lists_the_provider(listings: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """`airflow providers list`: with its version, and what it is for."""
    (listed,) = [each for each in printed(listings["list"]) if each["package_name"] == PACKAGE]

    assert listed == {
        "package_name": PACKAGE,
        "description": "Serves Docker connections with live Amazon ECR tokens",
        "version": __version__,
    }


def test_airflow_lists_the_secrets_backend(listings: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """`airflow providers secrets`: by the name under which it is configured."""
    names = [each["secrets_backend_class_name"] for each in printed(listings["secrets"])]

    assert "ecr_secrets_backend.EcrSecretsBackend" in names


def test_airflow_shows_the_provider(listings: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """`airflow providers get`: all that it tells of itself."""
    (shown,) = printed(listings["get"])
    told = {name: shown[name] for name in get_provider_info()}  # Airflow 3.3 adds a key of its own

    assert told == {**get_provider_info(), "description": "Serves Docker connections with live Amazon ECR tokens"}


def test_airflow_has_nothing_to_say_against_the_provider(environment: dict[str, str]) -> None:
    """No line that it writes as it finds and imports what all providers name, which its own commands would hide."""
    done = run("-c", DISCOVERY, environment=environment)

    assert done.returncode == 0, done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "ecr_secrets_backend" in line]


def test_airflow_loads_the_plugin_and_has_nothing_to_say_against_it(environment: dict[str, str]) -> None:
    """Whether it can show the page or not."""
    done = run("-c", PLUGINS, environment=environment)

    assert done.stdout.splitlines()[-1] == " ['ecr-secrets-backend']", done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "ecr_secrets_backend" in line]


def printed(listing: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Read what a command has printed, after what else Airflow writes there."""
    assert listing.returncode == 0, listing.stderr
    found: list[dict[str, Any]] = json.loads(listing.stdout[listing.stdout.index("[{") :])
    return found


@pytest.mark.timeout(120)
def test_airflow_offers_the_commands(environment: dict[str, str], aws: AwsStandIn) -> None:
    """From 3.2 on, with their results and exit codes; before, Airflow knows no such command."""
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
