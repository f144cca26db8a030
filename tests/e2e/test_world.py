"""The base of the end-to-end tests: registries as strict as ECR, and a world that leaves nothing behind."""

from __future__ import annotations

import base64
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sites.fixtures import REGISTRIES, TOKEN_LIFETIME_SECONDS
from tests.sites.world import World
from tests.stand_ins.registry import EXPIRED_MESSAGE

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

US_HOST, EU_HOST = REGISTRIES
REQUEST = """
import boto3, sys
print(boto3.client("ecr", sys.argv[1]).get_authorization_token()["authorizationData"][0]["authorizationToken"])
"""

pytestmark = pytest.mark.usefixtures("registries")


@pytest.fixture
def docker(tmp_path: Path) -> tuple[str, ...]:
    """Return the Docker command with an empty configuration."""
    return ("docker", "--config", str(tmp_path))


def request_token(world: World, aws: AwsStandIn, region: str) -> str:
    token = world.run(sys.executable, "-c", REQUEST, region, environment=aws.environment()).stdout
    return base64.b64decode(token).decode().removeprefix("AWS:")


def test_a_valid_token_opens_its_registry(world: World, aws: AwsStandIn, docker: tuple[str, ...]) -> None:
    """Docker logs in with it and pulls the image."""
    world.run(*docker, "login", "--username=AWS", f"--password={request_token(world, aws, 'eu-central-1')}", EU_HOST)
    world.run(*docker, "pull", f"{EU_HOST}/app:1")
    greeting = world.run(*docker, "run", "--rm", "--network=none", f"{EU_HOST}/app:1", "cat", "/greeting").stdout
    world.run(*docker, "image", "rm", f"{EU_HOST}/app:1")
    assert greeting == f"hello from {EU_HOST}"


def test_without_a_login_nothing_is_pulled(world: World, registries: RegistryStandIn, docker: tuple[str, ...]) -> None:
    """The registry requires a login, and Docker has none."""
    before = len(registries.requests())
    with pytest.raises(AssertionError, match="no basic auth credentials"):
        world.run(*docker, "pull", f"{EU_HOST}/app:1")
    assert {request.verdict for request in registries.requests()[before:]} == {"challenged"}


@pytest.mark.parametrize("region", ["us-east-1", None])
def test_a_token_of_another_region_is_refused(
    region: str | None, world: World, aws: AwsStandIn, registries: RegistryStandIn, docker: tuple[str, ...]
) -> None:
    """The same is true of a password that is not a token."""
    password = request_token(world, aws, region) if region else "made-up"
    with pytest.raises(AssertionError, match="401 Unauthorized"):
        world.run(*docker, "login", "--username=AWS", f"--password={password}", EU_HOST)
    assert registries.requests()[-1].verdict == "unknown"


def test_an_expired_token_is_refused_with_ecr_s_message(
    world: World, aws: AwsStandIn, registries: RegistryStandIn, docker: tuple[str, ...], tmp_path: Path
) -> None:
    """A pull with it fails with status 403."""
    world.inside(lambda: aws.set(token_lifetime=-1))
    password = request_token(world, aws, "us-east-1")
    world.inside(lambda: aws.set(token_lifetime=TOKEN_LIFETIME_SECONDS))
    login = base64.b64encode(f"AWS:{password}".encode()).decode()
    (tmp_path / "config.json").write_text(f'{{"auths": {{"{US_HOST}": {{"auth": "{login}"}}}}}}')
    with pytest.raises(AssertionError, match=re.escape(EXPIRED_MESSAGE)):
        world.run(*docker, "pull", f"{US_HOST}/app:1")
    assert (registries.requests()[-1].status, registries.requests()[-1].verdict) == (403, "expired")


def test_a_world_ends_all_its_processes(tmp_path: Path) -> None:
    """When the block ends, so do its processes and their orphaned children."""
    with World.running(tmp_path, []) as world:
        world.start("sleeper", "sleep", "infinity")
        world.run("sh", "-c", "sleep infinity >/dev/null 2>&1 &")
        namespace = (world.root / "proc/1/ns/pid").readlink()
        world.wait("process 1, its `cat` and two that sleep", lambda: len(processes_in(namespace)) == 4)
    assert processes_in(namespace) == []


def processes_in(namespace: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or belongs to another user
            if (process / "ns/pid").readlink() == namespace:
                found.append((process / "comm").read_text())
    return found
