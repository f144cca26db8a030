"""The promises to tasks, in a whole Airflow of each supported version."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.airflow.deployment import AIRFLOWS_KEY, BY_AIRFLOW, IN_TRIGGER, LEFTOVER_HOST, host_of
from tests.airflow_version import ANSWERS_TRIGGERS, DENIAL, SENDS_METRICS_EVERYWHERE, TaskConnection

if TYPE_CHECKING:
    from tests.airflow.deployment import Run

pytestmark = pytest.mark.timeout(300)  # the first test waits for the whole Airflow
ONE_CALL = ["GetAuthorizationToken"]
CAUSE = "AccessDeniedException: User: u is not authorized"
AT_ERROR = re.compile(r'"level":\s?"error"| ERROR - ')
CONTINUES = "Airflow may now use an older connection with that ID"


def test_tasks_and_commands_share_one_call(run: Run) -> None:
    """Three lookups in two tasks and one of ``airflow connections get`` cost one AWS call."""
    lookups = [*run.served("docker_default"), run.printed]

    assert (run.states["first"], run.states["second"]) == ("success", "success")
    assert len(lookups) == 4
    for connection in lookups:
        assert (connection["conn_type"], connection["login"]) == ("docker", "AWS")
        assert (connection["host"], connection["password"] in run.valid) == (host_of("docker_default"), True)
    assert run.calls["docker_default"] == ONE_CALL


def test_a_task_receives_the_task_sdk_s_connection(run: Run) -> None:
    """It never receives a class that needs the database."""
    classes = {
        connection["class"] for conn_id in ("docker_default", "docker_worker") for connection in run.served(conn_id)
    }

    assert classes == {f"{TaskConnection.__module__}.{TaskConnection.__name__}"}


def test_cache_process_serves_all_lookups_of_a_task_from_memory(run: Run) -> None:
    """Three lookups of one process cost one call, however often Airflow builds the backend."""
    (process,) = run.lookups["docker_worker"]

    assert run.states["memory"] == "success"
    assert [connection["password"] in run.valid for connection in process["connections"]] == [True] * 3
    assert run.calls["docker_worker"] == ONE_CALL


def test_this_package_raises_no_warning(run: Run) -> None:
    """A lookup raises no warning that Airflow's own lookups do not raise, and no process logs one of this package."""
    assert [
        process["warnings"] for processes in run.lookups.values() for process in processes if process["warnings"]
    ] == []
    logs = [line for log in run.logs.values() for line in log] + run.output.splitlines()
    assert [line for line in logs if re.search(r"ecr_secrets_backend/\w+\.py.*Warning", line)] == []


def test_a_failed_lookup_logs_its_cause_in_the_task_s_log(run: Run) -> None:
    """The line at ERROR comes before Airflow's "isn't defined"; where Airflow passes it on, the exception follows."""
    log = run.logs["denied"]
    errors = [line for line in log if CAUSE in line and AT_ERROR.search(line)]
    undefined = [line for line in log if "isn't defined" in line]

    assert run.states["denied"] == "failed"
    assert "docker_denied" in errors[0]
    assert "LookupDeniedError" not in errors[0]
    if DENIAL is None:
        assert log.index(errors[0]) < log.index(undefined[0])
    else:
        assert "LookupDeniedError" in errors[-1]
        assert undefined == []


def test_a_leftover_connection_is_not_used_without_a_message(run: Run) -> None:
    """Where a backend can end a lookup, Airflow does not use it. Elsewhere, the line at ERROR warns of it."""
    errors = [line for line in run.logs["leftover"] if CAUSE in line and AT_ERROR.search(line)]

    if DENIAL is None:
        assert [connection["host"] for connection in run.served("docker_leftover")] == [LEFTOVER_HOST]
        assert CONTINUES in errors[0]
    else:
        assert run.states["leftover"] == "failed"
        assert "docker_leftover" not in run.lookups
        assert CONTINUES not in errors[0]


def test_a_task_uses_an_aws_connection_of_airflow_s_database(run: Run) -> None:
    """The lookup of the Docker connection looks up the AWS connection, too."""
    (process,) = run.lookups[BY_AIRFLOW]

    assert run.states["by_airflow"] == "success"
    assert [connection["password"] in run.valid for connection in process["connections"]] == [True]
    assert run.keys[BY_AIRFLOW] == [AIRFLOWS_KEY]


@pytest.mark.skipif(not ANSWERS_TRIGGERS, reason="in this Airflow, lookups of triggers block each other forever")
def test_lookups_in_a_trigger_use_an_aws_connection_of_airflow_s_database(run: Run) -> None:
    """During five lookups at once, the event loop of the triggerer answers their lookups of the AWS connection."""
    (process,) = run.lookups[IN_TRIGGER]

    assert run.states["in_trigger"] == "success"
    assert [connection["password"] in run.valid for connection in process["connections"]] == [True] * 5
    assert run.keys[IN_TRIGGER] == [AIRFLOWS_KEY]


@pytest.mark.parametrize("conn_id", ["docker_denied", "docker_leftover"])
def test_a_failure_costs_one_call(run: Run, conn_id: str) -> None:
    """The API server, to which Airflow then sends the lookup, reads the failure from the host's cache."""
    assert run.calls[conn_id] == ONE_CALL


def test_a_new_token_has_one_line_in_the_task_s_log_and_the_aws_libraries_none(run: Run) -> None:
    """boto3 itself logs at INFO where it found credentials."""
    lines = [line for name in ("first", "second") for line in run.logs[name]]
    received = [line for line in lines if "Received an ECR token for connection 'docker_default'" in line]

    assert len(received) == 1
    assert host_of("docker_default") in received[0]
    assert [line for line in lines if re.search(r"botocore|boto3\.|urllib3|Found credentials", line)] == []


def test_airflow_s_metrics_count_each_lookup(run: Run) -> None:
    """Those of tasks count once each, and that of the command where this Airflow's commands send metrics."""
    lookups = Counter(name for name in run.metrics["docker_default"] if name.startswith("lookups."))

    hits = 2 if SENDS_METRICS_EVERYWHERE else 1
    assert lookups == {"lookups.mint": 1, "lookups.process_hit": 1, "lookups.host_hit": hits}


def test_airflow_s_metrics_count_a_failed_lookup_and_its_back_off(run: Run) -> None:
    sent = Counter(run.metrics["docker_denied"])

    assert sent["lookups.error"] >= 1
    assert sent["back_offs"] == 1
