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
from tests.sites.fixtures import DEPLOY_TOKEN, GITLAB_HOST, GITLAB_PORT, PARTNER_HOST, REGISTRIES
from tests.sites.images import write_dated_image, write_python_image
from tests.sites.world import ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from examples.demo.airflow_site import AirflowSite
    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

EXAMPLES = Path(__file__).parents[2] / "examples"
US_HOST, EU_HOST = REGISTRIES
HOSTS = {"docker_default": US_HOST, "docker_eu": EU_HOST}  # the tasks of several_registries
PYTHON_IMAGE = f"{US_HOST}/python:1"
LABEL = {"com.example.airflow": "prune"}
LONG_AGO = "2021-03-04T05:06:07Z"
TOKEN_LIFETIME_SECONDS = 12.0  # a token is served for at least 6 s, which is enough for a pull
LIFETIMES = 3.2
STALE_PASSWORD = "a-token-that-expired-in-the-database-long-ago"


@pytest.fixture(scope="module")
def airflow(world: World, aws: AwsStandIn) -> Iterator[AirflowSite]:
    """Run an Airflow with the backend, and with an older connection of the same name in its database."""
    world.inside(aws.reset)  # another module may have set a longer lifetime
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
def swarm(world: World, registries: RegistryStandIn) -> None:
    """Make the engine a swarm of one node, until the world ends."""
    del registries  # the engine runs with them
    world.run("docker", "swarm", "init", f"--advertise-addr={ADDRESS}")


@pytest.fixture(scope="module")
def python_image(world: World, registries: RegistryStandIn) -> None:
    """Push an image with Python to the registry."""
    del registries  # one of them receives the image
    archive, pushed = world.folder / "python.tar", f"127.0.0.1:{REGISTRIES[US_HOST]}/python:1"
    write_python_image(archive, f"hello from {US_HOST}")
    world.run("docker", "import", archive, pushed)
    world.run("docker", "push", pushed)
    world.run("docker", "image", "rm", pushed)


@pytest.fixture
def short_lifetime(world: World, aws: AwsStandIn) -> Iterator[float]:
    """Let tokens expire soon, and return their lifetime in seconds."""
    rmtree(world.folder / "cache", ignore_errors=True)  # its tokens have a longer lifetime
    world.inside(aws.reset)
    world.inside(lambda: aws.set(token_lifetime=TOKEN_LIFETIME_SECONDS))
    yield TOKEN_LIFETIME_SECONDS
    world.inside(aws.reset)
    rmtree(world.folder / "cache")


@pytest.mark.timeout(240)
def test_an_unchanged_docker_operator_pulls_through_several_token_lifetimes(
    world: World, aws: AwsStandIn, short_lifetime: float, registries: RegistryStandIn, airflow: AirflowSite
) -> None:
    """Every task pulls with a valid token, with few AWS calls, and no secret is in a log or a table."""
    begin = time.monotonic()
    while (lifetimes := (time.monotonic() - begin) / short_lifetime) < LIFETIMES:
        pull_all(world, registries, airflow)

    calls = world.inside(lambda: aws.calls(operation="GetAuthorizationToken"))
    for conn_id, host in HOSTS.items():
        region = host.split(".")[3]
        assert 2 <= len([call for call in calls if call.region == region]) <= lifetimes * 2 + 2
        assert '"level":"debug"' in last_log(airflow, conn_id)
    secrets = world.inside(aws.secrets)
    assert find_leaks(secrets, [*read_files(airflow.home), *airflow.stored()]) == []
    assert find_leaks([STALE_PASSWORD], airflow.stored()) == ["connection.password"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("dag_id", "image"),
    [
        ("docker_operator", f"{US_HOST}/app:1"),
        ("task_docker", PYTHON_IMAGE),
        ("docker_swarm", f"{US_HOST}/app:1"),
        ("docker_hook", f"{US_HOST}/app:1"),
        ("cross_account", f"{PARTNER_HOST}/app:1"),
    ],
)
@pytest.mark.usefixtures("python_image", "swarm")
def test_every_consumer_of_a_docker_connection_pulls(
    dag_id: str, image: str, world: World, registries: RegistryStandIn, airflow: AirflowSite
) -> None:
    """Each example of an operator, a decorator or a hook pulls an image that requires a token."""
    world.run("docker", "image", "rm", "--force", image)  # so that all layers are pulled
    before = len(registries.requests())
    states = airflow.run_dag(dag_id)

    assert set(states.values()) == {"success"}, airflow.tails()
    host, _, repository = image.removesuffix(":1").partition("/")
    requests = registries.requests()[before:]
    served = [request.path for request in requests if (request.host, request.verdict) == (host, "served")]
    assert any(path.startswith(f"/v2/{repository}/blobs/") for path in served)
    assert any(f"hello from {host}" in log.read_text() for log in airflow.task_logs(dag_id=dag_id))


@pytest.mark.timeout(180)
def test_a_partner_s_image_is_pulled_with_their_role(
    world: World, aws: AwsStandIn, registries: RegistryStandIn, airflow: AirflowSite
) -> None:
    """The role is assumed with their external ID, and the token is of their account."""
    del registries  # one of them has the image
    rmtree(world.folder / "cache", ignore_errors=True)
    world.inside(aws.reset)
    states = airflow.run_dag("cross_account")

    assert states == {"greet": "success"}, airflow.tails()
    assume, request = world.inside(aws.calls)
    assert (assume.operation, assume.parameters["ExternalId"]) == ("AssumeRole", "from-the-partner")
    assert (request.operation, request.account) == ("GetAuthorizationToken", PARTNER_HOST.split(".")[0])


@pytest.mark.timeout(180)
def test_a_static_connection_serves_gitlab_beside_ecr(
    world: World, registries: RegistryStandIn, gitlab: str, airflow: AirflowSite
) -> None:
    """Airflow finds it in its own database, and its registry knows that login alone."""
    del registries  # where ECR's image is
    row = {"conn_id": "gitlab_registry", "conn_type": "docker", "host": GITLAB_HOST, "login": "airflow"}
    airflow.add_connection(**row, port=GITLAB_PORT, password=DEPLOY_TOKEN)
    with pytest.raises(AssertionError, match="no basic auth credentials"):
        world.run("docker", "--config", "/nowhere", "pull", f"{gitlab}/group/project/app:1")
    states = airflow.run_dag("gitlab_beside_ecr")

    expected = {"docker_default": US_HOST, "gitlab_registry": GITLAB_HOST}
    assert states == dict.fromkeys(expected, "success"), airflow.tails()
    for task_id, host in expected.items():
        assert f"hello from {host}" in last_log(airflow, task_id)


@pytest.mark.timeout(180)
def test_pruning_keeps_images_that_are_young_in_use_or_unlabelled(world: World, airflow: AirflowSite) -> None:
    """The real engine prunes with the defaults, and then with an age of 0 hours."""
    now = datetime.now(timezone.utc).isoformat()
    for name, created, labels in (
        ("old", LONG_AGO, LABEL),
        ("old-of-others", LONG_AGO, {}),
        ("old-in-use", LONG_AGO, LABEL),
        ("old-of-a-stopped-one", LONG_AGO, LABEL),
        ("young", now, LABEL),
    ):
        archive = world.folder / f"{name}.tar"
        write_dated_image(archive, f"prune-test/{name}:1", created, labels)
        world.run("docker", "load", "--input", archive)
    start = ("docker", "run", "--detach", "--network=none")
    world.run(*start, "--interactive", "--name=prune-test-running", "prune-test/old-in-use:1")
    world.run(*start, "--name=prune-test-stopped", "prune-test/old-of-a-stopped-one:1", "cat", "/name")
    world.run("docker", "wait", "prune-test-stopped")

    run_to_success(airflow, "prune_docker")
    assert images_of_prune_test(world) == {"old-of-others", "old-in-use", "old-of-a-stopped-one", "young"}
    assert containers_of_prune_test(world) == {"running", "stopped"}
    run_to_success(airflow, "prune_docker", {"older_than_hours": 0})

    assert images_of_prune_test(world) == {"old-of-others", "old-in-use"}
    assert containers_of_prune_test(world) == {"running"}
    world.run("docker", "rm", "--force", "prune-test-running")


@pytest.mark.timeout(240)
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


def images_of_prune_test(world: World) -> set[str]:
    listed = world.run("docker", "image", "ls", "--format={{.Repository}}", "prune-test/*").stdout
    return {name.removeprefix("prune-test/") for name in listed.split()}


def containers_of_prune_test(world: World) -> set[str]:
    listed = world.run("docker", "ps", "--all", "--format={{.Names}}", "--filter=name=prune-test-").stdout
    return {name.removeprefix("prune-test-") for name in listed.split()}


def pull_all(world: World, registries: RegistryStandIn, airflow: AirflowSite) -> None:
    """Run the DAG once: each image comes from its own registry, and no request is refused."""
    before = len(registries.requests())
    for host in HOSTS.values():
        world.run("docker", "image", "rm", "--force", f"{host}/app:1")  # so that all layers are pulled
    states = airflow.run_dag("several_registries")
    assert states == dict.fromkeys(HOSTS, "success"), airflow.tails()
    requests = registries.requests()[before:]
    assert {request.verdict for request in requests} == {"challenged", "served"}
    for conn_id, host in HOSTS.items():
        served = [request.path for request in requests if (request.host, request.verdict) == (host, "served")]
        assert any(path.startswith("/v2/app/blobs/") for path in served)
        assert f"hello from {host}" in last_log(airflow, conn_id)
