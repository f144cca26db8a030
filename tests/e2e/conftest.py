"""A site to run the commands and Docker's clients at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.sites.fixtures import REGISTRIES

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

US_HOST, EU_HOST = REGISTRIES


@dataclass(frozen=True)
class Site:
    """
    The place of a test in the world.

    :param environment: of all commands
    :param kwargs: the backend's
    :param folder: for the files of the test
    :param docker: the folder of Docker's configuration
    """

    world: World
    environment: dict[str, str]
    kwargs: dict[str, Any]
    folder: Path
    docker: Path

    def run(self, *command: str | Path, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.world.run(*command, environment=self.environment, exit_code=exit_code)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return one of the package's commands with the kwargs in a file."""
        file = self.folder / "kwargs.json"
        file.write_text(json.dumps(self.kwargs))
        return ("ecr-secrets-backend", *arguments, "--backend-kwargs", str(file))

    def check(self, *arguments: str, exit_code: int = 0, prefix: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Run ``check``, and return its findings."""
        done = self.run(*prefix, *self.command("check", *arguments, "--output", "json"), exit_code=exit_code)
        assert "Traceback" not in done.stderr
        findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        return findings

    def check_for(self, state: str, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[str, str, str]:
        """Run ``check``, and return the step, code and text of the one finding that failed or warned."""
        findings = self.check(*arguments, exit_code=int(state == "failed"), prefix=prefix)
        (found,) = [finding for finding in findings if finding["state"] == state]
        return found["step"], found["code"], f"{found['message']}. {found['remedy']}"

    def pull(self, host: str) -> None:
        """Pull, and leave no image behind."""
        self.run("docker", "pull", f"{host}/app:1")
        self.run("docker", "image", "rm", f"{host}/app:1")


@pytest.fixture
def site(world: World, aws: AwsStandIn, registries: RegistryStandIn, tmp_path: Path) -> Iterator[Site]:
    world.inside(aws.reset)
    docker = tmp_path / "docker"
    docker.mkdir()
    environment = {**aws.environment(), "DOCKER_CONFIG": str(docker), "AIRFLOW_HOME": str(world.folder / "home")}
    kwargs = {"connections": {"docker_default": US_HOST}, "cache_dir": str(tmp_path / "cache")}
    yield Site(world, environment, kwargs, tmp_path, docker)
    registries.denied.clear()
