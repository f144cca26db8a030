"""The main promise: an unchanged DockerOperator pulls from ECR for as long as Airflow runs.

The DAGs are the unchanged examples.
"""

from __future__ import annotations

import json
import time
from configparser import RawConfigParser
from datetime import datetime, timezone
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

import pytest

from examples.demo.leaks import find_leaks, read_files
from tests.e2e.conftest import EU_HOST, US_HOST
from tests.sites.fixtures import DEPLOY_TOKEN, GITLAB_HOST, GITLAB_PORT, PARTNER_HOST, push
from tests.sites.images import write_dated_images, write_python_image
from tests.sites.world import ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from examples.demo.airflow_site import AirflowSite
    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTS = {"docker_default": US_HOST, "docker_eu": EU_HOST}  # the tasks of several_registries
LABEL = {"com.example.airflow": "prune"}
LONG_AGO = "2021-03-04T05:06:07Z"
TOKEN_LIFETIME_SECONDS = 12.0  # a token is served for at least 6 s, which is enough for a pull
LIFETIMES = 3.2
STALE_PASSWORD = "a-token-that-expired-in-the-database-long-ago"

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("registries")]


@pytest.fixture(scope="module")
def airflow(world: World, aws: AwsStandIn) -> Iterator[AirflowSite]:
    """Run an Airflow with the backend, and with an older connection of the same name in its database."""
    world.inside(aws.reset)  # another module may have set a lifetime
    connections = {**configured("several_registries"), **configured("cross_account_role")}
    del connections["docker_tools"]  # its registry does not exist here
    kwargs = {"connections": connections, "cache_dir": str(world.folder / "cache")}
    settings = {
        "AIRFLOW__SECRETS__BACKEND": "ecr_secrets_backend.EcrSecretsBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
        **aws.environment(),
    }
    with world.airflow("airflow", EXAMPLES / "dags", settings) as site:
        site.run("db migrate")
        row = {"conn_id": "docker_default", "conn_type": "docker", "host": US_HOST, "login": "AWS"}
        site.add_connection(**row, password=STALE_PASSWORD)
        for component in ("api-server", "scheduler", "dag-processor"):
            site.start(component)
        yield site


@pytest.fixture(scope="module")
def swarm(world: World) -> None:
    """Make the engine a swarm of one node, until the world ends."""
    world.run("docker", "swarm", "init", f"--advertise-addr={ADDRESS}")


@pytest.fixture(scope="module")
def python_image(world: World, registries: RegistryStandIn) -> None:
    """Push an image with Python to the registry."""
    archive, pushed = world.folder / "python.tar", f"127.0.0.1:{registries.upstreams[US_HOST]}/python:1"
    write_python_image(archive, f"hello from {US_HOST}")
    push(world, archive, pushed)


@pytest.fixture
def _short_lifetime(world: World, aws: AwsStandIn) -> Iterator[None]:
    """Let tokens expire soon, and no token of another lifetime be in the cache."""
    rmtree(world.folder / "cache", ignore_errors=True)
    world.inside(lambda: aws.set(token_lifetime=TOKEN_LIFETIME_SECONDS))
    yield
    world.inside(aws.reset)
    rmtree(world.folder / "cache")


@pytest.mark.usefixtures("_short_lifetime")
def test_an_unchanged_docker_operator_pulls_through_several_token_lifetimes(
    world: World, aws: AwsStandIn, registries: RegistryStandIn, airflow: AirflowSite
) -> None:
    """Every task pulls with a valid token, with few AWS calls, and no secret is in a log or a table."""
    requests_before = len(registries.requests())
    calls_before = len(world.inside(aws.calls))
    begin = time.monotonic()
    while (lifetimes := (time.monotonic() - begin) / TOKEN_LIFETIME_SECONDS) < LIFETIMES:
        pull(world, registries, airflow, "several_registries", *(f"{host}/app:1" for host in HOSTS.values()))

    assert {request.verdict for request in registries.requests()[requests_before:]} == {"challenged", "served"}
    calls = world.inside(aws.calls)[calls_before:]
    for conn_id, host in HOSTS.items():
        renewals = [call for call in calls if call.operation == "GetAuthorizationToken" and call.region in host]
        assert 2 <= len(renewals) <= lifetimes * 2 + 2
        assert '"level":"debug"' in last_log(airflow, conn_id)
    secrets = world.inside(aws.secrets)
    assert find_leaks(secrets, [*read_files(airflow.home), *airflow.stored()]) == []
    assert find_leaks([STALE_PASSWORD], airflow.stored()) == ["connection.password"]


@pytest.mark.parametrize("dag_id", ["docker_operator", "task_docker", "docker_swarm", "docker_hook"])
@pytest.mark.usefixtures("python_image", "swarm")
def test_every_consumer_of_a_docker_connection_pulls(
    dag_id: str, world: World, registries: RegistryStandIn, airflow: AirflowSite
) -> None:
    """Each example of an operator, a decorator or a hook pulls an image that requires a token."""
    image = "python:1" if dag_id == "task_docker" else "app:1"

    pull(world, registries, airflow, dag_id, f"{US_HOST}/{image}")


def test_a_partner_s_image_is_pulled_with_their_role(
    world: World, aws: AwsStandIn, registries: RegistryStandIn, airflow: AirflowSite
) -> None:
    """The role is assumed with their external ID, and the token is of their account."""
    pull(world, registries, airflow, "cross_account", f"{PARTNER_HOST}/app:1")

    calls = world.inside(aws.calls)
    assert {call.parameters["ExternalId"] for call in calls if call.operation == "AssumeRole"} == {"from-the-partner"}
    assert PARTNER_HOST.split(".")[0] in {call.account for call in calls if call.operation == "GetAuthorizationToken"}


def test_a_static_connection_serves_gitlab_beside_ecr(world: World, gitlab: str, airflow: AirflowSite) -> None:
    """Airflow finds it in its own database, and its registry knows that login alone."""
    row = {"conn_id": "gitlab_registry", "conn_type": "docker", "host": GITLAB_HOST, "login": "airflow"}
    airflow.add_connection(**row, port=GITLAB_PORT, password=DEPLOY_TOKEN)
    with pytest.raises(AssertionError, match="no basic auth credentials"):
        world.run("docker", "--config", "/nowhere", "pull", f"{gitlab}/group/project/app:1")

    run_to_success(airflow, "gitlab_beside_ecr")

    for task_id, host in {"docker_default": US_HOST, "gitlab_registry": GITLAB_HOST}.items():
        assert f"hello from {host}" in last_log(airflow, task_id)


def test_pruning_keeps_images_that_are_young_in_use_or_unlabelled(world: World, airflow: AirflowSite) -> None:
    """The real engine prunes with the defaults, and then with an age of 0 hours."""
    images = {
        "old": (LONG_AGO, LABEL),
        "old-of-others": (LONG_AGO, {}),
        "old-in-use": (LONG_AGO, LABEL),
        "old-of-a-stopped-one": (LONG_AGO, LABEL),
        "young": (datetime.now(timezone.utc).isoformat(), LABEL),
    }
    archive = world.folder / "dated.tar"
    write_dated_images(archive, {f"prune-test/{name}:1": dated for name, dated in images.items()})
    world.run("docker", "load", "--input", archive)
    start = ("docker", "run", "--detach", "--network=none")
    world.run(*start, "--interactive", "--name=prune-test-running", "prune-test/old-in-use:1")
    world.run(*start, "--name=prune-test-stopped", "prune-test/old-of-a-stopped-one:1", "cat", "/greeting")
    world.run("docker", "wait", "prune-test-stopped")

    run_to_success(airflow, "prune_docker")
    assert left_by_pruning(world) == {*images, "running", "stopped"} - {"old"}
    run_to_success(airflow, "prune_docker", {"older_than_hours": 0})

    assert left_by_pruning(world) == {"old-of-others", "old-in-use", "running"}
    world.run("docker", "rm", "--force", "prune-test-running")


def test_the_self_check_reports_a_missing_permission(registries: RegistryStandIn, airflow: AirflowSite) -> None:
    """Without a fault it passes. Without the permission to pull, its log has the finding and the fix."""
    run_to_success(airflow, "self_check")
    assert "All checks passed." in last_log(airflow, "connections")
    registries.denied["app"] = "ecr:BatchGetImage"
    try:
        states = airflow.run_dag("self_check")
    finally:
        registries.denied.clear()

    assert states == {"connections": "success", "app": "failed"}
    log = last_log(airflow, "app")
    assert "Failed: permission-missing." in log
    assert "Allow ecr:BatchGetImage" in log


def configured(name: str) -> dict[str, object]:
    """Return the connections of an example's ``airflow.cfg``."""
    parser = RawConfigParser()
    parser.read(EXAMPLES / f"airflow_cfg/{name}.cfg")
    connections: dict[str, object] = json.loads(parser["secrets"]["backend_kwargs"])["connections"]
    return connections


def run_to_success(airflow: AirflowSite, dag_id: str, conf: Mapping[str, object] | None = None) -> None:
    states = airflow.run_dag(dag_id, conf)
    assert set(states.values()) == {"success"}, airflow.tails()


def last_log(airflow: AirflowSite, task_id: str) -> str:
    """Return the log of a task's latest run."""
    return airflow.task_logs(task_id)[-1].read_text()


def left_by_pruning(world: World) -> set[str]:
    """Return the names of the images and containers of the test."""
    images = world.run("docker", "image", "ls", "--format={{.Repository}}", "prune-test/*").stdout
    containers = world.run("docker", "ps", "--all", "--format={{.Names}}", "--filter=name=prune-test-").stdout
    return {name.removeprefix("prune-test")[1:] for name in (images + containers).split()}


def pull(world: World, registries: RegistryStandIn, airflow: AirflowSite, dag_id: str, *images: str) -> None:
    """Run a DAG once, and check that it pulls each image with all layers from its own registry, and runs it."""
    before, logs_before = len(registries.requests()), airflow.task_logs(dag_id=dag_id)
    for image in images:
        world.run("docker", "image", "rm", "--force", image)
    run_to_success(airflow, dag_id)
    requests, logs = registries.requests()[before:], airflow.task_logs(dag_id=dag_id)[len(logs_before) :]
    for image in images:
        host, _, repository = image.removesuffix(":1").partition("/")
        served = [request.path for request in requests if (request.host, request.verdict) == (host, "served")]
        assert any(path.startswith(f"/v2/{repository}/blobs/") for path in served)
        assert any(f"hello from {host}" in log.read_text() for log in logs)
