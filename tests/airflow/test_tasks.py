"""The promises to tasks, in a whole Airflow of each supported version."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.airflow.deployment import AIRFLOWS_KEY, BY_AIRFLOW, HOSTS, IN_TRIGGER, LEFTOVER_HOST
from tests.airflow_version import ANSWERS_TRIGGERS, DENIAL, SENDS_METRICS_EVERYWHERE, TaskConnection

if TYPE_CHECKING:
    from tests.airflow.deployment import Run

pytestmark = pytest.mark.timeout(300)  # the first test waits for the whole Airflow
CAUSE = "AccessDeniedException: User: u is not authorized"
AT_ERROR = re.compile(r'"level":\s?"error"| ERROR - ')
CONTINUES = "Airflow may now use an older connection with that ID"


def test_tasks_and_commands_share_one_call(run: Run) -> None:
    """Three lookups in two tasks and one of ``airflow connections get`` cost one AWS call."""
    lookups = [*run.served("docker_default"), run.printed()]

    assert (run.state("first"), run.state("second")) == ("success", "success")
    expected = ("docker", "AWS", HOSTS["docker_default"])
    assert [(each["conn_type"], each["login"], each["host"]) for each in lookups] == [expected] * 4
    assert run.are_valid(lookups) == [True] * 4
    assert len(run.calls("docker_default")) == 1


def test_a_task_receives_the_task_sdk_s_connection(run: Run) -> None:
    """It never receives a class that needs the database."""
    served = [*run.served("docker_default"), *run.served("docker_worker")]

    assert {each["class"] for each in served} == {f"{TaskConnection.__module__}.{TaskConnection.__name__}"}


def test_cache_process_serves_all_lookups_of_a_task_from_memory(run: Run) -> None:
    """Three lookups of one process cost one call, however often Airflow builds the backend."""
    (process,) = run.lookups("docker_worker")

    assert run.state("memory") == "success"
    assert run.are_valid(process["connections"]) == [True] * 3
    assert len(run.calls("docker_worker")) == 1


def test_this_package_raises_no_warning(run: Run) -> None:
    """A lookup raises no warning that Airflow's own lookups do not raise, and no process logs one of this package."""
    assert [process["warnings"] for process in run.lookups() if process["warnings"]] == []
    output = [line for log in run.site.home.glob("*.log") for line in log.read_text().splitlines()]
    warning = re.compile(r"ecr_secrets_backend/\w+\.py.*Warning")
    assert list(filter(warning.search, run.log() + output)) == []


def test_a_failed_lookup_logs_its_cause_in_the_task_s_log(run: Run) -> None:
    """The line at ERROR comes before Airflow's "isn't defined"; where Airflow passes it on, the exception follows.

    The API server, to which Airflow then sends the lookup, reads the failure from the host's cache, and calls no AWS.
    """
    log = run.log("denied")
    errors = [line for line in log if CAUSE in line and AT_ERROR.search(line)]
    undefined = [line for line in log if "isn't defined" in line]

    assert run.state("denied") == "failed"
    assert len(run.calls("docker_denied")) == 1
    assert "docker_denied" in errors[0]
    assert "LookupDeniedError" not in errors[0]
    if DENIAL is None:
        assert log.index(errors[0]) < log.index(undefined[0])
    else:
        assert "LookupDeniedError" in errors[-1]
        assert undefined == []


def test_a_leftover_connection_is_not_used_without_a_message(run: Run) -> None:
    """Where a backend can end a lookup, Airflow does not use it. Elsewhere, the line at ERROR warns of it."""
    errors = [line for line in run.log("leftover") if CAUSE in line and AT_ERROR.search(line)]

    assert len(run.calls("docker_leftover")) == 1
    if DENIAL is None:
        assert [connection["host"] for connection in run.served("docker_leftover")] == [LEFTOVER_HOST]
        assert CONTINUES in errors[0]
    else:
        assert run.state("leftover") == "failed"
        assert run.lookups("docker_leftover") == []
        assert CONTINUES not in errors[0]


@pytest.mark.parametrize(
    ("task_id", "conn_id", "times"),
    [
        ("by_airflow", BY_AIRFLOW, 1),
        pytest.param(
            "in_trigger",
            IN_TRIGGER,
            5,
            marks=pytest.mark.skipif(not ANSWERS_TRIGGERS, reason="lookups of triggers block each other forever"),
        ),
    ],
    ids=["task", "trigger"],
)
def test_a_lookup_uses_an_aws_connection_of_airflow_s_database(
    run: Run, task_id: str, conn_id: str, times: int
) -> None:
    """It looks up the AWS connection, too. The triggerer's event loop answers that during five lookups at once."""
    processes = run.lookups(conn_id)  # two if a busy Airflow 3.0 lost the state of the task, and started it again

    assert run.state(task_id) == "success"
    assert {len(process["connections"]) for process in processes} == {times}
    assert [process["warnings"] for process in processes if process["warnings"]] == []
    assert all(run.are_valid(run.served(conn_id)))
    assert [call.access_key_id for call in run.calls(conn_id)] == [AIRFLOWS_KEY]


def test_a_new_token_has_one_line_in_the_task_s_log_and_the_aws_libraries_none(run: Run) -> None:
    """boto3 itself logs at INFO where it found credentials."""
    lines = [*run.log("first"), *run.log("second")]
    (received,) = [line for line in lines if "Received an ECR token for connection 'docker_default'" in line]

    assert HOSTS["docker_default"] in received
    assert [line for line in lines if re.search(r"botocore|boto3\.|urllib3|Found credentials", line)] == []


def test_airflow_s_metrics_count_each_lookup(run: Run) -> None:
    """Those of tasks count once each, and that of the command where this Airflow's commands send metrics."""
    failed = run.metrics("docker_denied")
    lookups = {name: count for name, count in run.metrics("docker_default").items() if name.startswith("lookups.")}

    hits = 2 if SENDS_METRICS_EVERYWHERE else 1
    assert lookups == {"lookups.mint": 1, "lookups.process_hit": 1, "lookups.host_hit": hits}
    assert failed["lookups.error"] >= 1
    assert failed["back_offs"] == 1
