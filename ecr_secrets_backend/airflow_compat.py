"""All differences between Airflow versions, each with the version that makes it unnecessary."""

from __future__ import annotations

import sys
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from ecr_secrets_backend.errors import ConnectionUnavailableError, TokenFailure


def access_denied(conn_id: str, failure: TokenFailure) -> ConnectionUnavailableError:
    """Return the exception for a failed lookup, after which Airflow does not look in its database.

    Unpickling calls this function again, so that the class suits the process that reads the exception.
    """
    # Any process that runs an API server has imported FastAPI, even a task that runs the server itself.
    return _access_denied_class(is_on_server="fastapi" in sys.modules)(conn_id, failure)


@cache
def _access_denied_class(*, is_on_server: bool) -> type[ConnectionUnavailableError]:
    try:
        from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied
    except ImportError:  # before Airflow 3.2.2, which brings task SDK 1.2.2
        return ConnectionUnavailableError

    class LookupDeniedError(ConnectionUnavailableError, AirflowSecretsBackendAccessDenied):
        __qualname__ = "LookupDeniedError"

        def __reduce__(self) -> tuple[Any, tuple[str, TokenFailure]]:
            return access_denied, (self.conn_id, self.failure)

    if not is_on_server:
        return LookupDeniedError

    # The API server answers any other exception with status 500. A worker then retries for up to 18 s and reports that
    # the connection "isn't defined". After status 403 the task fails at once and reports that access was denied.
    # Unnecessary when Airflow itself answers 403 if a backend denies access. Airflow 3.3.2 does not.
    from fastapi import HTTPException

    class ForbiddenLookupError(LookupDeniedError, HTTPException):
        def __init__(self, conn_id: str, failure: TokenFailure) -> None:
            super().__init__(conn_id, failure)
            HTTPException.__init__(self, HTTPStatus.FORBIDDEN, {"reason": "access_denied", "message": str(self)})

    # The log of a task names the class, and a task may inherit FastAPI from the process that starts it.
    ForbiddenLookupError.__name__ = ForbiddenLookupError.__qualname__ = LookupDeniedError.__name__
    return ForbiddenLookupError


def passes_on_access_denied() -> bool:
    """Return whether Airflow passes the exception on to the task. It always does from 3.2.2 on."""
    return _access_denied_class(is_on_server=False) is not ConnectionUnavailableError


def is_access_denied(error: Exception) -> bool:
    """Return whether Airflow passes an exception of another backend on to the task."""
    # Not imported here, because a backend that raises the exception has imported it.
    denied = getattr(sys.modules.get("airflow.sdk.exceptions"), "AirflowSecretsBackendAccessDenied", ())
    return issubclass(type(error), denied)  # isinstance would read the exception's own __class__, which may raise


def connection_class(backend: object) -> type:
    """Return the class of Connection that Airflow expects from a backend. Airflow 3.2 and later set it."""
    conn_class: type | None = getattr(backend, "_connection_class", None)
    if conn_class is not None:
        return conn_class
    # Unnecessary from 3.2 on. Before, the imported modules show whether this process is a task.
    if hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
        from airflow.sdk import Connection

        return Connection
    from airflow.models.connection import Connection as ServerConnection

    return ServerConnection


def look_up_connection(backend: object, conn_id: str) -> Any:  # noqa: ANN401 - of one of Airflow's classes
    """Look up a connection as Airflow does in this process, and raise Airflow's exceptions."""
    conn_class: Any = connection_class(backend)
    # Unnecessary when the server's class and the task SDK's have a method of the same name. In 3.3.2 they do not.
    look_up = getattr(conn_class, "get_connection_from_secrets", None) or conn_class.get
    return look_up(conn_id)


#: Airflow sends metrics if one of these options of its section ``metrics`` is on.
METRICS_SWITCHES: Final = ("statsd_on", "otel_on", "statsd_datadog_enabled")


@cache
def sends_metrics() -> bool:
    """Return whether Airflow sends metrics from this process and from those that it forks.

    :raises ImportError: Airflow is still reading its configuration
    """
    from airflow.configuration import conf

    try:
        return any(conf.getboolean("metrics", switch, fallback=False) for switch in METRICS_SWITCHES)
    except Exception:  # noqa: BLE001 - Airflow reports an option that is not a boolean
        return False


@cache
def stats() -> Any:  # noqa: ANN401 - its class differs between versions
    """Return Airflow's metrics client."""
    try:  # only one of the two, or each count doubles
        from airflow.sdk.observability.stats import Stats
    except ImportError:  # before Airflow 3.2
        from airflow.stats import Stats
    return Stats
