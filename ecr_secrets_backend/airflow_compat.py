"""Every difference between the versions of Airflow, each with the version from which it can go."""

from __future__ import annotations

import sys
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from ecr_secrets_backend.errors import ConnectionUnavailableError, TokenFailure


def denial(conn_id: str, failure: TokenFailure) -> ConnectionUnavailableError:
    """Return the exception for a failed lookup. A pickled one becomes that of the process which reads it.

    It is of the one kind that Airflow does not follow by a lookup in its database.
    """
    # FastAPI is imported wherever there is an API server, even within the process of a task.
    return _denial_class(is_on_server="fastapi" in sys.modules)(conn_id, failure)


@cache
def _denial_class(*, is_on_server: bool) -> type[ConnectionUnavailableError]:
    try:
        from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied
    except ImportError:  # can go with Airflow 3.2.2, whose task SDK is the first that has it
        return ConnectionUnavailableError

    class LookupDeniedError(ConnectionUnavailableError, AirflowSecretsBackendAccessDenied):
        __qualname__ = "LookupDeniedError"

        def __reduce__(self) -> tuple[Any, tuple[str, TokenFailure]]:
            return denial, (self.conn_id, self.failure)

    if not is_on_server:
        return LookupDeniedError

    # The API server answers any other exception by 500. A worker then retries for up to 18 s, and reports that the
    # connection "isn't defined". After 403 the task fails at once, with the reason that access was denied.
    # It can go when Airflow itself answers 403 where a backend has denied access: 3.3.2 does not.
    from fastapi import HTTPException

    class AnsweringError(LookupDeniedError, HTTPException):
        def __init__(self, conn_id: str, failure: TokenFailure) -> None:
            super().__init__(conn_id, failure)
            HTTPException.__init__(self, HTTPStatus.FORBIDDEN, {"reason": "access_denied", "message": str(self)})

    # Tasks inherit FastAPI from the process that starts them, and their logs name the class.
    AnsweringError.__name__ = AnsweringError.__qualname__ = LookupDeniedError.__name__
    return AnsweringError


def passes_denial_on() -> bool:
    """Return whether Airflow passes a denial on to the task: always from 3.2.2 on."""
    return _denial_class(is_on_server=False) is not ConnectionUnavailableError


def is_denial(error: Exception) -> bool:
    """Return whether an exception of another backend is one that Airflow passes on to the task."""
    # Not imported here: a backend that raises it has imported it.
    denied = getattr(sys.modules.get("airflow.sdk.exceptions"), "AirflowSecretsBackendAccessDenied", ())
    return issubclass(type(error), denied)  # isinstance would read the exception's own __class__, which may raise


def connection_class(backend: object) -> type:
    """Return the class of Connection that Airflow wants from a backend.

    From 3.2 on Airflow sets it on the backend, and the rest can go. In 3.0 and 3.1, the modules show if this is a task.
    """
    wanted: type | None = getattr(backend, "_connection_class", None)
    if wanted is not None:
        return wanted
    if hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
        from airflow.sdk import Connection

        return Connection
    from airflow.models.connection import Connection as ServerConnection

    return ServerConnection


def look_up_connection(backend: object, conn_id: str) -> Any:  # noqa: ANN401 - of one of Airflow's classes
    """Look up a connection as Airflow does in this process, and raise whatever Airflow raises."""
    wanted: Any = connection_class(backend)
    # The server's class and the task SDK's name the method differently: 3.3.2 still does.
    look_up = getattr(wanted, "get_connection_from_secrets", None) or wanted.get
    return look_up(conn_id)


#: Airflow sends metrics if one of these options of its section ``metrics`` is on.
METRICS_SWITCHES: Final = ("statsd_on", "otel_on", "statsd_datadog_enabled")


@cache
def sends_metrics() -> bool:
    """Return whether Airflow sends metrics from this process, and from those that it forks.

    :raises ImportError: Airflow is still reading its configuration
    """
    from airflow.configuration import conf

    try:
        return any(conf.getboolean("metrics", switch, fallback=False) for switch in METRICS_SWITCHES)
    except Exception:  # noqa: BLE001 - a value that is not a truth value stops Airflow's own metrics, which report it
        return False


@cache
def stats() -> Any:  # noqa: ANN401 - a class of its own in each version
    """Return what Airflow sends its metrics by."""
    try:  # one of the two, or every count doubles
        from airflow.sdk.observability.stats import Stats
    except ImportError:  # can go with Airflow 3.2
        from airflow.stats import Stats
    return Stats
