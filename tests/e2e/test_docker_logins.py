"""Docker's clients pull with the logins that the commands provide, without Airflow."""

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
    import subprocess
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
    The place of the command and of Docker's client.

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

    def docker_config(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        command = ("ecr-secrets-backend", "docker-config", "--backend-kwargs", self.kwargs)
        return self.world.run(*command, *(options or ("--config", self.docker)), environment=self.environment)


@pytest.fixture
def site(world: World, aws: AwsStandIn, tmp_path: Path) -> Site:
    world.inside(aws.reset)
    connections = {"docker_default": US_HOST, "docker_eu": EU_HOST}
    kwargs = tmp_path / "kwargs.json"
    kwargs.write_text(json.dumps({"connections": connections, "cache_dir": str(tmp_path / "cache")}))
    return Site(world, aws.environment(), tmp_path / "docker", kwargs)


def test_a_plain_pull_needs_docker_config(site: Site) -> None:
    """It succeeds from each registry after the command, and fails before."""
    with pytest.raises(AssertionError, match="no basic auth credentials"):
        site.pull(US_HOST)

    site.docker_config()

    for host in REGISTRIES:
        site.pull(host)


@pytest.mark.timeout(120)
def test_pulls_succeed_while_docker_config_watches(site: Site, aws: AwsStandIn) -> None:
    """For two lifetimes of a token."""
    watch = ("docker-config", "docker_eu", "--watch", "--config", site.docker, "--backend-kwargs", site.kwargs)
    with site.world.serving("watch", "ecr-secrets-backend", *watch, environment=site.environment):
        site.world.wait("the login", (site.docker / "config.json").exists)
        for _ in range(2):
            before = len(site.world.inside(aws.calls))
            site.pull(EU_HOST)
            site.world.wait("a renewal", partial(has_been_called, site.world, aws, before))
        site.pull(EU_HOST)


def has_been_called(world: World, aws: AwsStandIn, times: int) -> bool:
    return len(world.inside(aws.calls)) > times


#: A program that pulls with docker-py, as DockerOperator does.
DOCKER_PY = "import docker, sys; docker.from_env().images.pull(sys.argv[1], tag='1')"
HELPERS = {
    "of-all": 'echo \'{"Username": "AWS", "Secret": "old"}\'',
    "without-logins": "echo credentials not found in native keychain; exit 1",
}


@pytest.mark.parametrize("client", ["docker", "docker-py"])
@pytest.mark.parametrize(
    ("content", "pulling"),
    [
        pytest.param({"auths": None}, {"docker", "docker-py"}, id="null"),
        pytest.param(
            {"auths": {f"https://{US_HOST}/v2/": {"auth": "QVdTOm9sZA=="}}}, {"docker", "docker-py"}, id="old name"
        ),
        pytest.param({"credsStore": "of-all"}, set(), id="store"),
        pytest.param({"credsStore": "of-all", "credHelpers": {US_HOST: ""}}, {"docker"}, id="store, host exempt"),
        pytest.param({"credsStore": "without-logins"}, {"docker-py"}, id="store without logins"),
        pytest.param(
            {"credsStore": "without-logins", "credHelpers": {US_HOST: ""}},
            {"docker", "docker-py"},
            id="store without logins, host exempt",
        ),
    ],
)
def test_the_command_warns_where_a_client_may_use_another_login(
    site: Site, tmp_path: Path, content: dict[str, Any], pulling: set[str], client: str
) -> None:
    """Each client is tried with a file that other programs have written."""
    site.docker.mkdir()
    (site.docker / "config.json").write_text(json.dumps(content))
    for name, script in HELPERS.items():
        program = tmp_path / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
        program.chmod(0o755)
    written = site.docker_config()
    image = f"{US_HOST}/app"
    pull = ("docker", "pull", f"{image}:1") if client == "docker" else ("python", "-c", DOCKER_PY, image)
    environment = {"PATH": f"{tmp_path}:{site.world.environment['PATH']}", "DOCKER_CONFIG": str(site.docker)}
    site.world.run(*pull, environment=environment, exit_code=0 if client in pulling else 1)
    if client in pulling:
        site.world.run("docker", "image", "rm", f"{image}:1")

    assert ("WARNING credsStore" in written.stderr) == ("credsStore" in content)
    assert ("docker-py uses" in written.stderr) == ("credHelpers" in content)


def test_podman_pulls_with_the_output_of_docker_config(site: Site, tmp_path: Path) -> None:
    """The output is an auth.json, which also has the format of a Kubernetes secret for pulls."""
    if which("podman", path=PATH) is None:
        skip_or_fail("not installed: podman")
    login = tmp_path / "auth.json"
    login.write_text(site.docker_config("--stdout").stdout)
    storage = (f"--root={tmp_path}/storage", "--runroot=/run/podman-logins", "--storage-driver=vfs")
    podman = ("podman", *storage, "--cgroup-manager=cgroupfs", "--events-backend=file")
    with pytest.raises(AssertionError, match="unauthorized"):
        site.world.run(*podman, "pull", f"{US_HOST}/app:1")

    for host in REGISTRIES:
        site.world.run(*podman, "pull", "--authfile", login, f"{host}/app:1")
        assert f"{host}/app" in site.world.run(*podman, "image", "ls").stdout


def test_docker_config_logs_in_to_a_registry_under_another_name(site: Site, proxy: RegistryStandIn) -> None:
    """Docker looks the login up by the name with its port."""
    site.kwargs.write_text(json.dumps({"connections": {"docker_proxy": PROXIED}, "cache": "process"}))

    site.docker_config()

    site.pull(PROXY)
    assert proxy.requests()[-1].verdict == "served"


#: A program that pulls with an operator and the connection from Airflow.
OPERATOR = """
from airflow.providers.docker.operators.docker import DockerOperator
import sys
image = sys.argv[1]
options = {"network_mode": "none", "mount_tmp_dir": False, "auto_remove": "success"}
print(DockerOperator(task_id="greet", image=image, docker_conn_id="docker_proxy", **options).execute({}))
"""


def test_docker_operator_pulls_from_a_registry_under_another_name(site: Site, proxy: RegistryStandIn) -> None:
    """The unchanged operator sends the login to a real engine under the name in the image."""
    environment = {
        **site.environment,
        "AIRFLOW_HOME": str(site.kwargs.parent),
        "AIRFLOW__SECRETS__BACKEND": "ecr_secrets_backend.EcrSecretsBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections": {"docker_proxy": PROXIED}, "cache": "process"}),
        "DOCKER_CONFIG": str(site.docker),
    }

    done = site.world.run("python", "-c", OPERATOR, f"{PROXY}/app:1", environment=environment)

    assert f"hello from {US_HOST}" in done.stdout
    assert proxy.requests()[-1].verdict == "served"
    site.world.run("docker", "image", "rm", f"{PROXY}/app:1")


def test_token_feeds_docker_login(site: Site) -> None:
    """Through standard input, as in the help."""
    token = f"ecr-secrets-backend token docker_default --backend-kwargs {site.kwargs}"
    login = f"docker --config {site.docker} login --username AWS --password-stdin {US_HOST}"

    site.world.run("sh", "-c", f"{token} | {login}", environment=site.environment)

    site.pull(US_HOST)
