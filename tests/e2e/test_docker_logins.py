"""Docker's own client pulls by what the commands give it, without Airflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest

from tests.requirements import skip_or_fail
from tests.sites.fixtures import PROXY, REGISTRIES
from tests.sites.world import PATH

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
    """For two lifetimes of a token."""
    watch = ("docker-config", "docker_eu", "--watch", "--config", site.docker, "--backend-kwargs", site.kwargs)
    with site.world.serving("watch", "ecr-secrets-backend", *watch, environment=site.environment):
        site.world.wait("the login", (site.docker / "config.json").exists)
        for _ in range(2):
            before = len(site.world.inside(aws.calls))
            site.pull(EU_HOST)
            site.world.wait("a renewal", partial(has_been_called, site.world, aws, before))
        site.pull(EU_HOST)


#: A program that pulls as DockerOperator does, by docker-py.
DOCKER_PY = "import docker, sys; docker.from_env().images.pull(sys.argv[1], tag='1')"


@pytest.mark.parametrize("client", ["docker", "docker-py"])
@pytest.mark.parametrize(
    ("content", "pulling"),
    [
        ({"auths": None}, {"docker", "docker-py"}),
        ({"auths": {f"https://{US_HOST}/v2/": {"auth": "QVdTOm9sZA=="}}}, {"docker", "docker-py"}),
        ({"credsStore": "of-all"}, set()),
        ({"credsStore": "of-all", "credHelpers": {US_HOST: ""}}, {"docker"}),
        ({"credsStore": "without-logins"}, {"docker-py"}),
        ({"credsStore": "without-logins", "credHelpers": {US_HOST: ""}}, {"docker", "docker-py"}),
    ],
    ids=[
        "null",
        "an old name",
        "a store",
        "a store but for this host",
        "a store without",
        "such a store but for this host",
    ],
)
def test_which_client_uses_the_login_that_docker_config_writes(
    site: Site, tmp_path: Path, content: dict[str, Any], pulling: set[str], client: str
) -> None:
    """Beside what others have left in the file: the command warns where one of the clients may use another login."""
    site.docker.mkdir()
    (site.docker / "config.json").write_text(json.dumps(content))
    for name, answer in (
        ("of-all", 'echo \'{"Username": "AWS", "Secret": "old"}\''),
        ("without-logins", "echo credentials not found in native keychain; exit 1"),
    ):
        program = tmp_path / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\ncat > /dev/null\n{answer}\n")
        program.chmod(0o755)
    written = site.world.run(
        *("ecr-secrets-backend", "docker-config", "--config", site.docker, "--backend-kwargs", site.kwargs),
        environment=site.environment,
    )
    image = f"{US_HOST}/app"
    pull = ("docker", "pull", f"{image}:1") if client == "docker" else ("python", "-c", DOCKER_PY, image)
    environment = {"PATH": f"{tmp_path}:{site.world.environment['PATH']}", "DOCKER_CONFIG": str(site.docker)}
    site.world.run(*pull, environment=environment, exit_code=0 if client in pulling else 1)
    if client in pulling:
        site.world.run("docker", "image", "rm", f"{image}:1")

    assert ("WARNING credsStore" in written.stderr) == ("credsStore" in content)
    assert ("docker-py asks" in written.stderr) == ("credHelpers" in content)


def test_podman_pulls_by_what_docker_config_prints(site: Site, tmp_path: Path) -> None:
    """As its auth.json, which also has the form of a Kubernetes secret for pulls."""
    if which("podman", path=PATH) is None:
        skip_or_fail("not installed: podman")
    printed = site.world.run(
        *("ecr-secrets-backend", "docker-config", "--stdout", "--backend-kwargs", site.kwargs),
        environment=site.environment,
    )
    login = tmp_path / "auth.json"
    login.write_text(printed.stdout)
    storage = (f"--root={tmp_path}/storage", "--runroot=/run/podman-logins", "--storage-driver=vfs")
    podman = ("podman", *storage, "--cgroup-manager=cgroupfs", "--events-backend=file")
    with pytest.raises(AssertionError, match="unauthorized"):
        site.world.run(*podman, "pull", f"{US_HOST}/app:1")

    for host in REGISTRIES:
        site.world.run(*podman, "pull", "--authfile", login, f"{host}/app:1")
        assert f"{host}/app" in site.world.run(*podman, "image", "ls").stdout


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
    """By its standard input, as in the help."""
    token = f"ecr-secrets-backend token docker_default --backend-kwargs {site.kwargs}"
    login = f"docker --config {site.docker} login --username AWS --password-stdin {US_HOST}"

    site.world.run("sh", "-c", f"{token} | {login}", environment=site.environment)

    site.pull(US_HOST)
