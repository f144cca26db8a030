"""The login of a mapped connection: resolve its AWS identity in this process, and get its token from the cache."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Final, NamedTuple

from ecr_secrets_backend import aws
from ecr_secrets_backend.cache import Source, TokenCache
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsConnection, AwsIdentity
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.settings import MappedConnection, Settings
from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

#: A running process notices replaced credentials after this time.
IDENTITY_SECONDS: Final = 10.0

_SOURCES: Final = {
    "process_hit": "a token from the process's memory",
    "host_hit": "a token from the host's cache",
    "mint": "a new token",
    "stale": "a token that is due for renewal",
}


class Login(NamedTuple):
    """A login for a registry. ``source`` and ``request_seconds`` are those of ``cache.Served``."""

    host: str
    token: EcrToken
    source: Source
    request_seconds: float | None = None


class Logins:
    """Logins for mapped connections, for the backend and for the commands.

    :param look_up: returns the Airflow connection of an ID; raises the exceptions of Airflow
    :ivar store: the host's cache; None: each process has its own cache
    """

    def __init__(self, settings: Settings, look_up: Callable[[str], AwsConnection]) -> None:
        self.store = HostStore(settings.cache_dir) if settings.cache == "host" else None
        self._cache = TokenCache(self.store, settings.refresh_before)
        self._look_up = look_up
        self._resolved: dict[str, _Resolved] = {}

    def get(self, connection: MappedConnection) -> Login:
        """Return the login of a connection, with a token that may be served.

        :raises TokenError: no token can be served, or AWS's answer does not name the registry of the connection
        """
        resolved = self._resolved.get(connection.conn_id)
        if resolved is None or time.monotonic() >= resolved.expires_at:
            resolved = self._resolved[connection.conn_id] = _Resolved.of(*self.resolve(connection))
        identity = resolved.identity
        on_token = partial(_log_token, connection, identity)
        token, source, seconds = self._cache.get(identity, resolved.request_token, on_token)
        if logger.isEnabledFor(logging.DEBUG):  # without this check, the line would take a third of a lookup's time
            message, left = "Connection %r: %s, valid for %.0f s more", token.expires_at - time.time()
            log(logger, logging.DEBUG, message, connection.conn_id, _SOURCES[source], left)
        host = connection.host or token.registry
        if host is None:
            fix = "Set the connection's registry and region_name in backend_kwargs."
            raise TokenError(identity.failure("UnusableAnswer", "the answer names no registry", fix), seconds)
        return Login(host, token, source, seconds)

    def resolve(self, connection: MappedConnection) -> tuple[AwsIdentity, AwsConnection | None]:
        """Return the identity of a connection in this process, and the Airflow connection that holds its credentials.

        The caller must have no lock: in the triggerer, the event loop that answers the lookup of the Airflow connection
        may be waiting for this one.

        :raises TokenError: the Airflow connection cannot be looked up
        """
        identity = connection.identity
        if identity.aws_conn_id is None:
            return identity.in_environment(os.environ), None
        try:
            aws_connection = self._look_up(identity.aws_conn_id)
            return identity.in_environment(os.environ, aws_connection), aws_connection
        except Exception as error:  # noqa: BLE001 - Airflow may raise any exception, and a lookup raises TokenError
            code, aws_connection = type(error).__name__, None
        # Raised outside the except block, so that its context and the local variables have no credentials.
        reason = "this process cannot look up the Airflow connection"
        fix = f"Add an Airflow connection {identity.aws_conn_id!r} of type aws, or set aws_conn_id to one that exists."
        raise TokenError(identity.failure(code, reason, fix))


class _Resolved(NamedTuple):
    """The identity of a connection in this process, valid until ``time.monotonic()`` reaches ``expires_at``."""

    identity: AwsIdentity
    request_token: Callable[[], EcrToken]
    expires_at: float

    @classmethod
    def of(cls, identity: AwsIdentity, aws_connection: AwsConnection | None) -> _Resolved:
        # In a closure, because the repr of an Airflow connection shows its password.
        return cls(identity, lambda: aws.request_token(identity, aws_connection), time.monotonic() + IDENTITY_SECONDS)


def _log_token(connection: MappedConnection, identity: AwsIdentity, token: EcrToken, seconds: float) -> None:
    message = "Received an ECR token for connection %r: registry %s, region %s, identity %s, valid until %s, in %.1f s"
    host, region = connection.host or token.registry, identity.region or "from the AWS configuration"
    until = datetime.fromtimestamp(token.expires_at, timezone.utc).isoformat(timespec="seconds")
    log(logger, logging.INFO, message, connection.conn_id, host, region, identity, until, seconds)
