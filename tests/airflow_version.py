"""The differences between Airflow versions: only this module of the tests asks which one is installed."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import TYPE_CHECKING

from airflow.models.connection import Connection as ServerConnection
from airflow.secrets import BaseSecretsBackend
from packaging.version import Version

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import DAG, BaseHook, BaseOperator, task
    from airflow.sdk import Connection as TaskConnection

    from ecr_secrets_backend import EcrSecretsBackend
else:
    try:
        from airflow.sdk import DAG, BaseOperator, task
        from airflow.sdk import Connection as TaskConnection
    except ImportError:  # before 3.0
        from airflow.decorators import task
        from airflow.models.baseoperator import BaseOperator
        from airflow.models.dag import DAG

        TaskConnection = ServerConnection
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before 3.2
        from airflow.models.dagbag import DagBag
    try:
        from airflow.sdk import BaseHook
    except ImportError:  # before 3.1
        from airflow.hooks.base import BaseHook

#: The exception after which Airflow asks no other backend; None: it always asks the next one.
DENIAL: type[Exception] | None
try:
    from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied
except ImportError:  # before 3.2.2
    DENIAL = None
else:
    DENIAL = AirflowSecretsBackendAccessDenied

__all__ = ["DAG", "BaseHook", "BaseOperator", "DagBag", "ServerConnection", "TaskConnection", "task"]

AIRFLOW = Version(version("apache-airflow"))
HAS_TASK_SDK = Version("3") <= AIRFLOW  # the classes for DAGs are in a package of their own
DISTRIBUTION = "apache-airflow-core" if HAS_TASK_SDK else "apache-airflow"  # with Airflow's requirements
HAS_WORKERS_BACKEND = Version("3") <= AIRFLOW  # in `[workers]`; before, a task is a part of the server
ANSWERS_TRIGGERS = not Version("3") <= AIRFLOW < Version("3.0.3")  # several lookups of triggers block each other there
HAS_KWARG_VARIABLES = Version("3.2") <= AIRFLOW  # each kwarg of the backend may have an environment variable
HAS_PROVIDER_COMMANDS = Version("3.2") <= AIRFLOW  # a provider may add commands to ``airflow``
HAS_PAGES = Version("3.1") <= AIRFLOW  # a plugin may add a page to the UI
HIDES_CONNECTIONS = Version("3.2") <= AIRFLOW  # lists leave out the connections that a user may not see
SENDS_METRICS_EVERYWHERE = not Version("3.2") <= AIRFLOW < Version("3.3")  # not from tasks only
TELLS_CLASS = hasattr(BaseSecretsBackend, "_set_connection_class")  # Airflow sets a backend's class of connections
HAS_TEAMS = "team_name" in inspect.signature(ServerConnection.get_connection_from_secrets).parameters
#: The modules that load plugins: in servers, and in tasks if these have one of their own.
PLUGIN_LOADERS = ["airflow.plugins_manager", *(["airflow.sdk.plugins_manager"] if Version("3.2") <= AIRFLOW else [])]
#: The processes of a small Airflow beside its scheduler, without the UI.
SERVERS = {"api-server": ["--apps=execution"], "dag-processor": []} if HAS_WORKERS_BACKEND else {}


def put_into_task(backend: EcrSecretsBackend) -> None:
    """Set the class of connections of a task, as Airflow does from 3.2 on; before, a backend detects it."""
    if TELLS_CLASS:
        backend._set_connection_class(TaskConnection)
