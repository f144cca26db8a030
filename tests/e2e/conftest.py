"""A site to run commands at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.checks import Site
from tests.sites.fixtures import REGISTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn


@pytest.fixture
def site(world: World, aws: AwsStandIn, registries: RegistryStandIn, tmp_path: Path) -> Iterator[Site]:
    world.inside(aws.reset)
    docker = tmp_path / "docker"
    docker.mkdir()
    environment = {**aws.environment(), "DOCKER_CONFIG": str(docker), "AIRFLOW_HOME": str(world.folder / "home")}
    kwargs = {"connections": {"docker_default": next(iter(REGISTRIES))}, "cache_dir": str(tmp_path / "cache")}
    yield Site(world, environment, kwargs, tmp_path, docker)
    registries.denied.clear()
