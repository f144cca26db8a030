"""What tasks get from a whole Airflow, be it of this version or of that."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.airflow.deployment import AIRFLOWS_KEY, BY_AIRFLOW, IN_TRIGGER, LEFTOVER_HOST, host_of
from tests.airflow_version import ANSWERS_TRIGGERS, DENIAL, SENDS_METRICS_EVERYWHERE, TaskConnection

if TYPE_CHECKING:
    from tests.airflow.deployment import Run

pytestmark = pytest.mark.timeout(300)  # whichever is first waits for the whole Airflow
ONE_CALL = ["GetAuthorizationToken"]
CAUSE = "has no ECR token. AccessDeniedException: User: u is not authorized"
AT_ERROR = re.compile(r'"level":\s?"error"| ERROR - ')
GOES_ON = "Airflow may now use an older connection with that ID"


def test_tasks_and_commands_are_served_at_the_price_of_one_call(run: Run) -> None:
    """Three lookups in two tasks, and one of ``airflow connections get``; each process builds backends of its own."""
    lookups = [*run.served("docker_default"), run.printed]

    assert (run.states["first"], run.states["second"]) == ("success", "success")
    assert len(lookups) == 4
    for connection in lookups:
        assert (connection["conn_type"], connection["login"]) == ("docker", "AWS")
        assert (connection["host"], connection["password"] in run.valid) == (host_of("docker_default"), True)
    assert run.calls["docker_default"] == ONE_CALL


def test_a_task_gets_a_connection_of_its_own_kind(run: Run) -> None:
    """Of the task SDK's class where there is one, and never of a class that needs the database."""
    classes = {
        connection["class"] for conn_id in ("docker_default", "docker_worker") for connection in run.served(conn_id)
    }

    assert classes == {f"{TaskConnection.__module__}.{TaskConnection.__name__}"}


def test_memory_alone_serves_all_lookups_of_a_task_that_workers_settings_built(run: Run) -> None:
    """However often Airflow builds the backend: three lookups of one process cost one call."""
    (process,) = run.lookups["docker_worker"]

    assert run.states["memory"] == "success"
    assert [connection["password"] in run.valid for connection in process["connections"]] == [True] * 3
    assert run.calls["docker_worker"] == ONE_CALL


def test_nothing_of_ours_warns(run: Run) -> None:
    """No lookup warns of more than Airflow's own lookups do, and no process of a warning in this package."""
    assert [
        process["warnings"] for processes in run.lookups.values() for process in processes if process["warnings"]
    ] == []
    logs = [line for log in run.logs.values() for line in log] + run.output.splitlines()
    assert [line for line in logs if re.search(r"ecr_secrets_backend/\w+\.py.*Warning", line)] == []


def test_a_task_that_cannot_be_served_tells_why(run: Run) -> None:
    """By the exception where Airflow passes it on, and by a line at ERROR, ahead of "isn't defined", everywhere."""
    log = run.logs["denied"]
    told = [line for line in log if CAUSE in line and AT_ERROR.search(line)]
    undefined = [line for line in log if "isn't defined" in line]

    assert run.states["denied"] == "failed"
    assert "docker_denied" in told[0]
    assert "LookupDeniedError" not in told[0]
    if DENIAL is None:
        assert log.index(told[0]) < log.index(undefined[0])
    else:
        assert "LookupDeniedError" in told[-1]
        assert undefined == []


def test_what_was_left_in_the_database_is_not_used_without_a_word(run: Run) -> None:
    """It is not used at all where a backend may have the last word; elsewhere the line at ERROR warns of it."""
    told = [line for line in run.logs["leftover"] if CAUSE in line and AT_ERROR.search(line)]

    if DENIAL is None:
        assert [connection["host"] for connection in run.served("docker_leftover")] == [LEFTOVER_HOST]
        assert GOES_ON in told[0]
    else:
        assert run.states["leftover"] == "failed"
        assert "docker_leftover" not in run.lookups
        assert GOES_ON not in told[0]


def test_a_task_is_served_by_an_aws_connection_in_airflows_database(run: Run) -> None:
    """Which the task looks up as it looks up any connection, in the middle of its lookup of ours."""
    (process,) = run.lookups[BY_AIRFLOW]

    assert run.states["by_airflow"] == "success"
    assert [connection["password"] in run.valid for connection in process["connections"]] == [True]
    assert run.keys[BY_AIRFLOW] == [AIRFLOWS_KEY]


@pytest.mark.skipif(not ANSWERS_TRIGGERS, reason="this Airflow's triggers wait for each other's lookups for ever")
def test_lookups_in_a_trigger_use_an_aws_connection_in_airflows_database(run: Run) -> None:
    """Five at once: the triggerer's event loop answers their lookups of the AWS connection meanwhile."""
    (process,) = run.lookups[IN_TRIGGER]

    assert run.states["in_trigger"] == "success"
    assert [connection["password"] in run.valid for connection in process["connections"]] == [True] * 5
    assert run.keys[IN_TRIGGER] == [AIRFLOWS_KEY]


@pytest.mark.parametrize("conn_id", ["docker_denied", "docker_leftover"])
def test_a_failure_costs_one_call(run: Run, conn_id: str) -> None:
    """Whoever else Airflow asks then, such as the API server, meets what the host remembers."""
    assert run.calls[conn_id] == ONE_CALL


def test_a_mint_has_one_line_in_a_tasks_log_and_what_talks_to_aws_none(run: Run) -> None:
    """In that of the task that minted: boto3 would tell there, at INFO, where it found credentials."""
    lines = [line for name in ("first", "second") for line in run.logs[name]]
    minted = [line for line in lines if "Received an ECR token for connection 'docker_default'" in line]

    assert len(minted) == 1
    assert host_of("docker_default") in minted[0]
    assert [line for line in lines if re.search(r"botocore|boto3\.|urllib3|Found credentials", line)] == []


def test_airflows_metrics_tell_of_each_lookup(run: Run) -> None:
    """Of those in tasks, once each, and of the command's where such a process sends metrics."""
    lookups = Counter(name for name in run.metrics["docker_default"] if name.startswith("lookups."))

    hits = 2 if SENDS_METRICS_EVERYWHERE else 1
    assert lookups == {"lookups.mint": 1, "lookups.process_hit": 1, "lookups.host_hit": hits}


def test_airflows_metrics_tell_of_a_task_that_cannot_be_served(run: Run) -> None:
    """And that AWS is left alone, once."""
    told = Counter(run.metrics["docker_denied"])

    assert told["lookups.error"] >= 1
    assert told["back_offs"] == 1
