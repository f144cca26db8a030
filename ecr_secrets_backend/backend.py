"""The backend that Airflow calls: which connections it serves, and what Airflow gets for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from airflow.secrets import BaseSecretsBackend

from ecr_secrets_backend import airflow_compat, metrics
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.errors import TokenError, TokenFailure
from ecr_secrets_backend.fallback import FallbackChain
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.logins import Logins
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.settings import MappedConnection, Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
_GOES_ON: Final = " Airflow may now use an older connection with that ID, from its environment or its database."
_BUILD_FIX: Final = "Check [core] fernet_key, and Airflow's own log, of this process: the token itself was received."


class EcrSecretsBackend(BaseSecretsBackend):
    """Serves Docker connections with live ECR tokens, and passes all other lookups on to the fallback backends, if any.

    ```ini
    [secrets]
    backend = ecr_secrets_backend.EcrSecretsBackend
    backend_kwargs = {"connections": {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}}
    ```

    Building one does no I/O, because Airflow builds it for many lookups. Processes may fork, threads may share one, and
    an event loop may call it.

    :param kwargs: the settings, as ``ecr_secrets_backend.settings.SETTINGS`` lists them
    :raises ConfigurationError: one of them is not valid
    """

    def __init__(self, /, **kwargs: object) -> None:
        super().__init__()
        settings = Settings.parse(kwargs)
        store = HostStore(settings.cache_dir) if settings.cache == "host" else None
        self.settings = settings  #: what the kwargs say
        self._connections = settings.connections
        self._cache = TokenCache(store, settings.refresh_before)
        self._logins = Logins(self._cache, partial(airflow_compat.look_up_connection, self))
        self._fallback = FallbackChain(settings.fallback_backends) if settings.fallback_backends else None
        with suppress(ImportError):
            airflow_compat.sends_metrics()  # now, because a task, which is a fork, would read it in its first lookup

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:  # noqa: ANN401 - of Airflow's choice
        """Return a mapped connection, or what the fallback backends have; None if there is none.

        :param team_name: for the fallback backends: a mapped connection is the same for all teams
        :raises ConnectionUnavailableError: there is no valid token for it, and ``on_error`` is ``"raise"``
        """
        mapped = self._connections.get(conn_id)
        if mapped is None:
            return self._fallback and self._fallback.look_up("get_connection", conn_id=conn_id, team_name=team_name)
        return self._serve(mapped, lambda fields: airflow_compat.connection_class(self)(conn_id=conn_id, **fields))

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Do as ``get_connection``, but return text: JSON with the password in it, or what a fallback backend has."""
        mapped = self._connections.get(conn_id)
        if mapped is None:
            return self._fallback and self._fallback.look_up("get_conn_value", conn_id=conn_id, team_name=team_name)
        return self._serve(mapped, json.dumps)

    async def aget_connection(self, conn_id: str) -> Any:  # noqa: ANN401 - of Airflow's choice
        """Do as ``get_connection``, and leave the event loop free meanwhile.

        Without it, Airflow from 3.1 on runs lookups one after the other, in a thread that other code in the loop needs.
        """
        from asgiref.sync import sync_to_async

        # Not asyncio.to_thread: in the triggerer of Airflow 3.1, a lookup of aws_conn_id finds the loop through asgiref
        # alone, and from any other thread it breaks the triggerer's own messages.
        return await sync_to_async(self.get_connection, thread_sensitive=False)(conn_id)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return what the fallback backends have; None if none has it. The inherited method would log an error."""
        return self._fallback and self._fallback.look_up("get_variable", key=key, team_name=team_name)

    def get_config(self, key: str) -> str | None:
        """Return what the fallback backends have for a ``*_secret`` option of Airflow's configuration, or None."""
        return self._fallback and self._fallback.look_up("get_config", key=key)

    def _set_connection_class(self, conn_class: type) -> None:
        """Take the class of Connection that Airflow wants, which it passes from 3.2 on."""
        super()._set_connection_class(conn_class)
        if self._fallback is not None:
            self._fallback.set_connection_class(conn_class)

    def _serve(self, mapped: MappedConnection, build: Callable[[dict[str, Any]], T]) -> T | None:
        """Return what is built of a connection's fields. If that fails, raise or return None, as ``on_error`` says."""
        outcome = self._built(mapped, build)
        if not isinstance(outcome, TokenFailure):
            return outcome
        error = airflow_compat.denial(mapped.conn_id, outcome)
        raises = self.settings.on_error == "raise"
        # Airflow logs an exception at DEBUG, if at all: this line is what a user finds in the task's log.
        log(logger, logging.ERROR, "%s%s", error, "" if raises and airflow_compat.passes_denial_on() else _GOES_ON)
        if raises:  # raised here, where no local variable holds a token
            raise error
        return None

    def _built(self, mapped: MappedConnection, build: Callable[[dict[str, Any]], T]) -> T | TokenFailure:
        try:
            login = self._logins.get(mapped)
        except TokenError as error:
            metrics.report(mapped, "error", error.request_seconds, None)
            return error.failure
        metrics.report(mapped, login.source, login.request_seconds, login.token)
        host, _, port = login.host.partition(":")  # DockerHook joins them again, to the name that a pull looks up
        fields = {
            "conn_type": "docker",
            "host": host,
            "port": int(port) if port else None,
            "login": login.token.username,
            "password": login.token.password,
            "extra": mapped.extra,
        }
        try:
            return build(fields)
        except Exception as error:  # noqa: BLE001 - whatever Airflow raises, its frames hold the token
            return mapped.identity.failure(type(error).__name__, "Airflow cannot build its Connection", _BUILD_FIX)
