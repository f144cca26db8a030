"""From a mapped connection to its login: whose token is requested in this process, and with which credentials."""

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
from ecr_secrets_backend.identity import AwsConnection, AwsIdentity
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.settings import MappedConnection
from ecr_secrets_backend.token import EcrToken

logger = logging.getLogger(__name__)

#: How soon a long-lived process notices that its credentials were replaced.
IDENTITY_SECONDS: Final = 10.0

_SOURCES: Final = {
    "process_hit": "a token from the process's memory",
    "host_hit": "a token from the host's cache",
    "mint": "a new token",
    "stale": "a token that is due for renewal",
}


class Login(NamedTuple):
    """A login for a registry, and how its lookup came by the token, as in ``cache.Served``."""

    host: str
    token: EcrToken
    source: Source
    request_seconds: float | None = None


class Logins:
    """Logins for mapped connections, for the backend and for the commands.

    :param look_up: returns the Airflow connection of an ID, and raises whatever Airflow raises
    """

    def __init__(self, cache: TokenCache, look_up: Callable[[str], AwsConnection]) -> None:
        self._cache = cache
        self._look_up = look_up
        self._requests: dict[str, _Request] = {}

    def get(self, mapped: MappedConnection) -> Login:
        """Return a connection's login, with a token that may be served.

        :raises TokenError: there is none
        """
        request = self._request(mapped)
        received = partial(_log_token, mapped, request.identity)
        token, source, seconds = self._cache.get(request.identity, request.request_token, received)
        if logger.isEnabledFor(logging.DEBUG):  # a line that is not logged would take half as long as all the rest
            message, left = "Connection %r: %s, valid for %.0f s more", token.expires_at - time.time()
            log(logger, logging.DEBUG, message, mapped.conn_id, _SOURCES[source], left)
        host = mapped.host or token.registry
        if host is None:
            fix = "Set the connection's registry and region_name in backend_kwargs."
            failure = request.identity.failure("UnusableAnswer", "the answer names no registry", fix)
            raise TokenError(failure, seconds)
        return Login(host, token, source, seconds)

    def _request(self, mapped: MappedConnection) -> _Request:
        """Return how a connection's token is requested; what decides that is read again every few seconds."""
        request = self._requests.get(mapped.conn_id)
        if request is None or time.monotonic() >= request.until:
            identity, connection = self.resolve(mapped)
            # A closure, because its repr, unlike the Airflow connection's, shows nothing.
            request = _Request(
                identity, lambda: aws.request_token(identity, connection), time.monotonic() + IDENTITY_SECONDS
            )
            self._requests[mapped.conn_id] = request
        return request

    def resolve(self, mapped: MappedConnection) -> tuple[AwsIdentity, AwsConnection | None]:
        """Return a connection's identity in this process, and the Airflow connection that holds its credentials.

        That connection is looked up before any lock is taken: in Airflow's triggerer, an event loop that waits for this
        lookup may be what answers.

        :raises TokenError: it cannot be looked up
        """
        identity, connection = mapped.identity, None
        if identity.aws_conn_id is None:
            return identity.in_environment(os.environ), None
        try:
            connection = self._look_up(identity.aws_conn_id)
            return identity.in_environment(os.environ, connection), connection
        except Exception as error:  # noqa: BLE001 - whatever Airflow raises, a lookup fails with our exception
            code, connection = type(error).__name__, None
        # Raised here, where no exception of Airflow's is its context and no local variable holds credentials.
        reason = "Airflow does not give that connection to this process"
        fix = f"Add an Airflow connection {identity.aws_conn_id!r} of type aws, or set aws_conn_id to one that exists."
        raise TokenError(identity.failure(code, reason, fix))


class _Request(NamedTuple):
    """How a connection's token is requested, and until when that is known, by ``time.monotonic()``."""

    identity: AwsIdentity
    request_token: Callable[[], EcrToken]
    until: float


def _log_token(mapped: MappedConnection, identity: AwsIdentity, token: EcrToken, seconds: float) -> None:
    message = "Received an ECR token for connection %r: registry %s, region %s, identity %s, valid until %s, in %.1f s"
    host, region = mapped.host or token.registry, identity.region or "of the AWS configuration"
    until = datetime.fromtimestamp(token.expires_at, timezone.utc).isoformat(timespec="seconds")
    log(logger, logging.INFO, message, mapped.conn_id, host, region, identity, until, seconds)
