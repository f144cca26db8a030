"""What Airflow's sites stand on: one world with a Docker engine, and AWS and its registries in it."""

from __future__ import annotations

import io
import tarfile
from contextlib import ExitStack
from shutil import which
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.requirements import give_up
from tests.sites.world import ADDRESS, PATH, World, missing
from tests.stand_ins.aws import AwsStandIn
from tests.stand_ins.registry import RegistryStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

REGISTRIES = {
    "123456789012.dkr.ecr.us-east-1.amazonaws.com": 5000,
    "123456789012.dkr.ecr.eu-central-1.amazonaws.com": 5001,
}
TOKEN_LIFE_SECONDS = 30.0


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose Docker engine trusts the registries' certificates."""
    if reason := missing():
        give_up(reason)
    with World.running(tmp_path_factory.mktemp("world"), REGISTRIES) as world:
        world.start(
            "dockerd",
            "dockerd",
            "--bridge=none",
            "--iptables=false",
            "--data-root=/run/docker-data",
            "--storage-driver=vfs",  # works on every file system
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{world.control_group}",
        )
        world.wait("the Docker engine", (world.root / "run/docker.sock").exists)
        yield world


@pytest.fixture(scope="session")
def aws(world: World) -> Iterator[AwsStandIn]:
    """AWS in the world's network, giving tokens with short lives."""
    with ExitStack() as stack:
        yield world.inside(lambda: stack.enter_context(AwsStandIn.running(token_life=TOKEN_LIFE_SECONDS)))


@pytest.fixture(scope="session")
def registries(world: World, aws: AwsStandIn) -> Iterator[RegistryStandIn]:
    """ECR's registries, each with an image `app:1` that greets from its host."""
    authority = trustme.CA()
    for host, port in REGISTRIES.items():
        trusted = world.root / "etc/docker/certs.d" / host
        trusted.mkdir(parents=True)
        authority.cert_pem.write_to_path(trusted / "ca.crt")
        start_registry(world, host, port)
        seed(world, host, port)
    certificate = authority.issue_cert(*REGISTRIES)
    log = world.folder / "registries.jsonl"
    with ExitStack() as stack:
        running = RegistryStandIn.running(ADDRESS, REGISTRIES, certificate, aws, log)
        yield world.inside(lambda: stack.enter_context(running))


def start_registry(world: World, host: str, port: int) -> None:
    """Start a registry that is open to all who reach its loopback port."""
    configuration = world.folder / f"{host}.yml"
    configuration.write_text(
        f"version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {world.folder / host}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    world.start(f"registry-{port}", "docker-registry", "serve", configuration)
    world.wait(f"the registry for {host}", lambda: world.ask(port, "/v2/") == {})


def seed(world: World, host: str, port: int) -> None:
    """Push an image of two megabytes, all of them this registry's own, past the door that asks for a token."""
    archive = world.folder / f"{host}.tar"
    with tarfile.open(archive, "w") as image:
        image.add(str(which("busybox", path=PATH)), "bin/cat")
        greeting = f"hello from {host}".encode()
        entry = tarfile.TarInfo("greeting")
        entry.size = len(greeting)
        image.addfile(entry, io.BytesIO(greeting))
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        image.addfile(temporary)
    name = f"127.0.0.1:{port}/app:1"
    world.run("docker", "import", archive, name)
    world.run("docker", "push", name)
    world.run("docker", "image", "rm", name)
