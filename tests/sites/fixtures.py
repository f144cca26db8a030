"""One world with a Docker engine, the AWS stand-in and its registries, for the tests of sites."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.sites.images import write_image
from tests.sites.world import ADDRESS, World, missing
from tests.stand_ins.aws import AwsStandIn
from tests.stand_ins.registry import RegistryStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGISTRIES = {
    "123456789012.dkr.ecr.us-east-1.amazonaws.com": 5000,
    "123456789012.dkr.ecr.eu-central-1.amazonaws.com": 5001,
}
PARTNER_HOST = "210987654321.dkr.ecr.us-east-1.amazonaws.com"  # of another account
UPSTREAMS = {**REGISTRIES, PARTNER_HOST: 5002}
PROXY_HOST, PROXY_PORT = "ecr.example.com", 8443
PROXY = f"{PROXY_HOST}:{PROXY_PORT}"  # another name for the first registry, in the same region
GITLAB_HOST, GITLAB_PORT = "gitlab.example.com", 5050  # the default port of GitLab's registry
DEPLOY_TOKEN = "a-deploy-token-of-gitlab"
# The output of htpasswd -B, the only form that the registry reads.
DEPLOY_TOKEN_HASH = "$2b$05$eaah4KqYIO6OFhFjX48yJ.E8ILxEa2afxQDMaY//OqY7tc12oRzR."
ENGINE_URL = "tcp://127.0.0.1:2376"  # the engine also listens here, for clients with a certificate


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run a world with a Docker engine that trusts the registries' certificates."""
    if reason := missing():
        pytest.skip(reason)
    with World.running(tmp_path_factory.mktemp("world"), [*UPSTREAMS, PROXY_HOST, GITLAB_HOST]) as world:
        certificates = world.folder / "engine"
        write_certificates(certificates)
        world.start(
            "dockerd",
            "dockerd",
            "--bridge=none",
            "--iptables=false",
            "--data-root=/run/docker-data",
            "--storage-driver=vfs",  # works on every file system
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{world.control_group}",
            "--host=unix:///var/run/docker.sock",
            f"--host={ENGINE_URL}",
            "--tlsverify",
            f"--tlscacert={certificates / 'ca.pem'}",
            f"--tlscert={certificates / 'cert.pem'}",
            f"--tlskey={certificates / 'key.pem'}",
        )
        world.wait("the Docker engine", (world.root / "run/docker.sock").exists)
        yield world


@pytest.fixture(scope="session")
def aws(world: World) -> Iterator[AwsStandIn]:
    """Run AWS in the world's network."""
    with world.running_inside(AwsStandIn.running) as aws:
        yield aws


@pytest.fixture(scope="session")
def registries(world: World, aws: AwsStandIn) -> Iterator[RegistryStandIn]:
    """Run ECR's registries, each with an image `app:1` that prints the name of its host."""
    for host, port in UPSTREAMS.items():
        start_registry(world, host, f"{{addr: '127.0.0.1:{port}'}}")
        seed(world, host, f"127.0.0.1:{port}/app:1")
    certificate = trust(world, *UPSTREAMS).issue_cert(*UPSTREAMS)
    listen = partial(RegistryStandIn, ADDRESS, UPSTREAMS, certificate, aws)
    with world.running_inside(lambda: listen().running()) as registries:
        yield registries


@pytest.fixture(scope="session")
def proxy(world: World, aws: AwsStandIn, registries: RegistryStandIn) -> Iterator[RegistryStandIn]:
    """Run a proxy in front of an ECR registry, with its own name and port."""
    upstreams = {PROXY: registries.upstreams[next(iter(REGISTRIES))]}
    certificate = trust(world, PROXY).issue_cert(PROXY_HOST)
    listen = partial(RegistryStandIn, ADDRESS, upstreams, certificate, aws, PROXY_PORT)
    with world.running_inside(lambda: listen().running()) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def gitlab(world: World) -> str:
    """Run GitLab's registry, which accepts only its own login, with an image; return its `HOST:PORT`."""
    name = f"{GITLAB_HOST}:{GITLAB_PORT}"
    certificate, passwords = world.folder / "gitlab.pem", world.folder / "gitlab.htpasswd"
    trust(world, name).issue_cert(GITLAB_HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
    passwords.write_text(f"airflow:{DEPLOY_TOKEN_HASH}\n")
    tls = f"{{certificate: {certificate}, key: {certificate}}}"
    login = f"auth: {{htpasswd: {{realm: gitlab, path: {passwords}}}}}\n"
    start_registry(world, GITLAB_HOST, f"{{addr: '{ADDRESS}:{GITLAB_PORT}', tls: {tls}}}", login)
    docker = ("docker", "--config", world.folder / "gitlab-pusher")
    world.run(*docker, "login", "--username=airflow", f"--password={DEPLOY_TOKEN}", name)
    seed(world, GITLAB_HOST, f"{name}/group/project/app:1", docker)
    return name


def write_certificates(folder: Path) -> None:
    """Write a CA's certificate, and a certificate with its key for the engine and its clients, into a new folder."""
    folder.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", common_name="engine")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")


def trust(world: World, *names: str) -> trustme.CA:
    """Make the Docker engine trust a new CA for registries, and return it."""
    authority = trustme.CA()
    for name in names:
        trusted = world.root / "etc/docker/certs.d" / name
        trusted.mkdir(parents=True)
        authority.cert_pem.write_to_path(trusted / "ca.crt")
    return authority


def start_registry(world: World, name: str, http: str, login: str = "") -> None:
    """
    Start a registry, and wait until it listens.

    :param http: its section http
    :param login: its section auth; without it, every client is accepted
    """
    configuration, log = world.folder / f"{name}.yml", world.folder / f"registry-{name}.log"
    storage = f"storage: {{filesystem: {{rootdirectory: {world.folder / name}}}}}\n"
    configuration.write_text(f"version: 0.1\n{storage}http: {http}\n{login}")
    world.start(f"registry-{name}", "docker-registry", "serve", configuration)
    world.wait(f"the registry {name}", lambda: "listening on" in log.read_text())


def seed(world: World, host: str, name: str, docker: tuple[str | Path, ...] = ("docker",)) -> None:
    """Push an image of two megabytes, which prints the name of its host, and which no other registry has."""
    archive = world.folder / f"{host}.tar"
    write_image(archive, f"hello from {host}")
    push(world, archive, name, docker)


def push(world: World, archive: Path, name: str, docker: tuple[str | Path, ...] = ("docker",)) -> None:
    """
    Push an image, which prints its greeting, directly to the registry behind the token check.

    :param archive: its root
    :param docker: the command, with a login if the registry requires one
    """
    world.run("docker", "import", '--change=CMD ["cat", "/greeting"]', archive, name)
    world.run(*docker, "push", name)
    world.run("docker", "image", "rm", name)
