"""Only the API server requests tokens: tasks have no backend and no AWS identity, and look up through its API."""

from __future__ import annotations

import json
from itertools import pairwise
from shutil import copy
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.entry import BACK_OFF_JITTER_PART, BACK_OFF_SECONDS
from tests.airflow.deployment import AIRFLOWS_KEY
from tests.airflow.lookups import RESULTS
from tests.deployments.conftest import DAGS, REGIONS, backend_settings, valid_tokens
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from examples.demo.airflow_site import AirflowSite
    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

pytestmark = pytest.mark.timeout(180)
TRIGGERER_S_KEY = "AKIATHETRIGGERERSOWN"
CAUSE = "User: arn:aws:iam::123456789012:user/u is not authorized"


@pytest.fixture(scope="module")
def airflow(world: World, cloud: AwsStandIn, registries: RegistryStandIn, database: Path) -> Iterator[AirflowSite]:
    """Run an Airflow in which tasks have no backend and no AWS identity, and the triggerer has its own identity."""
    del registries  # the task logs in to them
    settings = {
        "AIRFLOW__WORKERS__SECRETS_BACKEND": "airflow.secrets.environment_variables.EnvironmentVariablesBackend",
        **backend_settings(world, "api", by_airflow="docker_default"),
        RESULTS: str(world.folder / "api"),
    }
    identity = cloud.environment()
    with world.airflow("api", DAGS / "tasks", settings) as site:
        copy(database, site.home)
        site.start("api-server", environment=identity)
        site.start("scheduler")
        site.start("dag-processor")
        site.start("triggerer", "--skip-serve-logs", environment={**identity, "AWS_ACCESS_KEY_ID": TRIGGERER_S_KEY})
        yield site


def test_a_task_without_an_aws_identity_pulls(world: World, cloud: AwsStandIn, airflow: AirflowSite) -> None:
    """Its hook logs in with a token that the API server requested. Two runs cost one AWS call."""
    for _ in range(2):
        states = airflow.run_dag("hook")
        assert states == {"hook": "success"}, airflow.tails()

    assert [lookup["aws"] for lookup in airflow.events("hook", "Looked up")] == [[], []]
    calls = world.inside(lambda: cloud.calls(region=REGIONS["docker_default"]))
    assert [call.access_key_id for call in calls] == [AIRFLOWS_KEY]


def test_a_trigger_uses_the_identity_of_the_triggerer(world: World, cloud: AwsStandIn, airflow: AirflowSite) -> None:
    """Its task looks up through the API server. Each requests one token, with its own identity."""
    states = airflow.run_dag("trigger")
    assert states == {"trigger": "success", "task": "success"}, airflow.tails()

    (result,), (lookup,) = airflow.home.glob("docker_trigger-*.json"), airflow.events("task", "Looked up")
    (by_triggerer,) = {connection["password"][:16] for connection in json.loads(result.read_text())["connections"]}
    assert {lookup["beginning"], by_triggerer} <= valid_tokens(world, cloud, REGIONS["docker_trigger"])
    calls = world.inside(lambda: cloud.calls(region=REGIONS["docker_trigger"]))
    assert [call.access_key_id for call in calls] == [TRIGGERER_S_KEY, cloud.access_key_id]


def test_a_failed_request_fails_the_task_at_once(world: World, cloud: AwsStandIn, airflow: AirflowSite) -> None:
    """The first lookup is denied, the three tries respect the back-off, and the server's log has the cause."""
    world.inside(lambda: cloud.script(Error("AccessDeniedException", CAUSE, region=REGIONS["docker_refused"])))
    states = airflow.run_dag("refused")
    assert states == {"refused": "failed"}

    denial = "Access denied for connection 'docker_refused' by Execution API"
    failures = airflow.events("refused", "Task failed with exception")
    assert [failure["error_detail"][0]["exc_value"].partition(";")[0] for failure in failures] == [denial] * 3
    calls = world.inside(lambda: cloud.calls(region=REGIONS["docker_refused"]))
    assert 1 <= len(calls) <= 3
    shortest = BACK_OFF_SECONDS * (1 - BACK_OFF_JITTER_PART)
    assert all(later.time - call.time >= shortest for call, later in pairwise(calls))
    log = airflow.printed("api-server")
    assert log.count(f"Cannot get an ECR token for connection 'docker_refused': AccessDeniedException: {CAUSE}") == 3
    assert "Traceback" not in log
    assert CAUSE in airflow.printed("scheduler")  # its worker logs the answer at DEBUG
