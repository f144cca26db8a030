"""What the tasks in the DAG folder do: look a connection up, and leave what they got where the tests find it."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

from tests.airflow_version import BaseHook, task

RESULTS = "ECR_TEST_RESULTS"  # the variable that names the folder
AIRFLOWS_OWN = "airflows_own"  # a connection that an environment variable holds


@task
def look_up(conn_id: str, times: int = 1) -> None:
    look_up_here(conn_id, times)


def look_up_here(conn_id: str, times: int = 1) -> None:
    """Look up in this process, so often; a lookup that Airflow serves alone tells which warnings are its own."""
    _, heard_anyway = hear(AIRFLOWS_OWN)
    rounds = [hear(conn_id) for _ in range(times)]
    result = {
        "connections": [fields for fields, _ in rounds],
        "warnings": sorted({warning for _, heard in rounds for warning in heard - heard_anyway}),
        "pid": os.getpid(),
    }
    Path(os.environ[RESULTS], f"{conn_id}-{os.getpid()}.json").write_text(json.dumps(result))


def hear(conn_id: str) -> tuple[dict[str, str | None], set[str]]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        connection = BaseHook.get_connection(conn_id)  # as a DockerOperator's hook does before it logs in
    fields = {name: getattr(connection, name) for name in ("conn_type", "host", "login", "password")}
    fields["class"] = f"{type(connection).__module__}.{type(connection).__name__}"
    return fields, {f"{warning.category.__name__}: {warning.message}" for warning in heard}
