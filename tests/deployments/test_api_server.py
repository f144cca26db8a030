"""Only the API server mints: tasks have no backend and no AWS identity, and ask for the connection."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.entry import BACK_OFF_JITTER_PART, BACK_OFF_SECONDS
from tests.deployments.conftest import AIRFLOWS_KEY, DAGS, REGIONS, add_aws_connection, backend_settings, living_tokens
from tests.sites.airflow_site import AirflowSite
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

pytestmark = pytest.mark.timeout(180)
TRIGGERER_S_KEY = "AKIATHETRIGGERERSOWN"
CAUSE = "User: arn:aws:iam::123456789012:user/u is not authorized"


@pytest.fixture(scope="module")
def airflow(world: World, cloud: AwsStandIn, registries: RegistryStandIn) -> Iterator[AirflowSite]:
    """An Airflow whose tasks do without the backend and without an AWS identity; the triggerer has one of its own."""
    del registries  # there they are, for the task to log in
    settings = {
        "AIRFLOW__WORKERS__SECRETS_BACKEND": "airflow.secrets.environment_variables.EnvironmentVariablesBackend",
        **backend_settings(world, "api", by_airflow="docker_default"),
    }
    components = {
        "api-server": cloud.environment(),
        "scheduler": {},
        "dag-processor": {},
        "triggerer --skip-serve-logs": {**cloud.environment(), "AWS_ACCESS_KEY_ID": TRIGGERER_S_KEY},
    }
    with AirflowSite.running(world, "api", DAGS / "tasks", settings, components) as site:
        add_aws_connection(site)
        yield site


def test_a_task_without_an_aws_identity_pulls(world: World, cloud: AwsStandIn, airflow: AirflowSite) -> None:
    """Its hook logs in with what the API server has minted, by an AWS connection; two runs cost one AWS call."""
    for _ in range(2):
        states = airflow.run_dag("hook")
        assert states == {"hook": "success"}, world.tails(airflow.last_log("hook"))

    (told,) = airflow.told("hook", "Looked up")
    assert told["aws"] == []
    calls = world.inside(lambda: cloud.calls(region=REGIONS["docker_default"]))
    assert [call.access_key_id for call in calls] == [AIRFLOWS_KEY]


def test_a_trigger_is_served_by_the_triggerer_s_own_api(world: World, cloud: AwsStandIn, airflow: AirflowSite) -> None:
    """It does not ask the API server, as its task does: each mints once, by its own identity."""
    states = airflow.run_dag("trigger")
    assert states == {"trigger": "success"}, world.tails(airflow.last_log("trigger"))

    (told,) = airflow.told("trigger", "Looked up")
    (by_triggerer,) = set(told["digests"].values())
    assert {told["digest"], by_triggerer} <= living_tokens(world, cloud, REGIONS["docker_trigger"])
    calls = world.inside(lambda: cloud.calls(region=REGIONS["docker_trigger"]))
    assert [call.access_key_id for call in calls] == [TRIGGERER_S_KEY, cloud.access_key_id]


def test_a_failing_mint_is_told_at_once(world: World, cloud: AwsStandIn, airflow: AirflowSite) -> None:
    """A task is denied at its first request, its three tries back off, and the server's log has the cause."""
    world.inside(lambda: cloud.script(Error("AccessDeniedException", CAUSE, region=REGIONS["docker_refused"])))
    states = airflow.run_dag("refused")
    assert states == {"refused": "failed"}

    denial = "Access denied for connection 'docker_refused' by Execution API"
    failures = airflow.told("refused", "Task failed with exception")
    assert [failure["error_detail"][0]["exc_value"].partition(";")[0] for failure in failures] == [denial] * 3
    calls = world.inside(lambda: cloud.calls(region=REGIONS["docker_refused"]))
    assert 1 <= len(calls) <= 3
    shortest = BACK_OFF_SECONDS * (1 - BACK_OFF_JITTER_PART)
    assert all(later.time - call.time >= shortest for call, later in pairwise(calls))
    log = airflow.component_log("api-server")
    assert log.count(f"Connection 'docker_refused' has no ECR token. AccessDeniedException: {CAUSE}") == 3
    assert "Traceback" not in log
    assert CAUSE in airflow.component_log("scheduler")  # whose worker tells it at DEBUG
