"""The worker requests tokens, with Celery: prefork children and task processes, on Redis and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deployments.conftest import DAGS, REGIONS, backend_settings, call_postgresql, valid_tokens
from tests.stand_ins.aws import Delay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from examples.demo.airflow_site import AirflowSite
    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn

pytestmark = pytest.mark.timeout(180)
DATABASE = "airflow@127.0.0.1:5432/postgres"
SLOWNESS_SECONDS = 3.0  # so that the second task begins before the first has its token


@pytest.fixture(scope="module")
def airflow(world: World, cloud: AwsStandIn, postgresql: None) -> Iterator[AirflowSite]:
    """Run an Airflow in which only the worker has an AWS identity."""
    del postgresql  # it has the database
    world.start("redis", "redis-server", "--bind", "127.0.0.1", "--save", "", "--daemonize", "no")
    world.wait("Redis", lambda: "Ready to accept connections" in (world.folder / "redis.log").read_text())
    settings = {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CELERY__BROKER_URL": "redis://127.0.0.1:6379/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{DATABASE}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "4",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{DATABASE}",
        **backend_settings(world, "celery"),
    }
    with world.airflow("celery", DAGS / "tasks", settings) as site:
        site.run("db migrate")
        for component in ("api-server", "scheduler", "dag-processor"):
            site.start(component)
        site.start("celery worker", "--skip-serve-logs", environment=cloud.environment())
        yield site


def test_all_processes_of_a_worker_share_one_token(world: World, cloud: AwsStandIn, airflow: AirflowSite) -> None:
    """Eight tasks start at once without a token, in processes that prefork children forked, and cost one AWS call."""
    world.inside(lambda: cloud.script(Delay(SLOWNESS_SECONDS)))
    states = airflow.run_dag("crowd")
    world.inside(cloud.settle)
    assert set(states.values()) == {"success"}, airflow.tails()

    lookups = [lookup for task in states for lookup in airflow.events(task, "Looked up")]
    assert len({lookup["pid"] for lookup in lookups}) == 8
    assert len({lookup["parent"] for lookup in lookups}) > 1
    (beginning,) = {lookup["beginning"] for lookup in lookups}
    assert beginning in valid_tokens(world, cloud, REGIONS["docker_crowd"])
    (call,) = world.inside(lambda: cloud.calls(region=REGIONS["docker_crowd"]))
    early = [lookup for lookup in lookups if lookup["began_at"] < call.time + SLOWNESS_SECONDS]
    assert len(early) > 1  # the lookups overlapped
    database = call_postgresql(world, "pg_dump", "postgres")
    assert "crowd_0" in database
    assert [secret for secret in world.inside(cloud.secrets) if secret in database] == []
