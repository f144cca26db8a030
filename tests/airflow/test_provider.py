"""Airflow finds this package: its provider, its secrets backend, its plugin, and ``airflow ecr``."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

import jsonschema  # type: ignore[import-untyped]  # Airflow's own

from ecr_secrets_backend import __version__
from ecr_secrets_backend.provider_info import get_provider_info
from tests.airflow.conftest import execute
from tests.airflow_version import HAS_PROVIDER_COMMANDS

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

DISCOVERY = """
import json
from airflow import plugins_manager
from airflow.providers_manager import ProvidersManager
manager = ProvidersManager()
provider = manager.providers["airflow-ecr-secrets-backend"]
backends = list(manager.secrets_backend_class_names)
getattr(manager, "cli_command_functions", None)
plugins_manager.ensure_plugins_loaded()
plugins = [plugin["name"] for plugin in plugins_manager.get_plugin_info()]
print()
print(json.dumps([provider.version, provider.data, backends, plugins]))
"""


def test_the_provider_info_matches_airflow_s_schema() -> None:
    """It has no key that the schema does not have, except `cli`, which Airflow has from 3.2 on."""
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    unknown = set() if HAS_PROVIDER_COMMANDS else {"cli"}

    jsonschema.validate(get_provider_info(), schema)
    assert get_provider_info().keys() - schema["properties"].keys() == unknown


def test_airflow_loads_the_provider_its_backend_and_its_plugin(environment: dict[str, str]) -> None:
    """Airflow imports the classes and functions of all providers, and logs nothing about this one."""
    done = execute(environment, "-c", DISCOVERY)
    *lines, found = done.stdout.splitlines()
    version, info, backends, plugins = json.loads(found)

    assert (version, info) == (__version__, info | get_provider_info())
    assert "ecr_secrets_backend.EcrSecretsBackend" in backends
    assert plugins == ["ecr-secrets-backend"]
    assert [line for line in (*lines, *done.stderr.splitlines()) if "ecr_secrets_backend" in line] == []


def test_airflow_has_the_commands(environment: dict[str, str], aws: AwsStandIn) -> None:
    """From 3.2 on, `airflow ecr` has the same results and exit codes."""
    command = ("-m", "airflow", "ecr", "token")
    if not HAS_PROVIDER_COMMANDS:
        assert "invalid choice: 'ecr'" in execute(environment, *command, exit_code=2).stderr
        return
    token = execute(environment, *command, "docker_default").stdout.splitlines()[-1]
    wrong = execute(environment, *command, "docker_other", exit_code=2)

    assert aws.authorise("AWS", token).valid
    assert "'docker_other' is not mapped" in wrong.stderr
