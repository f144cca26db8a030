"""The example for docker compose: read by docker compose, and each of its services put through a real Airflow.

The image is not built and no container is started here: neither Airflow's image nor PostgreSQL's can be had.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]
from airflow import configuration
from airflow.cli.cli_parser import get_parser

from ecr_secrets_backend import EcrSecretsBackend
from tests.requirements import give_up

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "examples/compose"
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
AIRFLOW_SERVICES = ["api-server", "dag-processor", "migration", "scheduler", "triggerer"]
ENV_FILE = dict(re.findall(r"(?m)^(\w+)=(.*)$", (FOLDER / "env.example").read_text()))
FILLED_IN = {name: value or f"a-{name.lower()}" for name, value in ENV_FILE.items()} | {"DOCKER_GID": "998"}


def compose(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Have docker compose read the file, and print what it understands."""
    plugin = (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False) if which("docker") else None
    )
    command = ["docker", "compose"] if plugin and plugin.returncode == 0 else ["docker-compose"]
    if not which(command[0]):
        give_up("docker compose is not installed")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **variables}
    file = str(FOLDER / "compose.yaml")
    return subprocess.run(
        [*command, "--file", file, "config"], capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    done = compose(FILLED_IN)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return found


@pytest.fixture(params=AIRFLOW_SERVICES)
def service(services: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = services[request.param]
    return found


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Tell what a service has mounted where, in either of compose's forms."""
    pairs = [
        (each["target"], each["source"]) if isinstance(each, dict) else tuple(each.split(":")[1::-1])
        for each in service["volumes"]
    ]
    return dict(pairs)


def test_all_of_airflow_is_there(services: dict[str, Any]) -> None:
    """And its database."""
    assert sorted(services) == sorted([*AIRFLOW_SERVICES, "postgres"])


def test_the_backend_of_each_service_serves_the_registry(
    service: dict[str, Any], aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a live token, and by the cache in the volume that all of them share."""
    kwargs = json.loads(service["environment"]["AIRFLOW__SECRETS__BACKEND_KWARGS"])
    assert mounts(service)[kwargs["cache_dir"]].endswith("ecr-tokens")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", service["environment"]["AIRFLOW__SECRETS__BACKEND"])
    here = json.dumps({**kwargs, "cache_dir": str(tmp_path)})  # this machine has no such volume
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", here)

    backend = configuration.get_custom_secret_backend()

    assert isinstance(backend, EcrSecretsBackend)
    served = backend.get_connection("docker_default")
    assert served is not None
    assert (served.host, served.login) == (REGISTRY, "AWS")
    assert aws.authorise("AWS", str(served.password), region="us-east-1").alive


def test_the_keys_of_the_env_file_reach_each_service(service: dict[str, Any]) -> None:
    """By the names that boto3 reads."""
    assert service["environment"]["AWS_ACCESS_KEY_ID"] == FILLED_IN["AWS_ACCESS_KEY_ID"]
    assert service["environment"]["AWS_SECRET_ACCESS_KEY"] == FILLED_IN["AWS_SECRET_ACCESS_KEY"]


def test_airflow_knows_each_option(service: dict[str, Any]) -> None:
    """That a variable sets."""
    known = configuration.conf.configuration_description
    options = [name.lower().split("__")[1:] for name in service["environment"] if name.startswith("AIRFLOW__")]

    assert len(options) > 5
    assert [(section, option) for section, option in options if option not in known[section]["options"]] == []


def test_airflow_knows_each_command(service: dict[str, Any]) -> None:
    """By its own parser, to which the image's entry point hands it."""
    command = service["command"]

    assert get_parser().parse_args(shlex.split(command) if isinstance(command, str) else command).func


def test_only_the_scheduler_has_docker_s_socket(services: dict[str, Any]) -> None:
    """That is where tasks run, and by the group that may use it."""
    have = [name for name, service in services.items() if "/var/run/docker.sock" in mounts(service)]

    assert have == ["scheduler"]
    assert services["scheduler"]["group_add"] == [FILLED_IN["DOCKER_GID"]]


@pytest.mark.parametrize("missing", [name for name, value in ENV_FILE.items() if not value and "AWS" not in name])
def test_a_secret_that_is_not_filled_in_is_told(missing: str) -> None:
    """Before anything starts, with the file that tells what to fill in."""
    done = compose({**FILLED_IN, missing: ""})

    assert done.returncode != 0
    assert "See env.example" in done.stderr


def test_the_env_file_names_all_variables() -> None:
    """And none that the compose file does not use."""
    used = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))

    assert used == ENV_FILE.keys()


def test_the_image_is_of_an_airflow_that_is_supported() -> None:
    """It has constraints of its own."""
    (airflow,) = re.findall(r"(?m)^FROM apache/airflow:(.+)$", (FOLDER / "Dockerfile").read_text())

    assert (PROJECT / f"constraints/airflow-{airflow}.txt").exists()
