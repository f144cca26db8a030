"""The backend that Airflow calls: which connections it serves, and what Airflow gets for them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from airflow.secrets import BaseSecretsBackend

from ecr_secrets_backend import airflow_compat, metrics
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.errors import MintError, MintFailure
from ecr_secrets_backend.fallback import FallbackChain
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.logins import Logins
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.identity import AwsConnection
    from ecr_secrets_backend.settings import MappedConnection

logger = logging.getLogger(__name__)

_GOES_ON: Final = " Airflow may now use an older connection with that ID, from its environment or its database."
_BUILD_FIX: Final = "Check [core] fernet_key, and Airflow's own log, of this process: the token itself was received."


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
        self._cache = TokenCache(store, settings.refresh_before)
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
        return self._serve(mapped, lambda fields: airflow_compat.connection_class(self)(conn_id=conn_id, **fields))

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
        value: str | None = self._serve(mapped, json.dumps)
        return value

    async def aget_connection(self, conn_id: str) -> Any:  # noqa: ANN401 - of Airflow's choice
        """Return what ``get_connection`` returns, and leave the event loop free meanwhile.

        Airflow calls this method from 3.1 on. Without it, Airflow would run all lookups one after the other in a
        thread that other code in the event loop needs as well. Here each lookup has a thread of its own.
        """
        from asgiref.sync import sync_to_async

        # Not asyncio.to_thread: in the triggerer of Airflow 3.1, a lookup of aws_conn_id finds the event loop through
        # asgiref alone, and from any other thread it breaks the triggerer's own messages.
        return await sync_to_async(self.get_connection, thread_sensitive=False)(conn_id)

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

    def _serve(self, mapped: MappedConnection, build: Callable[[dict[str, Any]], Any]) -> Any:  # noqa: ANN401
        """Return what is built of a connection's fields, or fail as ``on_error`` says.

        :raises ConnectionUnavailableError: there is no token for it, and ``on_error`` is ``"raise"``
        """
        outcome = self._built(mapped, build)
        if not isinstance(outcome, MintFailure):
            return outcome
        error = airflow_compat.denial(mapped.conn_id, outcome)
        # Airflow logs an exception at DEBUG, if at all: this line is what a user finds in the task's log.
        log(
            logger, logging.ERROR, "%s%s", error, "" if self._raises and airflow_compat.passes_denial_on() else _GOES_ON
        )
        if self._raises:  # raised here, where no local variable holds a token
            raise error
        return None

    def _built(self, mapped: MappedConnection, build: Callable[[dict[str, Any]], Any]) -> Any | MintFailure:  # noqa: ANN401
        try:
            login = self._logins.get(mapped)
        except MintError as error:
            metrics.report(mapped, "error", error.request_seconds, None)
            return error.failure
        metrics.report(mapped, login.source, login.request_seconds, login.token)
        host, _, port = login.host.partition(":")  # DockerHook joins them again, to the name that a pull looks up
        try:
            return build(
                {
                    "conn_type": "docker",
                    "host": host,
                    "port": int(port) if port else None,
                    "login": login.token.username,
                    "password": login.token.password,
                    "extra": mapped.extra,
                }
            )
        except Exception as error:  # noqa: BLE001 - whatever Airflow raises, its frames hold the token
            reason = "Airflow cannot build its Connection"
            return mapped.identity.failure(type(error).__name__, reason, _BUILD_FIX)

    def _aws_connection(self, aws_conn_id: str) -> AwsConnection:
        """Look up an AWS connection, as Airflow does in this process."""
        connection: AwsConnection = airflow_compat.look_up_connection(
            airflow_compat.connection_class(self), aws_conn_id
        )
        return connection
