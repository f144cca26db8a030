"""Docker's clients pull with the logins that the commands provide, from registries as strict as ECR."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import EU_HOST, US_HOST, Site
from tests.requirements import need_programs
from tests.sites.fixtures import PROXY, REGISTRIES
from tests.stand_ins.registry import EXPIRED_MESSAGE

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

PROXIED = {"docker_proxy": {"registry": PROXY, "region_name": "us-east-1"}}


@pytest.fixture(autouse=True)
def _two_connections(site: Site) -> None:
    site.kwargs["connections"] = {"docker_default": US_HOST, "docker_eu": EU_HOST}


def test_a_plain_pull_needs_docker_config(site: Site) -> None:
    """It succeeds from each registry after the command, and fails before."""
    with pytest.raises(AssertionError, match="no basic auth credentials"):
        site.pull(US_HOST)

    site.run(*site.command("docker-config"))

    for host in REGISTRIES:
        site.pull(host)


#: A program that requests a token of the first region.
REQUEST = """
import boto3
print(boto3.client("ecr", "us-east-1").get_authorization_token()["authorizationData"][0]["authorizationToken"])
"""


@pytest.mark.parametrize(
    ("host", "lifetime", "message", "verdict"),
    [(EU_HOST, 3600, "unauthorized: Not Authorized", "unknown"), (US_HOST, -1, EXPIRED_MESSAGE, "expired")],
    ids=["another region", "expired"],
)
def test_a_registry_refuses_all_but_the_valid_tokens_of_its_region(
    site: Site, aws: AwsStandIn, registries: RegistryStandIn, host: str, lifetime: float, message: str, verdict: str
) -> None:
    """The message for an expired token is ECR's."""
    site.world.inside(lambda: aws.set(token_lifetime=lifetime))
    auth = site.run("python", "-c", REQUEST).stdout.strip()
    (site.docker / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))

    with pytest.raises(AssertionError, match=message):
        site.pull(host)

    assert registries.requests()[-1].verdict == verdict


#: A program that pulls with docker-py, as DockerOperator does.
DOCKER_PY = "import docker, sys; docker.from_env().images.pull(sys.argv[1], tag='1')"
CLIENTS = {"docker": ("docker", "pull", f"{US_HOST}/app:1"), "docker-py": ("python", "-c", DOCKER_PY, f"{US_HOST}/app")}
HELPERS = {
    "of-all": 'echo \'{"Username": "AWS", "Secret": "old"}\'',
    "without-logins": "echo credentials not found in native keychain; exit 1",
}


BOTH = {"docker", "docker-py"}
#: A file that other programs have written, and the clients that pull with the command's login.
FILES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "null": ({"auths": None}, BOTH),
    "old name": ({"auths": {f"https://{US_HOST}/v2/": {"auth": "QVdTOm9sZA=="}}}, BOTH),
    "store": ({"credsStore": "of-all"}, set()),
    "store, host exempt": ({"credsStore": "of-all", "credHelpers": {US_HOST: ""}}, {"docker"}),
    "store without logins": ({"credsStore": "without-logins"}, {"docker-py"}),
    "store without logins, host exempt": ({"credsStore": "without-logins", "credHelpers": {US_HOST: ""}}, BOTH),
}


@pytest.mark.parametrize(("content", "pulling"), FILES.values(), ids=FILES)
def test_the_command_warns_where_a_client_may_use_another_login(
    site: Site, content: dict[str, Any], pulling: set[str]
) -> None:
    (site.docker / "config.json").write_text(json.dumps(content))
    for name, script in HELPERS.items():
        program = site.folder / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
        program.chmod(0o755)
    site.environment["PATH"] = f"{site.folder}:{site.world.environment['PATH']}"
    written = site.run(*site.command("docker-config"))
    for client, pull in CLIENTS.items():
        site.run(*pull, exit_code=0 if client in pulling else 1)
        if client in pulling:
            site.run("docker", "image", "rm", f"{US_HOST}/app:1")

    assert ("WARNING credsStore" in written.stderr) == ("credsStore" in content)
    assert ("docker-py uses" in written.stderr) == ("credHelpers" in content)


def test_podman_pulls_with_the_output_of_docker_config(site: Site) -> None:
    """The output is an auth.json, which also has the format of a Kubernetes secret for pulls."""
    need_programs("podman")
    login = site.folder / "auth.json"
    login.write_text(site.run(*site.command("docker-config", "--stdout")).stdout)
    del site.environment["DOCKER_CONFIG"]  # podman also reads it
    storage = (f"--root={site.folder}/storage", "--runroot=/run/podman-logins", "--storage-driver=vfs")
    podman = ("podman", *storage, "--cgroup-manager=cgroupfs", "--events-backend=file")
    with pytest.raises(AssertionError, match="unauthorized"):
        site.run(*podman, "pull", f"{US_HOST}/app:1")

    for host in REGISTRIES:
        site.run(*podman, "pull", "--authfile", login, f"{host}/app:1")
        assert f"{host}/app" in site.run(*podman, "image", "ls").stdout


def test_docker_config_logs_in_to_a_registry_under_another_name(site: Site, proxy: RegistryStandIn) -> None:
    """Docker looks the login up by the name with its port."""
    site.kwargs["connections"] = PROXIED

    site.run(*site.command("docker-config"))

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
    site.environment["AIRFLOW__SECRETS__BACKEND"] = "ecr_secrets_backend.EcrSecretsBackend"
    site.environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = json.dumps({**site.kwargs, "connections": PROXIED})

    done = site.run("python", "-c", OPERATOR, f"{PROXY}/app:1")

    assert f"hello from {US_HOST}" in done.stdout
    assert proxy.requests()[-1].verdict == "served"
    site.run("docker", "image", "rm", f"{PROXY}/app:1")


def test_token_feeds_docker_login(site: Site) -> None:
    """Through standard input, as in the help."""
    token = " ".join(site.command("token", "docker_default"))

    site.run("sh", "-c", f"{token} | docker login --username AWS --password-stdin {US_HOST}")

    site.pull(US_HOST)
