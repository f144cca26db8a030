"""Airflow's face: which connections are ours, and what Airflow gets for them."""

from __future__ import annotations

import json
import logging
import sys
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow.secrets import BaseSecretsBackend

from ecr_secrets_backend.airflow_options import seconds_kept
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.errors import ConnectionUnavailableError, EcrSecretsBackendError, MintError
from ecr_secrets_backend.fallback import FallbackChain
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.logins import Logins
from ecr_secrets_backend.metrics import metrics_of_airflow
from ecr_secrets_backend.settings import Settings

if TYPE_CHECKING:
    from ecr_secrets_backend.errors import MintFailure
    from ecr_secrets_backend.identity import AwsConnection
    from ecr_secrets_backend.settings import MappedConnection

    PassedOnError = PermissionError
else:
    try:
        from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied as PassedOnError
    except ImportError:  # before task SDK 1.2.2
        PassedOnError = EcrSecretsBackendError

logger = logging.getLogger(__name__)

_GOES_ON = " Airflow may now go on to an older connection of that name, in its environment or its database."


class LookupDeniedError(ConnectionUnavailableError, PassedOnError):
    """A lookup that failed: the one kind of exception that Airflow passes on to the task, where it knows such a kind.

    With any other it goes on to the next backend, and perhaps to a token that died in its database long ago.
    """

    is_final = issubclass(PassedOnError, PermissionError)


@cache
def _denial_that_answers() -> type[LookupDeniedError]:
    """Make the denial an answer of the API server as well, for tasks that look up through it.

    Any other exception is answered by 500, for which a worker asks again, for up to 18 s, and then says that the
    connection "isn't defined". By 403 the task fails at once, and is told that it was denied. Should Airflow come to
    treat such an exception like any other, it will be 500 again.
    """
    from fastapi import HTTPException

    class AnsweringError(LookupDeniedError, HTTPException):
        def __init__(self, conn_id: str, failure: MintFailure) -> None:
            LookupDeniedError.__init__(self, conn_id, failure)
            HTTPException.__init__(self, HTTPStatus.FORBIDDEN, {"reason": "access_denied", "message": str(self)})

        def __reduce__(self) -> tuple[type[LookupDeniedError], tuple[str, MintFailure]]:
            return LookupDeniedError, (self.conn_id, self.failure)

    AnsweringError.__name__ = AnsweringError.__qualname__ = LookupDeniedError.__name__
    return AnsweringError


class EcrSecretsBackend(BaseSecretsBackend):
    """Serves Docker connections with live ECR tokens, and hands all else on to the fallback backends, if any.

    ```ini
    [secrets]
    backend = ecr_secrets_backend.EcrSecretsBackend
    backend_kwargs = {"connections": {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}}
    ```

    Building one does no I/O: Airflow builds it in each of its processes, and in some of them for each lookup. Processes
    may fork, threads may share one, and an event loop may call it.

    :param kwargs: the settings; ``ecr_secrets_backend.settings.SETTINGS`` tells what each means
    :raises ConfigurationError: one of them cannot be right
    """

    def __init__(self, /, **kwargs: object) -> None:
        super().__init__()
        settings = Settings.parse(kwargs)
        store = HostStore(settings.cache_dir) if settings.cache == "host" else None
        self.settings = settings  #: what the kwargs say
        self._connections = settings.connections
        self._raises = settings.on_error == "raise"
        self._cache = TokenCache(store, settings.refresh_before, kept_for=seconds_kept)
        self._logins = Logins(self._cache, self._aws_connection)
        self._fallback = FallbackChain(settings.fallback_backends) if settings.fallback_backends else None

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:  # noqa: ANN401 - of Airflow's choice
        """Serve a mapped connection, or ask the fallback backends.

        :param conn_id: the connection's ID
        :param team_name: for the fallback backends: a mapped connection is the same for all teams
        :return: the connection, of the class that Airflow wants; None if it is not mapped, and nobody else's either
        :raises ConnectionUnavailableError: there is no live token for it, and ``on_error`` is ``"raise"``
        """
        mapped = self._connections.get(conn_id)
        if mapped is None:
            return None if self._fallback is None else self._fallback.get_connection(conn_id, team_name)
        fields = self._fields(mapped)
        return None if fields is None else self._wanted_class()(conn_id=conn_id, **fields)

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Serve a mapped connection as JSON text, for whoever asks for a value rather than a connection.

        :param conn_id: the connection's ID
        :param team_name: for the fallback backends
        :return: an object of the connection's fields, its password among them, or what a fallback backend has for it
        :raises ConnectionUnavailableError: there is no live token for it, and ``on_error`` is ``"raise"``
        """
        mapped = self._connections.get(conn_id)
        if mapped is None:
            return None if self._fallback is None else self._fallback.get_conn_value(conn_id, team_name)
        fields = self._fields(mapped)
        return None if fields is None else json.dumps(fields)

    async def aget_connection(self, conn_id: str) -> Any:  # noqa: ANN401 - of Airflow's choice
        """Serve a mapped connection, or ask the fallback backends, without holding up the event loop.

        Airflow looks for this method from 3.1 on, and runs ``get_connection`` in a thread where there is none. So does
        this method with a mapped connection, whose token may have to be minted; any other needs no thread unless a
        fallback backend does.

        :param conn_id: the connection's ID
        :return: what ``get_connection`` returns
        :raises ConnectionUnavailableError: as ``get_connection``
        """
        if conn_id not in self._connections:
            return None if self._fallback is None else await self._fallback.aget_connection(conn_id)
        from asgiref.sync import sync_to_async

        return await sync_to_async(self.get_connection)(conn_id)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Ask the fallback backends: here are no variables, for which the inherited method would log an error.

        :param key: the variable's name
        :param team_name: for the fallback backends
        :return: its value; None if nobody has it
        """
        return None if self._fallback is None else self._fallback.get_variable(key, team_name)

    def get_config(self, key: str) -> str | None:
        """Ask the fallback backends: here is no configuration.

        :param key: what a ``*_secret`` option of Airflow's configuration holds
        :return: the option's value; None if nobody has it
        """
        return None if self._fallback is None else self._fallback.get_config(key)

    def _set_connection_class(self, conn_class: type) -> None:
        """Take which class of Connection Airflow wants, which it says from 3.2 on, and pass it on."""
        super()._set_connection_class(conn_class)
        if self._fallback is not None:
            self._fallback.set_connection_class(conn_class)

    def _fields(self, mapped: MappedConnection) -> dict[str, str | None] | None:
        metrics = metrics_of_airflow()
        try:
            login = self._logins.get(mapped) if metrics is None else metrics.get(self._logins, mapped)
        except MintError as error:
            failure = error.failure
        else:
            return {
                "conn_type": "docker",
                "host": login.host,
                "login": login.token.username,
                "password": login.token.password,
                "extra": mapped.extra,
            }
        self._fail(mapped, failure)
        return None

    def _aws_connection(self, aws_conn_id: str) -> AwsConnection:
        """Look up an AWS connection, as Airflow does in this process."""
        wanted: Any = self._wanted_class()
        look_up = getattr(wanted, "get_connection_from_secrets", None) or wanted.get
        connection: AwsConnection = look_up(aws_conn_id)
        return connection

    def _fail(self, mapped: MappedConnection, failure: MintFailure) -> None:
        # Imported wherever there is an API server, even one within the process, whose answer the exception may become.
        # Where Airflow passes no exception on, none becomes an answer.
        answers = LookupDeniedError.is_final and "fastapi" in sys.modules
        kind = _denial_that_answers() if answers else LookupDeniedError
        error = kind(mapped.conn_id, failure)
        # Airflow tells of an exception at DEBUG, if at all: this line is what a user finds in the task's log.
        logger.error("%s%s", error, "" if self._raises and error.is_final else _GOES_ON)
        if self._raises:
            raise error

    def _wanted_class(self) -> type:
        """Tell which class of Connection Airflow wants: it says so from 3.2 on, and shows it by its modules before."""
        wanted: type | None = getattr(self, "_connection_class", None)
        if wanted is not None:
            return wanted
        if hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
            from airflow.sdk import Connection

            return Connection
        from airflow.models.connection import Connection as ServerConnection

        return ServerConnection
