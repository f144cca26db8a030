"""The example for docker compose: docker compose reads it, and its services run without containers.

The images of Airflow and PostgreSQL need the network. So each service's command runs as a process, with the service's
variables, and reaches the others by the names that compose uses.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]
from airflow import configuration

from tests.deployments.conftest import PROJECT, call_postgresql
from tests.requirements import need_programs
from tests.sites.fixtures import REGISTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from examples.demo.airflow_site import AirflowSite
    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

FOLDER = PROJECT / "examples/compose"
ENV_FILE = dict(re.findall(r"(?m)^(\w+)=(.*)$", (FOLDER / "env.example").read_text()))
FILLED_IN = {
    **{name: value or "0123456789abcdef" for name, value in ENV_FILE.items()},
    "AIRFLOW_FERNET_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "DOCKER_GID": "998",
}
CACHE_DIR = "/run/ecr-tokens"
HOST, *_ = REGISTRIES


def compose(**variables: str) -> subprocess.CompletedProcess[str]:
    """Run `docker-compose config` with the env file filled in, and these variables."""
    need_programs("docker-compose")
    return subprocess.run(
        ["docker-compose", f"--file={FOLDER / 'compose.yaml'}", "config"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **FILLED_IN, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@cache
def read(**variables: str) -> dict[str, Any]:
    """Return Airflow's services as docker compose reads them: all but the database."""
    services: dict[str, Any] = yaml.safe_load(compose(**variables).stdout)["services"]
    return {name: service for name, service in services.items() if name != "postgres"}


def command_of(service: dict[str, Any]) -> str:
    """Return a service's command, which is a list from docker compose 2 on."""
    command = service["command"]
    return command if isinstance(command, str) else " ".join(command)


def mounting(path: str) -> list[str]:
    """Return the services that mount a path, in either of docker compose's forms."""
    volumes = {name: service["volumes"] for name, service in read().items()}
    return [name for name, each in volumes.items() if f":{path}:" in str(each) or f"'target': '{path}'" in str(each)]


@pytest.fixture(scope="module")
def airflow(world: World, cloud: AwsStandIn, registries: RegistryStandIn, postgresql: None) -> Iterator[AirflowSite]:
    """Run an Airflow of these services; of their containers, only the names and the volume of tokens exist."""
    del registries, postgresql  # they have the image and the database
    services = read(AWS_ACCESS_KEY_ID=cloud.access_key_id, AWS_SECRET_ACCESS_KEY=cloud.secret_access_key)
    migration = services["migration"]
    others = [service for service in services.values() if service is not migration]
    with (world.folder / "hosts").open("a") as hosts:
        hosts.write("127.0.0.1 api-server postgres\n")
    call_postgresql(world, "createdb", "airflow")
    world.run("install", "--directory", "--mode=1777", CACHE_DIR)
    here = {"AIRFLOW__API__PORT": "8080", "AWS_ENDPOINT_URL": cloud.url}
    with world.airflow("compose", PROJECT / "examples/dags", {**migration["environment"], **here}) as site:
        site.run(command_of(migration))
        for service in others:
            site.start(command_of(service), environment={**service["environment"], **here})
        yield site


@pytest.mark.timeout(180)
def test_a_task_of_these_services_pulls(world: World, cloud: AwsStandIn, airflow: AirflowSite) -> None:
    """The keys of the env file cost one AWS call, and the token is in the shared volume."""
    world.run("docker", "image", "rm", "--force", f"{HOST}/app:1")  # so that all layers are pulled
    states = airflow.run_dag("docker_operator")

    assert states == {"greet": "success"}, airflow.tails()
    assert f"hello from {HOST}" in airflow.task_logs("greet")[-1].read_text()
    calls = world.inside(lambda: cloud.calls(operation="GetAuthorizationToken"))  # the DAG self_check has others
    assert [call.access_key_id for call in calls] == [cloud.access_key_id]
    assert list((world.root / CACHE_DIR[1:]).rglob("*.json"))


def test_all_services_share_one_backend_and_cache_folder() -> None:
    (kwargs,) = {service["environment"]["AIRFLOW__SECRETS__BACKEND_KWARGS"] for service in read().values()}

    assert json.loads(kwargs)["cache_dir"] == CACHE_DIR
    assert mounting(CACHE_DIR) == [*read()]


def test_airflow_has_each_option_that_a_variable_sets() -> None:
    known = configuration.conf.configuration_description
    names = {name for service in read().values() for name in service["environment"] if name.startswith("AIRFLOW__")}
    options = [name.lower().split("__")[1:] for name in sorted(names)]

    assert len(options) > 5
    assert [(section, option) for section, option in options if option not in known[section]["options"]] == []


def test_only_the_scheduler_has_docker_s_socket() -> None:
    """Tasks run there. Its group can use the socket."""
    assert mounting("/var/run/docker.sock") == ["scheduler"]
    assert read()["scheduler"]["group_add"] == [FILLED_IN["DOCKER_GID"]]


@pytest.mark.parametrize("missing", [name for name, value in ENV_FILE.items() if not value and "AWS" not in name])
def test_a_missing_secret_stops_docker_compose(missing: str) -> None:
    """The message names the file to fill in."""
    done = compose(**{missing: ""})

    assert done.returncode != 0
    assert "See env.example" in done.stderr


def test_the_env_file_names_all_variables() -> None:
    """It names no variable that the compose file does not use."""
    assert {*re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text())} == ENV_FILE.keys()


def test_the_image_has_a_supported_airflow() -> None:
    (airflow,) = re.findall(r"(?m)^FROM apache/airflow:(.+)$", (FOLDER / "Dockerfile").read_text())

    assert (PROJECT / f"constraints/airflow-{airflow}.txt").exists()
