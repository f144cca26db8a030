"""The backend that Airflow calls: serve a mapped connection, or pass the lookup on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from airflow.secrets import BaseSecretsBackend

from ecr_secrets_backend import airflow_compat, metrics
from ecr_secrets_backend.errors import TokenError, TokenFailure
from ecr_secrets_backend.fallback import FallbackChain
from ecr_secrets_backend.logins import Logins
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.settings import MappedConnection, Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
_NEXT_SOURCE: Final = " Airflow may now use an older connection with that ID, from its environment or its database."
_BUILD_FIX: Final = "Check [core] fernet_key and Airflow's log of this process. The token itself is valid."


class EcrSecretsBackend(BaseSecretsBackend):
    """Serves Docker connections with valid ECR tokens, and passes all other lookups on to the fallback backends.

    ```ini
    [secrets]
    backend = ecr_secrets_backend.EcrSecretsBackend
    backend_kwargs = {"connections": {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}}
    ```

    Airflow builds the backend for many lookups, so building it does no I/O. Threads and forked processes may share it,
    and an event loop may call it.

    :param kwargs: the settings that ``ecr_secrets_backend.settings.SETTINGS`` lists
    :raises ConfigurationError: a setting is not valid
    """

    def __init__(self, /, **kwargs: object) -> None:
        super().__init__()
        self.settings = settings = Settings.parse(kwargs)
        self._connections = settings.connections
        self._logins = Logins(settings, partial(airflow_compat.look_up_connection, self))
        self._fallback = FallbackChain(settings.fallback_backends) if settings.fallback_backends else None
        with suppress(ImportError):
            airflow_compat.sends_metrics()  # cached before Airflow forks the processes of tasks

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:  # noqa: ANN401 - Airflow chooses the class
        """Return a mapped connection, or the connection that a fallback backend has; None if no backend has it.

        :param team_name: passed to the fallback backends; a mapped connection is the same for all teams
        :raises ConnectionUnavailableError: the connection has no valid token, and ``on_error`` is ``"raise"``
        """
        connection = self._connections.get(conn_id)
        if connection is None:
            return self._fallback and self._fallback.look_up("get_connection", conn_id=conn_id, team_name=team_name)
        return self._serve(connection, lambda fields: airflow_compat.connection_class(self)(conn_id=conn_id, **fields))

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Return a mapped connection as JSON, password included, or the text that a fallback backend has."""
        connection = self._connections.get(conn_id)
        if connection is None:
            return self._fallback and self._fallback.look_up("get_conn_value", conn_id=conn_id, team_name=team_name)
        return self._serve(connection, json.dumps)

    async def aget_connection(self, conn_id: str) -> Any:  # noqa: ANN401 - Airflow chooses the class
        """Return ``get_connection(conn_id)`` without blocking the event loop.

        From Airflow 3.1 on, the inherited method runs one lookup at a time, in a thread that other code needs.
        """
        from asgiref.sync import sync_to_async

        # Not asyncio.to_thread: in the triggerer of Airflow 3.1, a lookup of aws_conn_id finds the loop only through
        # asgiref, and breaks the triggerer's messages from any other thread.
        return await sync_to_async(self.get_connection, thread_sensitive=False)(conn_id)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return the value that a fallback backend has, or None. The inherited method would log an error."""
        return self._fallback and self._fallback.look_up("get_variable", key=key, team_name=team_name)

    def get_config(self, key: str) -> str | None:
        """Return the value that a fallback backend has for a ``*_secret`` option of Airflow, or None."""
        return self._fallback and self._fallback.look_up("get_config", key=key)

    def _set_connection_class(self, conn_class: type) -> None:
        """Set the class of Connection that Airflow expects. Airflow calls it from 3.2 on."""
        super()._set_connection_class(conn_class)
        if self._fallback is not None:
            self._fallback.set_connection_class(conn_class)

    def _serve(self, connection: MappedConnection, build: Callable[[dict[str, Any]], T]) -> T | None:
        """Return the object that is built from the fields of a connection. After a failure, follow ``on_error``."""
        result = self._build(connection, build)
        if not isinstance(result, TokenFailure):
            return result
        error = airflow_compat.access_denied(connection.conn_id, result)
        raises = self.settings.on_error == "raise"
        is_final = raises and airflow_compat.passes_on_access_denied()
        # Airflow logs the exception at DEBUG or not at all, so the task's log needs this line.
        log(logger, logging.ERROR, "%s%s", error, "" if is_final else _NEXT_SOURCE)
        if raises:  # here, because no local variable has the token
            raise error
        return None

    def _build(self, connection: MappedConnection, build: Callable[[dict[str, Any]], T]) -> T | TokenFailure:
        try:
            login = self._logins.get(connection)
        except TokenError as error:
            metrics.report(connection, error)
            return error.failure
        metrics.report(connection, login)
        host, _, port = login.host.partition(":")  # DockerHook joins them again
        fields = {
            "conn_type": "docker",
            "host": host,
            "port": int(port) if port else None,
            "login": login.token.username,
            "password": login.token.password,
            "extra": connection.extra,
        }
        try:
            return build(fields)
        except Exception as error:  # noqa: BLE001 - the traceback of any exception has the token
            return connection.identity.failure(type(error).__name__, "Airflow cannot build its Connection", _BUILD_FIX)
