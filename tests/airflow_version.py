"""What differs from one Airflow to another, asked of the one that is installed: here, and nowhere else in the tests."""

from __future__ import annotations

import inspect
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import TYPE_CHECKING, Any

from airflow.models.connection import Connection as ServerConnection
from packaging.version import Version

if TYPE_CHECKING:
    import pytest
    from airflow.sdk import DAG, BaseHook, task
    from airflow.sdk import Connection as TaskConnection

    from ecr_secrets_backend import EcrSecretsBackend
else:
    try:
        from airflow.sdk import DAG, task
        from airflow.sdk import Connection as TaskConnection
    except ImportError:  # before 3.0
        from airflow.decorators import task
        from airflow.models.dag import DAG

        TaskConnection = ServerConnection
    try:
        from airflow.sdk import BaseHook
    except ImportError:  # before 3.1
        from airflow.hooks.base import BaseHook

try:
    from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied
except ImportError:  # before 3.2.2
    AirflowSecretsBackendAccessDenied = None

__all__ = ["DAG", "BaseHook", "ServerConnection", "TaskConnection", "task"]

AIRFLOW = Version(version("apache-airflow"))

#: The exception that Airflow takes for a backend's last word; where there is none, it always asks the next one.
DENIAL: type[Exception] | None = AirflowSecretsBackendAccessDenied

#: Whether a worker may have a backend of its own, by `[workers]`; before, a task is a part of the server.
HAS_WORKERS_BACKEND = Version("3") <= AIRFLOW

#: Whether each kwarg of the backend may have an environment variable of its own.
HAS_KWARG_VARIABLES = Version("3.2") <= AIRFLOW

#: Whether the server's lookups may name a team.
HAS_TEAMS = "team_name" in inspect.signature(ServerConnection.get_connection_from_secrets).parameters

#: The processes of a small Airflow beside its scheduler, without those that serve people.
SERVERS = {"api-server": ["--apps=execution"], "dag-processor": []} if HAS_WORKERS_BACKEND else {}


def requires_python() -> str:
    """Give the Pythons that Airflow's own metadata admit."""
    try:
        return metadata("apache-airflow-core")["Requires-Python"]
    except PackageNotFoundError:  # before 3.0
        return metadata("apache-airflow")["Requires-Python"]


def put_into_task(backend: EcrSecretsBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a backend believe that a task asks it, as Airflow does."""
    if hasattr(backend, "_set_connection_class"):  # from 3.2 on
        backend._set_connection_class(TaskConnection)
    elif HAS_WORKERS_BACKEND:
        name = "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS"
        monkeypatch.setattr(name, object(), raising=False)
