"""The main promise as a whole: an unchanged DockerOperator pulls from ECR for as long as Airflow runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.sites.airflow_site import AirflowSite
from tests.sites.fixtures import REGISTRIES, TOKEN_LIFE_SECONDS
from tests.sites.world import ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

DAGS = Path(__file__).parent / "dags"
HOSTS = {host.split(".")[3]: host for host in REGISTRIES}
DURATION_SECONDS = 3.2 * TOKEN_LIFE_SECONDS  # more than three lives of a token
STALE_PASSWORD = "a-token-that-died-in-the-database-long-ago"
TELLING_CHARACTERS = 40  # so much of a secret is a leak: logs cut long lines


@pytest.fixture(scope="module")
def airflow(world: World, aws: AwsStandIn) -> Iterator[AirflowSite]:
    """An Airflow with the backend, and with an older connection of the same name in its metadata database."""
    world.inside(aws.reset)  # so that every token here is short-lived, whatever another module has set
    kwargs = {
        "connections": {
            "docker_default": HOSTS["us-east-1"],
            "docker_eu": {"account_id": "123456789012", "region_name": "eu-central-1"},
        },
        "cache_dir": str(world.folder / "cache"),
    }
    settings = {
        "AIRFLOW__SECRETS__BACKEND": "ecr_secrets_backend.EcrSecretsBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
        **aws.environment(),
    }
    components: dict[str, dict[str, str]] = {"api-server": {}, "scheduler": {}, "dag-processor": {}}
    with AirflowSite.running(world, "airflow", DAGS, settings, components) as site:
        row = ("--conn-type", "docker", "--conn-host", HOSTS["us-east-1"], "--conn-login", "AWS")
        site.run("connections", "add", "docker_default", *row, "--conn-password", STALE_PASSWORD)
        yield site


@pytest.fixture(scope="module")
def swarm(world: World, registries: RegistryStandIn) -> None:
    """The engine is a swarm of one node, for as long as the world is there."""
    del registries  # with which the engine runs
    world.run("docker", "swarm", "init", f"--advertise-addr={ADDRESS}")


@pytest.mark.timeout(420)
def test_an_unchanged_docker_operator_pulls_through_several_token_lives(
    world: World, aws: AwsStandIn, registries: RegistryStandIn, airflow: AirflowSite
) -> None:
    """Every task pulls with a live token, at the price of a few AWS calls, and no secret stays in a log or a table."""
    world.inside(aws.reset)
    begin = time.monotonic()
    while time.monotonic() < begin + DURATION_SECONDS:
        pull_all(world, registries, airflow)
    lives = (time.monotonic() - begin) / TOKEN_LIFE_SECONDS

    calls = world.inside(lambda: aws.calls(operation="GetAuthorizationToken"))
    for region in HOSTS:
        assert 2 <= len([call for call in calls if call.region == region]) <= lives * 2 + 2
        assert '"level":"debug"' in airflow.last_log(region).read_text()
    secrets = world.inside(aws.secrets)
    assert list(places_of(secrets, [*airflow.logged(), *airflow.stored()])) == []
    assert list(places_of([STALE_PASSWORD], airflow.stored())) == ["connection.password"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("consumer", ["task_docker", "swarm", "hook"])
def test_every_consumer_of_a_docker_connection_pulls(
    consumer: str, world: World, swarm: None, registries: RegistryStandIn, airflow: AirflowSite
) -> None:
    """``@task.docker``, the operator for a swarm, and a hook in a task: each pulls what only a token opens."""
    del swarm
    host = HOSTS["us-east-1"]
    world.run("docker", "image", "rm", "--force", f"{host}/app:1")  # so that all of it is pulled
    before = len(registries.requests())
    states = airflow.run_dag(consumer)

    assert set(states.values()) == {"success"}, world.tails(*airflow.home.glob(f"logs/dag_id={consumer}/**/*.log"))
    requests = registries.requests()[before:]
    served = [request.path for request in requests if (request.host, request.verdict) == (host, "served")]
    assert any(path.startswith("/v2/app/blobs/") for path in served)
    assert f"hello from {host}" in airflow.last_log(consumer).read_text()


def pull_all(world: World, registries: RegistryStandIn, airflow: AirflowSite) -> None:
    """Run the DAG once: each region's image comes from its own registry, which has no reason to refuse anything."""
    before = len(registries.requests())
    for host in HOSTS.values():
        world.run("docker", "image", "rm", "--force", f"{host}/app:1")  # so that all of it is pulled
    states = airflow.run_dag("ecr_images")
    logs = {region: airflow.last_log(region) for region in HOSTS}
    assert states == dict.fromkeys(HOSTS, "success"), world.tails(*logs.values())
    requests = registries.requests()[before:]
    assert {request.verdict for request in requests} == {"challenged", "served"}
    for region, host in HOSTS.items():
        served = [request.path for request in requests if (request.host, request.verdict) == (host, "served")]
        assert any(path.startswith("/v2/app/blobs/") for path in served)
        assert f"hello from {host}" in logs[region].read_text()


def places_of(secrets: Iterable[str], texts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Find the places where the beginning or the end of a secret stands, be it as it is or quoted for a URL."""
    forms = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
    telling = {part for form in forms for part in (form[:TELLING_CHARACTERS], form[-TELLING_CHARACTERS:])}
    return (place for place, text in texts if any(part in text for part in telling))
