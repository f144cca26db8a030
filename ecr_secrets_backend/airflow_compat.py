"""Every difference between the versions of Airflow, each with the version from which it can go."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from ecr_secrets_backend.errors import ConnectionUnavailableError, EcrSecretsBackendError

if TYPE_CHECKING:
    from ecr_secrets_backend.errors import MintFailure


def denial(conn_id: str, failure: MintFailure) -> ConnectionUnavailableError:
    """Return the exception for a failed lookup of a connection.

    On an API server it is an HTTP answer as well. FastAPI is imported wherever there is one, even within the process.
    Where Airflow passes no exception on to the task, none becomes an answer.
    """
    is_answer = passes_denial_on() and "fastapi" in sys.modules
    return (_answering_class() if is_answer else denial_class())(conn_id, failure)


def passes_denial_on() -> bool:
    """Return whether Airflow passes a denial on to the task: always from 3.2.2 on."""
    return issubclass(denial_class(), PermissionError)


@cache
def denial_class() -> type[ConnectionUnavailableError]:
    """Return the class of a failed lookup: the one kind of exception that Airflow passes on, if it knows such a kind.

    After any other, Airflow goes on to the next backend, and perhaps to an expired token in its database.
    """
    passed_on: Any = EcrSecretsBackendError
    with suppress(ImportError):  # can go with Airflow 3.2.2, whose task SDK is the first that has it
        from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

        passed_on = AirflowSecretsBackendAccessDenied

    class LookupDeniedError(ConnectionUnavailableError, passed_on):  # type: ignore[misc]
        def __reduce__(self) -> tuple[Any, tuple[str, MintFailure]]:
            return _denial, (self.conn_id, self.failure)

    LookupDeniedError.__qualname__ = LookupDeniedError.__name__
    return LookupDeniedError


def _denial(conn_id: str, failure: MintFailure) -> ConnectionUnavailableError:
    """Return what a failed lookup is unpickled as: in another process it is not an answer."""
    return denial_class()(conn_id, failure)


@cache
def _answering_class() -> type[ConnectionUnavailableError]:
    """Return the class whose instances the API server answers by 403.

    It answers any other exception by 500. A worker then retries for up to 18 s, and reports that the connection "isn't
    defined". After 403 the task fails at once, with the reason that access was denied.

    It can go when Airflow itself answers 403 where a backend has denied access: 3.3.2 does not.
    """
    from fastapi import HTTPException

    base: Any = denial_class()

    class AnsweringError(base, HTTPException):  # type: ignore[misc]
        def __init__(self, conn_id: str, failure: MintFailure) -> None:
            base.__init__(self, conn_id, failure)
            HTTPException.__init__(self, HTTPStatus.FORBIDDEN, {"reason": "access_denied", "message": str(self)})

    AnsweringError.__name__ = AnsweringError.__qualname__ = base.__name__
    return AnsweringError


def connection_class(backend: object) -> type:
    """Return the class of Connection that Airflow wants from a backend.

    From 3.2 on Airflow sets it on the backend; then the rest can go. In 3.0 and 3.1 the task's runner shows by its
    modules that this process is a task.
    """
    wanted: type | None = getattr(backend, "_connection_class", None)
    if wanted is not None:
        return wanted
    if hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
        from airflow.sdk import Connection

        return Connection
    from airflow.models.connection import Connection as ServerConnection

    return ServerConnection


def look_up_connection(wanted: Any, conn_id: str) -> Any:  # noqa: ANN401 - each of Airflow's classes
    """Look up a connection as Airflow does in this process.

    The server's class and the task SDK's name the method differently in 3.3.2 still.

    :param wanted: the class of Connection
    :raises Exception: whatever Airflow raises
    """
    look_up = getattr(wanted, "get_connection_from_secrets", None) or wanted.get
    return look_up(conn_id)


#: Airflow sends metrics if one of these options of its section ``metrics`` is on.
METRICS_SWITCHES: Final = ("statsd_on", "otel_on", "statsd_datadog_enabled")


@cache
def sends_metrics() -> bool:
    """Return whether Airflow sends metrics from this process; read once, at the first lookup."""
    from airflow.configuration import conf

    try:
        return any(conf.getboolean("metrics", switch, fallback=False) for switch in METRICS_SWITCHES)
    except Exception:  # noqa: BLE001 - a value that is not a truth value stops Airflow's own metrics, which report it
        return False


def stats() -> Any:  # noqa: ANN401 - a class of its own in each version
    """Return what Airflow sends its metrics by: one of two, or every count doubles."""
    try:
        from airflow.sdk.observability.stats import Stats
    except ImportError:  # can go with Airflow 3.2
        from airflow.stats import Stats
    return Stats


#: What Airflow 3 leaves to its tasks, and to all that they start, in place of its database's URL. SQLAlchemy cannot
#: read it, so that no other process can import Airflow there. Source: ``block_orm_access`` of its supervisor; 3.3.2
#: needs it still.
_FORBIDDEN_DATABASE: Final = "airflow-db-not-allowed:///"
_DATABASE_VARIABLES: Final = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN")
_EMPTY_DATABASE: Final = "sqlite://"  # in memory


def allow_import_in_task_child() -> None:
    """Let a process that a task has started, as a BashOperator does, import Airflow."""
    if "airflow" not in sys.modules:
        for name in _DATABASE_VARIABLES:
            if os.environ.get(name) == _FORBIDDEN_DATABASE:
                os.environ[name] = _EMPTY_DATABASE
