"""Docker's own client pulls by what the commands give it, without Airflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.sites.fixtures import PROXY, REGISTRIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

US_HOST, EU_HOST = REGISTRIES
PROXIED = {"registry": PROXY, "region_name": "us-east-1"}

pytestmark = pytest.mark.usefixtures("registries")


@dataclass(frozen=True)
class Site:
    """
    Where the command and Docker's client are run.

    :param docker: the folder of Docker's configuration
    :param kwargs: the backend's kwargs, as a file
    """

    world: World
    environment: Mapping[str, str]
    docker: Path
    kwargs: Path

    def pull(self, host: str) -> None:
        """Pull, and leave no image behind."""
        self.world.run("docker", "--config", self.docker, "pull", f"{host}/app:1")
        self.world.run("docker", "image", "rm", f"{host}/app:1")


@pytest.fixture
def site(world: World, aws: AwsStandIn, tmp_path: Path) -> Site:
    world.inside(aws.reset)
    connections = {"docker_default": US_HOST, "docker_eu": EU_HOST}
    kwargs = tmp_path / "kwargs.json"
    kwargs.write_text(json.dumps({"connections": connections, "cache_dir": str(tmp_path / "cache")}))
    return Site(world, aws.environment(), tmp_path / "docker", kwargs)


def test_after_docker_config_a_plain_pull_succeeds(site: Site) -> None:
    """From each registry, and without it from none."""
    with pytest.raises(AssertionError, match="no basic auth credentials"):
        site.pull(US_HOST)

    site.world.run(
        *("ecr-secrets-backend", "docker-config", "--config", site.docker, "--backend-kwargs", site.kwargs),
        environment=site.environment,
    )

    site.pull(US_HOST)
    site.pull(EU_HOST)


@pytest.mark.timeout(120)
def test_while_docker_config_watches_pulls_succeed_for_ever(site: Site, aws: AwsStandIn) -> None:
    """For two lives of a token; afterwards Docker is on its own."""
    watch = ("docker-config", "docker_eu", "--watch", "--config", site.docker, "--backend-kwargs", site.kwargs)
    with site.world.serving("watch", "ecr-secrets-backend", *watch, environment=site.environment):
        site.world.wait("the login", (site.docker / "config.json").exists)
        for _ in range(2):
            before = len(site.world.inside(aws.calls))
            site.pull(EU_HOST)
            site.world.wait("a renewal", partial(has_been_called, site.world, aws, before))
        site.pull(EU_HOST)


def test_docker_config_logs_in_to_a_registry_under_another_name(site: Site, proxy: RegistryStandIn) -> None:
    """With its port, which is a part of the name that Docker looks a login up by."""
    site.kwargs.write_text(json.dumps({"connections": {"docker_proxy": PROXIED}, "cache": "process"}))

    site.world.run(
        *("ecr-secrets-backend", "docker-config", "--config", site.docker, "--backend-kwargs", site.kwargs),
        environment=site.environment,
    )

    site.pull(PROXY)
    assert proxy.requests()[-1].verdict == "served"


#: A program that pulls by an operator, with the connection that Airflow finds.
OPERATOR = """
from airflow.providers.docker.operators.docker import DockerOperator
import sys
operator = DockerOperator(
    task_id="greet",
    image=sys.argv[1],
    docker_conn_id="docker_proxy",
    network_mode="none",
    mount_tmp_dir=False,
    auto_remove="success",
)
print(operator.execute({}))
"""


def test_docker_operator_pulls_from_a_registry_under_another_name(
    world: World, aws: AwsStandIn, proxy: RegistryStandIn, tmp_path: Path
) -> None:
    """An unchanged operator and a real engine: the login is sent under the name that the image has."""
    world.inside(aws.reset)
    kwargs = {"connections": {"docker_proxy": PROXIED}, "cache_dir": str(tmp_path / "cache")}
    environment = {
        **aws.environment(),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__SECRETS__BACKEND": "ecr_secrets_backend.EcrSecretsBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
    }
    program = ("python", "-c", OPERATOR, f"{PROXY}/app:1")

    done = world.run(*program, environment={**environment, "DOCKER_CONFIG": str(tmp_path)})

    assert f"hello from {US_HOST}" in done.stdout
    assert proxy.requests()[-1].verdict == "served"
    world.run("docker", "image", "rm", f"{PROXY}/app:1")


def has_been_called(world: World, aws: AwsStandIn, times: int) -> bool:
    return len(world.inside(aws.calls)) > times


def test_token_feeds_docker_login(site: Site) -> None:
    """By its standard input, as the help says."""
    token = f"ecr-secrets-backend token docker_default --backend-kwargs {site.kwargs}"
    login = f"docker --config {site.docker} login --username AWS --password-stdin {US_HOST}"

    site.world.run("sh", "-c", f"{token} | {login}", environment=site.environment)

    site.pull(US_HOST)
